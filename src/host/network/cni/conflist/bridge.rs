//! Reads the part of a conflist that describes a bridge.

use ipnet::Ipv4Net;
use serde_json::Value;

use super::ipam::{Range, Route, read_ipam};
use crate::network::cni::json::{self, Keys};

/// The bridge's name unless the conflist has another.
pub(super) const DEFAULT_BRIDGE: &str = "ingle0";
/// The longest name of a link in Linux.
const MAX_LINK_NAME: usize = 15;

/// A bridge as the conflist wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network::cni) struct Bridge {
    pub(in crate::network::cni) name: String,
    pub(in crate::network::cni) masquerade: bool,
    /// `None`: that of the device which the host's default route uses.
    pub(in crate::network::cni) mtu: Option<u32>,
    pub(in crate::network::cni) hairpin: bool,
    pub(in crate::network::cni) routes: Vec<Route>,
}

fn link_name(value: &Value) -> Result<String, String> {
    let name = json::text(value)?;
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if good && name.len() <= MAX_LINK_NAME && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(name)
    } else {
        Err(format!("not a link's name: {MAX_LINK_NAME} letters, digits, '-', '_' and '.' at most"))
    }
}

fn mtu(value: &Value) -> Result<Option<u32>, String> {
    match value.as_u64().map(u32::try_from) {
        // As for the plugin: 0 is the same as leaving it out.
        Some(Ok(0)) => Ok(None),
        Some(Ok(mtu)) if (576..=65535).contains(&mtu) => Ok(Some(mtu)),
        _ => Err("not a number from 576 to 65535".into()),
    }
}

pub(super) fn read_bridge(place: &str, value: Value, mistakes: &mut Vec<String>) -> (Bridge, Option<Range>) {
    let mut keys = Keys::new(place, value, mistakes);
    for key in ["type", "capabilities"] {
        keys.take_value(key);
    }
    let name = keys.take("bridge", link_name).unwrap_or_else(|| DEFAULT_BRIDGE.into());
    let is_gateway = keys.take("isGateway", json::boolean);
    let default_gateway = keys.take("isDefaultGateway", json::boolean).unwrap_or(false);
    if is_gateway == Some(false) || (is_gateway.is_none() && !default_gateway) {
        keys.mistake("isGateway", "must be true: it is over this address that functions are called");
    }
    let masquerade = keys.take("ipMasq", json::boolean).unwrap_or(false);
    let mtu = keys.take("mtu", mtu).flatten();
    let hairpin = keys.take("hairpinMode", json::boolean).unwrap_or(false);
    let ipam = keys.take_value("ipam").unwrap_or_default();
    keys.refuse_rest("bridge, isGateway, isDefaultGateway, ipMasq, mtu, hairpinMode and ipam");

    let ipam = read_ipam(place, ipam, true, mistakes);
    let (range, mut routes) = ipam.map_or((None, Vec::new()), |(range, routes)| (Some(range), routes));
    if let Some(range) = range.filter(|_| default_gateway && !routes.iter().any(|r| r.to.prefix_len() == 0)) {
        routes.push(Route { to: Ipv4Net::default(), via: range.gateway });
    }
    (Bridge { name, masquerade, mtu, hairpin, routes }, range)
}
