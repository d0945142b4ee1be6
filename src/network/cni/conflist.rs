//! Reads a CNI conflist, whole, and says everything that is wrong with it at once.
//!
//! A bridge with host-local addresses is carried out by this daemon, so each of its keys is either
//! obeyed or refused. `portmap` and `firewall` are taken as given: no function publishes a port of the
//! host, and the isolation that [`super::rules`] describes is always on. `loopback` is always up. Every
//! other type belongs to a plugin's program, which gets its part of the file as it is.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde_json::{Map, Value};

use super::keys::{self, Keys};
use super::plugin::Plugin;
use crate::network::NetworkError;

/// The subnet of a bridge whose conflist names none.
const DEFAULT_SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 62, 0, 0), 16);
/// The bridge's name unless the conflist has another.
const DEFAULT_BRIDGE: &str = "ingle0";
/// The longest name of a link in Linux.
const MAX_LINK_NAME: usize = 15;
/// Versions of the specification whose results this daemon writes and reads.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A conflist, checked.
#[derive(Debug, Clone)]
pub(super) struct Conflist {
    /// The file, for messages.
    pub(super) path: PathBuf,
    /// The network's name in the file.
    pub(super) name: String,
    /// The version of the specification that plugins are spoken to in.
    pub(super) version: String,
    /// What makes the interface.
    pub(super) main: Main,
    /// What runs after it, in this order.
    pub(super) chained: Vec<Plugin>,
    /// The addresses.
    pub(super) range: Range,
}

/// What makes a replica's interface.
#[derive(Debug, Clone)]
pub(super) enum Main {
    /// A bridge, by this daemon.
    Bridge(Bridge),
    /// A plugin's program, which also chooses the address.
    Plugin(Plugin),
}

/// A bridge as the conflist wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) name: String,
    pub(super) masquerade: bool,
    /// `None`: that of the device which the host's default route uses.
    pub(super) mtu: Option<u32>,
    pub(super) hairpin: bool,
    pub(super) routes: Vec<Route>,
}

/// A route inside a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Ipv4Net,
    pub(super) via: Ipv4Addr,
}

/// The addresses that replicas get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) subnet: Ipv4Net,
    pub(super) first: Ipv4Addr,
    pub(super) last: Ipv4Addr,
    pub(super) gateway: Ipv4Addr,
}

