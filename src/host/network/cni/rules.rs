//! The nftables rules that hold for all replicas.
//!
//! One table of our own, loaded as a whole. It exists twice, so that there is no moment without it
//! ([`super::guard`] says how). Rules of others (Docker, ufw, firewalld) are not touched: a packet
//! must pass their chains too, because in nftables a drop anywhere is final and an accept ends one chain
//! only. [`super::host_firewall`] says what that means.
//!
//! What a replica may reach
//! - the gateway's port on the bridge address, and the resolvers it was given, on port 53;
//! - what `network.allow` lists, on this host or elsewhere;
//! - every public IPv4 address that is not one of this host's own.
//!
//! Never, whatever `network.allow` says: another replica. Connections that the host opened to a replica
//! are answered; nobody else can open one. What is not allowed is refused at once rather than left to
//! time out, so that a function's author sees the reason.
//!
//! A packet with a source outside of the subnet is dropped. One with the address of another replica is
//! not told apart here: sending it takes a capability that no function has unless the operator adds it,
//! and the answer goes to the owner of the address, whose neighbour on the host is fixed
//! ([`super::netlink::Netlink::set_neighbour`]).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::conflist::Range;
use crate::exec;
use crate::network::NetworkError;

/// Networks that are not public, so closed unless they are allowed.
const CLOSED: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Also where clouds hand the machine's credentials to whoever asks, at 169.254.169.254…
    "169.254.0.0/16",
    "172.16.0.0/12",
    // …at 192.0.0.192…
    "192.0.0.0/24",
    "192.168.0.0/16",
    // …and at Azure's 168.63.129.16, public only by its looks.
    "168.63.129.16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// How long `nft` may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Everything that the rules depend on.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    /// The table's name.
    pub(super) table: &'a str,
    /// The bridge that replicas are on; `None` when a plugin makes their links.
    pub(super) bridge: Option<&'a str>,
    /// Their addresses.
    pub(super) range: Range,
    /// The port of the gateway on the bridge address.
    pub(super) gateway_port: u16,
    /// Whether what leaves the host takes the host's address.
    pub(super) masquerade: bool,
    /// The resolvers that replicas were given.
    pub(super) resolvers: &'a BTreeSet<Ipv4Addr>,
    /// What else may be reached.
    pub(super) allow: &'a [IpNet],
}

impl Rules<'_> {
    /// Returns the table that holds them.
    pub(super) fn table(&self) -> Table {
        Table { name: self.table.into(), content: self.content() }
    }

    fn content(&self) -> String {
        let Self { range, .. } = self;
        let Range { subnet, gateway, .. } = range;
        let (from, to) = match self.bridge {
            Some(bridge) => (format!("iifname {bridge:?}"), format!("oifname {bridge:?}")),
            None => (format!("ip saddr {subnet}"), format!("ip daddr {subnet}")),
        };
        let spoofed = match self.bridge {
            Some(_) => format!("{from} ip saddr != {subnet} drop\n    {from} meta nfproto ipv6 drop"),
            None => "# A plugin makes the links: it says which source is whose.".into(),
        };
        let masquerade = match (self.masquerade, self.bridge) {
            (true, Some(bridge)) => format!("ip saddr {subnet} oifname != {bridge:?} masquerade"),
            _ => "# The conflist does not ask for masquerading here.".into(),
        };
        let allowed: Vec<Ipv4Net> = self.allow.iter().filter_map(v4).collect();
        // A wide entry such as 10.0.0.0/8 is about the networks around. It opens the gateway's address,
        // which happens to lie in it, only if it is about that address.
        let whole_gateway = if allowed.iter().any(|net| subnet.contains(net) && net.contains(gateway)) {
            format!("ip daddr {gateway} accept")
        } else {
            "# network.allow does not list this host's address on the bridge.".into()
        };
        let resolvers = elements(self.resolvers);
        let allowed = elements(&allowed);
        // No set: its elements come a moment after the rules, so what is in it would not be refused until then.
        let closed = CLOSED.map(|net| format!("ip daddr {net} goto refuse")).join("\n    ");
        let port = self.gateway_port;
        format!(
            "  set resolvers {{
    type ipv4_addr{resolvers}
  }}
  set allowed {{
    type ipv4_addr
    flags interval
    auto-merge{allowed}
  }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    {spoofed}
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    {from} jump to_host
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    {from} jump outward
    {to} jump inward
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {masquerade}
  }}
  chain to_host {{
    ct state established,related accept
    ip daddr {gateway} tcp dport {port} accept
    ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
    {whole_gateway}
    ip daddr {subnet} goto refuse
    ip daddr @allowed accept
    goto refuse
  }}
  chain outward {{
    ct state established,related accept
    ip daddr {subnet} goto refuse
    ip daddr @resolvers meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @allowed accept
    {closed}
    meta nfproto ipv6 goto refuse
  }}
  chain inward {{
    ct state established,related accept
    drop
  }}
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
"
        )
    }
}

