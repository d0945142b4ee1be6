//! Reads a CNI conflist, whole, and says everything that is wrong with it at once.
//!
//! A bridge with host-local addresses is carried out by this daemon, so each of its keys is either
//! obeyed or refused. `portmap` and `firewall` are taken as given: no function publishes a port of the
//! host, and the isolation that [`super::rules`] describes is always on. `loopback` is always up. Every
//! other type belongs to a plugin's program, which gets its part of the file as it is.

mod bridge;
mod ipam;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub(super) use self::bridge::Bridge;
use self::bridge::read_bridge;
pub(super) use self::ipam::Range;
use self::ipam::read_ipam;
use super::json::{self, Keys};
use super::plugin::Plugin;
use crate::network::NetworkError;

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
        json::list(value)
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
    let name = json::text(value)?;
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if good && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 40 {
        Ok(name)
    } else {
        Err("not a letter followed by letters, digits, '-' and '_', 40 at most".into())
    }
}

fn version(value: &Value) -> Result<String, String> {
    json::text(value).and_then(|version| {
        if VERSIONS.contains(&version.as_str()) {
            Ok(version)
        } else {
            Err(format!("not one of {}", VERSIONS.join(", ")))
        }
    })
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
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;

    use super::bridge::DEFAULT_BRIDGE;
    use super::ipam::{DEFAULT_SUBNET, Route};
    use super::*;

    const SHIPPED: &str = include_str!("../../../../../cni/10-ingle.conflist");

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
        const MACVLAN: &str = r#"{"type": "macvlan", "ipam": {"type": "host-local"}}"#;
        let bridge = |keys: &str| plugins(&format!(r#"{{"type": "bridge", "isGateway": true, {keys}}}"#));
        let ipam = |keys: &str| bridge(&format!(r#""ipam": {{"type": "host-local", {keys}}}"#));
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
            (plugins(MACVLAN), "macvlan, which is not there"),
            (plugins(r#"{"type": "macvlan"}"#), "plugins[0] (macvlan): ipam is missing"),
            (bridge(&format!(r#""mtu": "big", {IPAM}"#)), "plugins[0] (bridge): mtu is \"big\""),
            (bridge(&format!(r#""vlan": 7, {IPAM}"#)), "plugins[0] (bridge): vlan is not supported here"),
            (bridge(&format!(r#""bridge": "a/b", {IPAM}"#)), "bridge is \"a/b\", not a link's name"),
            (bridge(&format!(r#""bridge": "sixteen-letters-", {IPAM}"#)), "not a link's name"),
            (bridge(r#""ipMasq": true"#), "plugins[0] (bridge): ipam is missing"),
            (bridge(r#""ipam": {}"#), "ipam: type is missing"),
            (bridge(r#""ipam": {"type": "dhcp"}"#), "only host-local is supported"),
            (
                ipam(r#""subnet": "10.1.2.3/24""#),
                "subnet is \"10.1.2.3/24\", but that network is 10.1.2.0/24",
            ),
            (ipam(r#""subnet": "fd00::/64""#), "not an IPv4 network"),
            (ipam(r#""subnet": "10.0.0.0/31""#), "from /8 to /29"),
            (ipam(r#""ranges": []"#), "not one set of one range"),
            (
                ipam(r#""ranges": [[{"subnet": "10.1.2.0/24", "gateway": "10.1.3.1"}]]"#),
                "ipam: ranges[0][0]: gateway is \"10.1.3.1\", which is not from 10.1.2.1 to 10.1.2.254",
            ),
            (
                ipam(r#""subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.8""#),
                "that leaves no address",
            ),
            (ipam(r#""routes": [{}]"#), "routes[0]: dst is missing"),
            (
                ipam(r#""routes": [{"dst": "1.2.3.0/24", "gw": "9.9.9.9"}]"#),
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
