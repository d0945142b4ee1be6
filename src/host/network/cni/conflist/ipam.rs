//! Reads the part of a conflist that says which addresses replicas get.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::network::cni::json::{self, Keys};

/// The subnet of a conflist that names none.
pub(super) const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 62, 0, 0), 16);

/// A route inside a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network::cni) struct Route {
    pub(in crate::network::cni) to: Ipv4Net,
    pub(in crate::network::cni) via: Ipv4Addr,
}

/// The addresses that replicas get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network::cni) struct Range {
    pub(in crate::network::cni) subnet: Ipv4Net,
    pub(in crate::network::cni) first: Ipv4Addr,
    pub(in crate::network::cni) last: Ipv4Addr,
    pub(in crate::network::cni) gateway: Ipv4Addr,
}

/// Reads `ipam`. Only what this daemon carries out itself is read strictly.
pub(super) fn read_ipam(
    place: &str,
    value: Value,
    strict: bool,
    mistakes: &mut Vec<String>,
) -> Option<(Range, Vec<Route>)> {
    let place = format!("{place}: ipam");
    if value.is_null() {
        mistakes.push(format!("{place} is missing; write {{\"type\": \"host-local\"}}"));
        return None;
    }
    let before = mistakes.len();
    let mut keys = Keys::new(&place, value, mistakes);
    // Addresses in use are kept in the daemon's store, so `dataDir` is only for the plugin's program.
    keys.take_value("dataDir");
    let host_local = keys.take("type", |value| match value.as_str() {
        Some("host-local") => Ok(()),
        _ => Err("and only host-local is supported".into()),
    });
    if host_local.is_none() && keys.mistakes().len() == before {
        keys.mistake("type", "is missing; write host-local");
    }
    let ranges = keys.take("ranges", |value| match value.as_array().map(Vec::as_slice) {
        Some([Value::Array(set)]) if set.len() == 1 => Ok(set[0].clone()),
        _ => Err("not one set of one range, as in [[{\"subnet\": \"10.62.0.0/16\"}]]".into()),
    });
    let range = match ranges {
        Some(inner) => {
            let place = format!("{place}: ranges[0][0]");
            let mut inner = Keys::new(place, inner, keys.mistakes());
            let range = read_range(&mut inner);
            inner.refuse_rest("subnet, rangeStart, rangeEnd and gateway");
            range
        }
        None => read_range(&mut keys),
    };
    let mut routes = Vec::new();
    for (index, route) in keys.take("routes", json::list).unwrap_or_default().into_iter().enumerate() {
        let place = format!("{place}: routes[{index}]");
        let mut inner = Keys::new(place, route, keys.mistakes());
        routes.extend(read_route(&mut inner, range.as_ref()));
        if strict {
            inner.refuse_rest("dst and gw");
        }
    }
    if strict {
        keys.refuse_rest("type, subnet, rangeStart, rangeEnd, gateway, ranges and routes");
    }
    if mistakes.len() == before { range.map(|range| (range, routes)) } else { None }
}

fn read_range(keys: &mut Keys<'_>) -> Option<Range> {
    let before = keys.mistakes().len();
    let subnet = keys.take("subnet", json::subnet).unwrap_or(DEFAULT_SUBNET);
    if !(8..=29).contains(&subnet.prefix_len()) {
        keys.mistake("subnet", format_args!("is {subnet}; give it a prefix from /8 to /29"));
        return None;
    }
    let lowest = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
    let highest = Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1);
    let inside = |value: &Value| {
        let address = json::address(value)?;
        if (lowest..=highest).contains(&address) {
            Ok(address)
        } else {
            Err(format!("which is not from {lowest} to {highest}, the hosts of {subnet}"))
        }
    };
    let gateway = keys.take("gateway", inside).unwrap_or(lowest);
    let first = keys.take("rangeStart", inside).unwrap_or(lowest);
    let last = keys.take("rangeEnd", inside).unwrap_or(highest);
    if first > last || (first == last && first == gateway) {
        keys.mistake("rangeStart", format_args!("is {first} and rangeEnd is {last}: that leaves no address"));
    }
    (keys.mistakes().len() == before).then_some(Range { subnet, first, last, gateway })
}

fn read_route(keys: &mut Keys<'_>, range: Option<&Range>) -> Option<Route> {
    let before = keys.mistakes().len();
    let to = keys.take("dst", json::subnet);
    if to.is_none() && keys.mistakes().len() == before {
        keys.mistake("dst", "is missing");
    }
    let via = keys.take("gw", |value| {
        let via = json::address(value)?;
        match range {
            Some(range) if !range.subnet.contains(&via) => Err(format!("which is not in {}", range.subnet)),
            _ => Ok(via),
        }
    });
    Some(Route { to: to?, via: via.or_else(|| range.map(|range| range.gateway))? })
}