/// A table of rules, which can be loaded under several names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// The name of the plain copy.
    pub(super) name: String,
    content: String,
}

impl Table {
    /// Returns the script that loads the copy that stays when its process ends. Other programs can flush it.
    pub(super) fn plain(&self) -> String {
        self.script(&self.name, "")
    }

    /// Returns the script that loads a copy that belongs to the process that loads it.
    pub(super) fn owned(&self, name: &str) -> String {
        self.script(name, "\n  flags owner")
    }

    /// Returns names for owned copies. No conflist has such a name.
    pub(super) fn owned_names(&self) -> impl Iterator<Item = String> {
        let first = format!("{}/owned", self.name);
        let others = format!("{first}.");
        std::iter::once(first).chain((2..).map(move |number| format!("{others}{number}")))
    }

    fn script(&self, name: &str, flags: &str) -> String {
        let Self { content, .. } = self;
        format!(
            "add table inet {name} {{{flags}\n}}\ndelete table inet {name}\n\
             table inet {name} {{{flags}\n{content}}}\n"
        )
    }
}

/// Runs a script of nftables, as one transaction.
pub(super) async fn nft(options: &[&str], script: &str, operation: &str) -> Result<(), NetworkError> {
    let arguments = [options, &["-f", "-"]].concat();
    let output = exec::run(Path::new("nft"), &arguments, &[], script.as_bytes(), LIMIT).await;
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(NetworkError::failed(format!("{operation} (nft -f -)"), exec::complaint(&output))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(NetworkError::failed(operation, "nft is not there; install the package nftables"))
        }
        Err(error) => Err(NetworkError::failed(format!("{operation} (nft -f -)"), error)),
    }
}

/// The IPv4 networks among what is allowed: replicas have no IPv6.
pub(super) fn v4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(net.trunc()),
        IpNet::V6(_) => None,
    }
}

/// The line with a set's elements; an empty set has none.
fn elements<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for item in items {
        let _ = write!(text, "{}{item}", if text.is_empty() { "" } else { ", " });
    }
    if text.is_empty() { text } else { format!("\n    elements = {{ {text} }}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(bridge: Option<&str>, resolvers: &[&str], allow: &[&str]) -> String {
        let range = Range {
            subnet: "10.62.0.0/16".parse().unwrap(),
            first: "10.62.0.1".parse().unwrap(),
            last: "10.62.255.254".parse().unwrap(),
            gateway: "10.62.0.1".parse().unwrap(),
        };
        let resolvers = &resolvers.iter().map(|server| server.parse().unwrap()).collect();
        let allow = &allow.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let (table, gateway_port, masquerade) = ("ingle", 8080, true);
        Rules { table, bridge, range, gateway_port, masquerade, resolvers, allow }.table().plain()
    }

    #[test]
    fn the_script_is_this() {
        let (resolvers, allow) = (["192.168.1.1", "1.1.1.1"], ["10.0.0.5/32", "192.168.7.0/24"]);
        assert_eq!(script(Some("ingle0"), &resolvers, &allow), include_str!("rules.golden.nft"));
    }

    #[test]
    fn an_owned_copy_is_the_plain_one_under_another_name() {
        let table = Table { name: "ingle".into(), content: "  chain a {\n  }\n".into() };
        let names: Vec<String> = table.owned_names().take(3).collect();
        assert_eq!(names, ["ingle/owned", "ingle/owned.2", "ingle/owned.3"]);
        for name in names {
            let owned = table.owned(&name);
            assert_eq!(owned.matches("\n  flags owner").count(), 2);
            assert_eq!(owned.replace("\n  flags owner", "").replace(&name, "ingle"), table.plain());
        }
    }

    #[test]
    fn a_wide_allowed_network_does_not_open_the_host() {
        let script = |allow: &str| script(Some("ingle0"), &[], &[allow]);
        assert!(!script("10.0.0.0/8").contains("ip daddr 10.62.0.1 accept"));
        assert!(script("10.62.0.1/32").contains("ip daddr 10.62.0.1 accept"));
        assert!(script("10.62.0.0/30").contains("ip daddr 10.62.0.1 accept"));
        assert!(!script("fd00::/8").contains("fd00"), "replicas have no IPv6");
    }

    #[test]
    fn without_a_bridge_the_subnet_tells_replicas_apart() {
        let script = script(None, &[], &[]);
        assert!(script.contains("ip saddr 10.62.0.0/16 jump outward"), "{script}");
        assert!(!script.contains("masquerade\n"), "{script}");
    }
}