impl Conflist {
    /// Reads and checks the file. Programs of plugins are looked for in `plugin_dir`.
    pub(super) fn load(path: &Path, plugin_dir: &Path) -> Result<Self, NetworkError> {
        let refuse = |reason: String| NetworkError::Config { path: path.to_owned(), reason };
        let text = fs::read_to_string(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let json = serde_json::from_str(&text).map_err(|error| refuse(format!("is not JSON: {error}")))?;
        let mut mistakes = Vec::new();
        match read(path, json, plugin_dir, &mut mistakes) {
            Some(conflist) if mistakes.is_empty() => Ok(conflist),
            _ => Err(refuse(mistakes.join("; "))),
        }
    }

    /// The word that marks everything of this network on the machine: its nftables table, and the
    /// beginning of the names of its namespaces. It always begins with `ingle`, so that a network
    /// called `filter` does not take the place of the table of that name.
    pub(super) fn tag(&self) -> String {
        if self.name.starts_with("ingle") { self.name.clone() } else { format!("ingle-{}", self.name) }
    }

    /// The bridge, unless a plugin makes the interface.
    pub(super) fn bridge(&self) -> Option<&Bridge> {
        match &self.main {
            Main::Bridge(bridge) => Some(bridge),
            Main::Plugin(_) => None,
        }
    }

    /// Every plugin that is a program, in the order of the file.
    pub(super) fn plugins(&self) -> impl DoubleEndedIterator<Item = &Plugin> {
        let main = match &self.main {
            Main::Bridge(_) => None,
            Main::Plugin(plugin) => Some(plugin),
        };
        main.into_iter().chain(&self.chained)
    }
}

fn read(path: &Path, json: Value, plugin_dir: &Path, mistakes: &mut Vec<String>) -> Option<Conflist> {
    let mut keys = Keys::new("", json, mistakes);
    let name = keys.take("name", network_name);
    let version = keys.take("cniVersion", version);
    for key in ["cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"] {
        keys.take_value(key);
    }
    let plugins = keys.take("plugins", |value| {
        keys::list(value)
            .and_then(|list| if list.is_empty() { Err("and names none".into()) } else { Ok(list) })
    });
    for (key, found) in
        [("name", name.is_some()), ("cniVersion", version.is_some()), ("plugins", plugins.is_some())]
    {
        if !found && keys.mistakes().is_empty() {
            keys.mistake(key, "is missing");
        }
    }
    keys.refuse_rest("cniVersion, name and plugins");

    let mut main: Option<(Main, Option<Range>)> = None;
    let mut chained = Vec::new();
    for (index, value) in plugins?.into_iter().enumerate() {
        let Some(kind) = value.get("type").and_then(Value::as_str).map(str::to_owned) else {
            mistakes.push(format!("plugins[{index}]: type is missing or not a text"));
            continue;
        };
        let place = format!("plugins[{index}] ({kind})");
        match (kind.as_str(), &main) {
            ("loopback", _) | ("portmap" | "firewall", Some(_)) => {}
            ("portmap" | "firewall", None) => {
                mistakes.push(format!("{place} makes no interface; put bridge before it"));
            }
            ("host-local" | "static" | "dhcp", _) => {
                mistakes.push(format!("{place} gives addresses; it belongs under ipam of the first plugin"));
            }
            ("bridge", None) => {
                let (bridge, range) = read_bridge(&place, value, mistakes);
                main = Some((Main::Bridge(bridge), range));
            }
            ("bridge", Some(_)) => {
                mistakes.push(format!("{place} is not the first plugin; a replica has one interface"));
            }
            (_, None) => {
                let ipam = value.get("ipam").cloned().unwrap_or_default();
                let range = read_ipam(&place, ipam, false, mistakes).map(|(range, _)| range);
                let plugin = read_plugin(&place, &kind, value, plugin_dir, mistakes);
                main = plugin.map(|plugin| (Main::Plugin(plugin), range));
            }
            (_, Some(_)) => chained.extend(read_plugin(&place, &kind, value, plugin_dir, mistakes)),
        }
    }
    match main {
        Some((main, Some(range))) => {
            Some(Conflist { path: path.to_owned(), name: name?, version: version?, main, chained, range })
        }
        Some((_, None)) => None,
        None => {
            if mistakes.is_empty() {
                mistakes.push("plugins: none of them makes an interface; begin with bridge".into());
            }
            None
        }
    }
}

fn network_name(value: &Value) -> Result<String, String> {
    let name = keys::text(value)?;
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if good && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 40 {
        Ok(name)
    } else {
        Err("not a letter followed by letters, digits, '-' and '_', 40 at most".into())
    }
}

fn version(value: &Value) -> Result<String, String> {
    keys::text(value).and_then(|version| {
        if VERSIONS.contains(&version.as_str()) {
            Ok(version)
        } else {
            Err(format!("not one of {}", VERSIONS.join(", ")))
        }
    })
}

fn link_name(value: &Value) -> Result<String, String> {
    let name = keys::text(value)?;
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

fn read_bridge(place: &str, value: Value, mistakes: &mut Vec<String>) -> (Bridge, Option<Range>) {
    let mut keys = Keys::new(place, value, mistakes);
    for key in ["type", "capabilities"] {
        keys.take_value(key);
    }
    let name = keys.take("bridge", link_name).unwrap_or_else(|| DEFAULT_BRIDGE.into());
    let is_gateway = keys.take("isGateway", keys::boolean);
    let default_gateway = keys.take("isDefaultGateway", keys::boolean).unwrap_or(false);
    if is_gateway == Some(false) || (is_gateway.is_none() && !default_gateway) {
        keys.mistake("isGateway", "must be true: it is over this address that functions are called");
    }
    let masquerade = keys.take("ipMasq", keys::boolean).unwrap_or(false);
    let mtu = keys.take("mtu", mtu).flatten();
    let hairpin = keys.take("hairpinMode", keys::boolean).unwrap_or(false);
    let ipam = keys.take_value("ipam").unwrap_or_default();
    keys.refuse_rest("bridge, isGateway, isDefaultGateway, ipMasq, mtu, hairpinMode and ipam");

    let ipam = read_ipam(place, ipam, true, mistakes);
    let (range, mut routes) = ipam.map_or((None, Vec::new()), |(range, routes)| (Some(range), routes));
    if let Some(range) = range.filter(|_| default_gateway && !routes.iter().any(|r| r.to.prefix_len() == 0)) {
        routes.push(Route { to: Ipv4Net::default(), via: range.gateway });
    }
    (Bridge { name, masquerade, mtu, hairpin, routes }, range)
}

/// Reads `ipam`. Only what this daemon carries out itself is read strictly.
fn read_ipam(
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
    for (index, route) in keys.take("routes", keys::list).unwrap_or_default().into_iter().enumerate() {
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
    let subnet = keys.take("subnet", keys::subnet).unwrap_or(DEFAULT_SUBNET);
    if !(8..=29).contains(&subnet.prefix_len()) {
        keys.mistake("subnet", format_args!("is {subnet}; give it a prefix from /8 to /29"));
        return None;
    }
    let lowest = Ipv4Addr::from_bits(subnet.network().to_bits() + 1);
    let highest = Ipv4Addr::from_bits(subnet.broadcast().to_bits() - 1);
    let inside = |value: &Value| {
        let address = keys::address(value)?;
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
    let to = keys.take("dst", keys::subnet);
    if to.is_none() && keys.mistakes().len() == before {
        keys.mistake("dst", "is missing");
    }
    let via = keys.take("gw", |value| {
        let via = keys::address(value)?;
        match range {
            Some(range) if !range.subnet.contains(&via) => Err(format!("which is not in {}", range.subnet)),
            _ => Ok(via),
        }
    });
    Some(Route { to: to?, via: via.or_else(|| range.map(|range| range.gateway))? })
}

fn read_plugin(
    place: &str,
    kind: &str,
    value: Value,
    plugin_dir: &Path,
    mistakes: &mut Vec<String>,
) -> Option<Plugin> {
    let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if kind.starts_with('.') || !kind.chars().all(named) {
        mistakes.push(format!("{place}: type is not the name of a program"));
        return None;
    }
    let program = plugin_dir.join(kind);
    if !program.is_file() {
        mistakes.push(format!(
            "{place}: type needs the program {}, which is not there; install containernetworking-plugins or \
             set network.plugin_dir",
            program.display()
        ));
        return None;
    }
    let config: Map<String, Value> = match value {
        Value::Object(config) => config,
        // `type` was read from it.
        other => unreachable!("{other} has a type and is no object"),
    };
    Some(Plugin { kind: kind.to_owned(), program, config })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../cni/10-ingle.conflist");

    fn load(text: &str) -> Result<Conflist, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("10-test.conflist");
        fs::write(&path, text).unwrap();
        fs::write(directory.path().join("tuning"), "").unwrap();
        Conflist::load(&path, directory.path()).map_err(|error| {
            let text = error.to_string();
            assert!(text.contains("10-test.conflist"), "{text} does not name the file");
            text
        })
    }

    fn plugins(text: &str) -> Result<Conflist, String> {
        load(&format!(r#"{{"cniVersion": "1.0.0", "name": "net", "plugins": [{text}]}}"#))
    }

    #[test]
    fn the_shipped_file_is_what_the_documents_say() {
        let conflist = load(SHIPPED).unwrap();
        assert_eq!(conflist.tag(), "ingle");
        assert_eq!(conflist.range.subnet, DEFAULT_SUBNET);
        assert_eq!(conflist.range.gateway, Ipv4Addr::new(10, 62, 0, 1));
        let default = Route { to: Ipv4Net::default(), via: conflist.range.gateway };
        assert_eq!(
            conflist.bridge(),
            Some(&Bridge {
                name: DEFAULT_BRIDGE.into(),
                masquerade: true,
                mtu: None,
                hairpin: false,
                routes: vec![default],
            })
        );
        assert!(conflist.chained.is_empty());
    }

    #[test]
    fn every_key_of_a_bridge_is_obeyed() {
        let conflist = plugins(
            r#"{"type": "bridge", "bridge": "fn0", "isGateway": true, "ipMasq": false, "mtu": 1400, "hairpinMode": true,
                "ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10",
                "rangeEnd": "10.1.2.20", "gateway": "10.1.2.254", "dataDir": "/x",
                "routes": [{"dst": "192.168.0.0/16"}, {"dst": "172.16.0.0/12", "gw": "10.1.2.3"}]}},
               {"type": "loopback"}, {"type": "portmap"}, {"type": "tuning", "any": "key"}"#,
        )
        .unwrap();
        let ip = |n| Ipv4Addr::new(10, 1, 2, n);
        let range =
            Range { subnet: "10.1.2.0/24".parse().unwrap(), first: ip(10), last: ip(20), gateway: ip(254) };
        assert_eq!(conflist.range, range);
        let bridge = conflist.bridge().unwrap();
        assert_eq!((bridge.mtu, bridge.hairpin, bridge.masquerade), (Some(1400), true, false));
        let routes = [("192.168.0.0/16", ip(254)), ("172.16.0.0/12", ip(3))]
            .map(|(to, via)| Route { to: to.parse().unwrap(), via });
        assert_eq!(bridge.routes, routes);
        assert_eq!(conflist.plugins().map(|p| p.kind.as_str()).collect::<Vec<_>>(), ["tuning"]);
    }

    #[test]
    fn a_network_never_takes_the_name_of_somebody_elses_table() {
        let named = |name: &str| load(&SHIPPED.replace("\"ingle\"", &format!("{name:?}"))).map(|c| c.tag());
        assert_eq!(named("filter").as_deref(), Ok("ingle-filter"));
        assert_eq!(named("ingle-2").as_deref(), Ok("ingle-2"));
        assert!(named("a.b").is_err());
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        const IPAM: &str = r#""ipam": {"type": "host-local"}"#;
        let bridge = |keys: &str| plugins(&format!(r#"{{"type": "bridge", "isGateway": true, {keys}}}"#));
        for (outcome, part) in [
            (load("{"), "is not JSON: EOF"),
            (load("[]"), "is [], not an object"),
            (load("{}"), "name is missing"),
            (load(&SHIPPED.replace("1.0.0", "0.1.0")), "cniVersion is \"0.1.0\", not one of 0.3.0"),
            (load(&SHIPPED.replace("plugins", "plugin")), "plugin is not supported here"),
            (plugins(""), "plugins is [], and names none"),
            (plugins("7"), "plugins[0]: type is missing"),
            (plugins(r#"{"type": "firewall"}"#), "plugins[0] (firewall) makes no interface"),
            (plugins(r#"{"type": "loopback"}"#), "none of them makes an interface"),
            (plugins(r#"{"type": "host-local"}"#), "belongs under ipam"),
            (plugins(r#"{"type": "../bad", "ipam": {"type": "host-local"}}"#), "not the name of a program"),
            (
                plugins(r#"{"type": "macvlan", "ipam": {"type": "host-local"}}"#),
                "macvlan, which is not there",
            ),
            (plugins(r#"{"type": "macvlan"}"#), "plugins[0] (macvlan): ipam is missing"),
            (
                bridge(r#""mtu": "big", "ipam": {"type": "host-local"}"#),
                "plugins[0] (bridge): mtu is \"big\"",
            ),
            (bridge(&format!(r#""vlan": 7, {IPAM}"#)), "plugins[0] (bridge): vlan is not supported here"),
            (bridge(&format!(r#""bridge": "a/b", {IPAM}"#)), "bridge is \"a/b\", not a link's name"),
            (bridge(&format!(r#""bridge": "sixteen-letters-", {IPAM}"#)), "not a link's name"),
            (bridge(r#""ipMasq": true"#), "plugins[0] (bridge): ipam is missing"),
            (bridge(r#""ipam": {}"#), "ipam: type is missing"),
            (bridge(r#""ipam": {"type": "dhcp"}"#), "only host-local is supported"),
            (
                bridge(r#""ipam": {"type": "host-local", "subnet": "10.1.2.3/24"}"#),
                "subnet is \"10.1.2.3/24\", but that network is 10.1.2.0/24",
            ),
            (bridge(r#""ipam": {"type": "host-local", "subnet": "fd00::/64"}"#), "not an IPv4 network"),
            (bridge(r#""ipam": {"type": "host-local", "subnet": "10.0.0.0/31"}"#), "from /8 to /29"),
            (bridge(r#""ipam": {"type": "host-local", "ranges": []}"#), "not one set of one range"),
            (
                bridge(
                    r#""ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24", "gateway": "10.1.3.1"}]]}"#,
                ),
                "ipam: ranges[0][0]: gateway is \"10.1.3.1\", which is not from 10.1.2.1 to 10.1.2.254",
            ),
            (
                bridge(
                    r#""ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.8"}"#,
                ),
                "that leaves no address",
            ),
            (bridge(r#""ipam": {"type": "host-local", "routes": [{}]}"#), "routes[0]: dst is missing"),
            (
                bridge(
                    r#""ipam": {"type": "host-local", "routes": [{"dst": "1.2.3.0/24", "gw": "9.9.9.9"}]}"#,
                ),
                "routes[0]: gw is \"9.9.9.9\", which is not in 10.62.0.0/16",
            ),
        ] {
            let error = outcome.expect_err(part);
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        let no_gateway = plugins(r#"{"type": "bridge", "ipam": {"type": "host-local"}}"#);
        assert!(no_gateway.unwrap_err().contains("isGateway must be true"));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let error = plugins(
            r#"{"type": "bridge", "isGateway": 1, "mtu": 1, "ipam": {"type": "host-local", "subnet": "x"}},
               {"type": "gone"}"#,
        );
        let error = error.unwrap_err();
        assert_eq!(error.matches("plugins[").count(), 5, "{error}");
    }
}
