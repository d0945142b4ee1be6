//! Hosts and proxies that the configuration names.

use std::net::IpAddr;

use ipnet::IpNet;

/// Names of hosts such as `example.org`, and `*.example.org` for all below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPatterns(Vec<String>);

impl HostPatterns {
    /// Returns whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a pattern matches `host`, which is in lower case and has no trailing dot.
    pub fn contains(&self, host: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => pattern == host,
        })
    }
}

impl From<Vec<String>> for HostPatterns {
    fn from(hosts: Vec<String>) -> Self {
        Self(hosts)
    }
}

/// The addresses of proxies in front of the gateway that are trusted to state a request's client, host and scheme.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Returns whether `peer`, which may be an IPv4-mapped IPv6 address, is a trusted proxy.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

impl From<Vec<IpNet>> for TrustedProxies {
    fn from(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }
}
