//! Receivers that callbacks may go to. A client of the gateway is a stranger to this machine's network; by naming a
//! receiver it must reach nothing that it could not reach without us.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use ipnet::IpNet;
use reqwest::Url;

use super::address::is_public;
use crate::queue::schedule::scheduler::LaneKey;
use model::config::{self, HostPatterns};

/// The longest URL in bytes.
const LONGEST: usize = 1000;
/// Groups of receivers whose callbacks are held up together.
const GROUPS: u64 = 64;
/// Address by which Azure's machines reach their host: public in form, and answered from inside alone.
const AZURE_HOST: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// The names that this gateway has for functions.
const GATEWAY: [&str; 2] = ["gateway", "gateway.openfaas"];
/// Paths of it that may be called.
const GATEWAY_PATHS: [&str; 2] = ["/function/", "/async-function/"];

/// Receivers that callbacks may go to.
#[derive(Debug)]
pub(in crate::queue) struct EgressPolicy {
    /// Allowed hosts; if there are any, no others are reached.
    hosts: HostPatterns,
    /// Networks that may be reached although they are nobody else's.
    networks: Vec<IpNet>,
    /// This gateway, as it is reached from here.
    gateway: SocketAddr,
}

/// A receiver that may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receiver {
    /// Its URL, with the address of the gateway if it is that.
    pub(super) url: Url,
    /// Whether it is this gateway.
    pub(super) is_gateway: bool,
}

impl EgressPolicy {
    pub(in crate::queue) fn new(config: &config::Queue, gateway: SocketAddr) -> Self {
        Self { hosts: config.callback_hosts.clone(), networks: config.callback_networks.clone(), gateway }
    }

    /// The URL as it is kept, if a callback may be sent to it as far as it tells.
    pub(in crate::queue) fn check(&self, text: &str) -> Result<String, String> {
        let Receiver { url, is_gateway } = self.receiver(text)?;
        let url = if is_gateway { text } else { url.as_str() };
        // Spelled out, it may be longer.
        if url.len() > LONGEST {
            return Err(too_long(url.len()));
        }
        Ok(url.to_owned())
    }

    /// Returns the lane of callbacks to this URL, which is that of a group of receivers. The number of groups
    /// is fixed, because callers can name any number of receivers, and groups are random, so that callers
    /// cannot choose whose callbacks they hold up.
    pub(in crate::queue) fn lane(&self, text: &str) -> LaneKey {
        static CHANCE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let url = Url::parse(text).ok();
        let host = url.as_ref().and_then(Url::host_str).map(plain).unwrap_or_default();
        let host = if GATEWAY.contains(&host.as_str()) { GATEWAY[0] } else { &host };
        let group = u8::try_from(CHANCE.hash_one(host) % GROUPS).unwrap_or_default();
        if self.is_named(host) { LaneKey::Receivers(group) } else { LaneKey::Unnamed(group) }
    }

    /// Returns whether the configuration names a host. Names are not resolved: their owner decides where they lead.
    fn is_named(&self, host: &str) -> bool {
        let is_in_networks = || {
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            address.is_ok_and(|address| self.is_in_networks(address.to_canonical()))
        };
        // If any hosts are named, no others are reached.
        !self.hosts.is_empty() || host == GATEWAY[0] || is_in_networks()
    }

    fn is_in_networks(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The receiver that a URL names, if it may be one; else why not.
    pub(super) fn receiver(&self, text: &str) -> Result<Receiver, String> {
        if text.len() > LONGEST {
            return Err(too_long(text.len()));
        }
        // What the parser would put up with may mean another thing to who wrote it.
        if text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'\\') {
            return Err("it has characters in it that must be written as %XX".to_owned());
        }
        let mut url = Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("it begins with {}: use http:// or https://", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it has a name or password in it, which would be kept: leave them out".to_owned());
        }
        url.set_fragment(None);
        let host = url.host_str().map(plain).unwrap_or_default();
        if GATEWAY.contains(&host.as_str()) {
            return self.own(url);
        }
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        if !self.hosts.is_empty() && !self.hosts.contains(&host) {
            return Err(format!("{host} is not in queue.callback_hosts"));
        }
        // However it was spelled, the parser writes an address in the one way that all read alike.
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            self.may_reach(address)?;
        }
        Ok(Receiver { url, is_gateway: false })
    }

    /// Another function of this machine, where anybody could have called it.
    fn own(&self, mut url: Url) -> Result<Receiver, String> {
        if url.scheme() != "http" || !GATEWAY_PATHS.iter().any(|path| url.path().starts_with(path)) {
            return Err(format!(
                "of the gateway, only http and {} can be called",
                GATEWAY_PATHS.join(" and ")
            ));
        }
        let placed =
            url.set_ip_host(self.gateway.ip()).and_then(|()| url.set_port(Some(self.gateway.port())));
        placed.map_err(|()| "it is no URL".to_owned())?;
        Ok(Receiver { url, is_gateway: true })
    }

    /// Whether an address may be reached.
    pub(super) fn may_reach(&self, address: IpAddr) -> Result<(), String> {
        self.may_reach_beside(address, own_networks)
    }

    /// The same where this machine is in the networks that `own` finds: what listens there may count on being
    /// reached from inside alone, also at a public address.
    fn may_reach_beside(&self, address: IpAddr, own: impl Fn() -> Vec<IpNet>) -> Result<(), String> {
        let canonical = address.to_canonical();
        if self.is_in_networks(canonical) {
            return Ok(());
        }
        let why = if !is_public(canonical) || canonical == AZURE_HOST {
            "is not a public address"
        } else if own().iter().any(|network| network.contains(&canonical)) {
            "is of this machine or its own network"
        } else {
            return Ok(());
        };
        Err(format!("{address} {why}, and not in queue.callback_networks"))
    }
}

/// The networks of this machine's interfaces.
fn own_networks() -> Vec<IpNet> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let network = |interface: nix::ifaddrs::InterfaceAddress| {
        IpNet::with_netmask(address(interface.address?)?, address(interface.netmask?)?).ok()
    };
    interfaces.filter_map(network).collect()
}

/// A host, as it is compared.
fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn too_long(length: usize) -> String {
    format!("it has {length} bytes, and at most {LONGEST} are taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: &[&str], networks: &[&str]) -> EgressPolicy {
        EgressPolicy {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>().into(),
            networks: networks.iter().map(|network| network.parse().expect("a network")).collect(),
            gateway: "127.0.0.1:8081".parse().expect("an address"),
        }
    }

    #[test]
    fn a_url_is_refused_in_words() {
        let rules = rules(&[], &["10.0.5.0/24"]);
        for url in
            ["http://a.example/", "https://a.example:8443/x?y=z#f", "http://1.1.1.1/", "http://10.0.5.9/"]
        {
            assert!(rules.check(url).is_ok(), "{url}");
        }
        assert_eq!(rules.check("HTTP://A.example/\"x\""), Ok("http://a.example/%22x%22".to_owned()));
        let long = format!("http://a.example/{}", "x".repeat(LONGEST));
        let spelled = format!("http://a.example/{}", "\"".repeat(500));
        for (url, part) in [
            ("", "no URL"),
            ("a.example/x", "no URL"),
            ("ftp://a.example/", "begins with ftp"),
            ("file:///etc/passwd", "begins with file"),
            ("http://", "no URL"),
            ("http://a b/", "%XX"),
            ("http://a.example\\@b.example/", "%XX"),
            ("http://a.example/\u{e9}", "%XX"),
            ("http://me:secret@a.example/", "password"),
            ("http://me@a.example/", "password"),
            (&long, "1017 bytes"),
            (&spelled, "at most 1000"),
            ("http://127.0.0.1/", "127.0.0.1 is not a public"),
            // The same, as some write it.
            ("http://2130706433/", "127.0.0.1 is not a public"),
            ("http://0x7f.1/", "127.0.0.1 is not a public"),
            ("http://0177.0.0.1/", "127.0.0.1 is not a public"),
            ("http://[::ffff:169.254.169.254]/latest/meta-data", "is not a public"),
            ("http://[::1]:8080/", "::1 is not a public"),
            ("http://10.0.6.9/", "10.0.6.9 is not a public"),
            ("http://gateway:8080/system/functions", "only http and /function/"),
            ("http://gateway:8080/function", "only http and /function/"),
            ("http://gateway:8080/function/../system/functions", "only http and /function/"),
            ("https://gateway/function/env", "only http and /function/"),
        ] {
            let error = rules.check(url).expect_err(url);
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn hosts_that_are_named_are_the_only_ones() {
        let rules = rules(&["a.example", "*.b.example"], &[]);
        for url in
            ["http://a.example/", "http://A.EXAMPLE:81/", "http://a.example./", "http://x.y.b.example/"]
        {
            assert!(rules.check(url).is_ok(), "{url}");
        }
        for url in ["http://b.example/", "http://xb.example/", "http://x.a.example/", "http://1.1.1.1/"] {
            assert!(rules.check(url).expect_err(url).contains("queue.callback_hosts"), "{url}");
        }
        let gateway = "http://gateway:8080/function/env";
        assert_eq!(rules.check(gateway), Ok(gateway.to_owned()), "it is no other host");
    }

    #[test]
    fn the_gateway_is_found_by_its_name() {
        for (url, found) in [
            ("http://gateway:8080/function/env?a=b", "http://127.0.0.1:8081/function/env?a=b"),
            ("http://gateway.openfaas/async-function/env", "http://127.0.0.1:8081/async-function/env"),
        ] {
            let receiver = rules(&[], &[]).receiver(url).expect("allowed");
            assert_eq!((receiver.url.as_str(), receiver.is_gateway), (found, true));
        }
    }

    #[test]
    fn a_local_service_is_unreachable_through_its_public_address() {
        let rules = rules(&[], &["9.9.9.7/32"]);
        let own =
            || vec!["9.9.9.9/29".parse().expect("a network"), "2001:200::9/64".parse().expect("a network")];
        let reached = |text: &str| rules.may_reach_beside(text.parse().expect("an address"), own);
        for text in ["9.9.9.7", "9.9.9.16", "8.8.8.8", "2001:200:0:1::9"] {
            assert_eq!(reached(text), Ok(()), "{text}");
        }
        for text in ["9.9.9.9", "9.9.9.8", "::ffff:9.9.9.9", "2001:200::1"] {
            assert!(reached(text).expect_err(text).contains("of this machine or its own network"), "{text}");
        }
        assert!(reached("168.63.129.16").is_err());
        let loopback: IpAddr = [127, 0, 0, 1].into();
        assert!(own_networks().iter().any(|network| network.contains(&loopback)), "{:?}", own_networks());
    }

    #[test]
    fn a_host_is_in_one_group_however_it_is_spelled() {
        let rules = rules(&[], &[]);
        let lane = rules.lane("http://a.example/x");
        for url in ["https://a.example:81/y", "http://A.example./"] {
            assert_eq!(rules.lane(url), lane, "{url}");
        }
        assert_eq!(
            rules.lane("http://gateway/function/a"),
            rules.lane("http://gateway.openfaas:8080/function/b")
        );
        let groups: std::collections::BTreeSet<LaneKey> =
            (0..10_000).map(|number| rules.lane(&format!("http://{number}.example/"))).collect();
        assert_eq!(groups.len() as u64, GROUPS);
    }

    #[test]
    fn a_host_is_named_by_a_list_of_hosts_or_by_its_address_in_a_network() {
        let is_named = |rules: &EgressPolicy, url: &str| matches!(rules.lane(url), LaneKey::Receivers(_));
        let none = rules(&[], &["10.0.5.0/24", "fd00::/8"]);
        for url in [
            "http://gateway:8080/function/env",
            "http://gateway.openfaas./function/env",
            "http://10.0.5.9/",
            "http://0x0a.0.5.9:81/x",
            "http://[::ffff:10.0.5.9]/",
            "https://[fd00::1]/",
        ] {
            assert!(is_named(&none, url), "{url}");
        }
        for url in ["http://a.example/", "http://1.1.1.1/", "http://localhost/", "http://[2606:4700::1]/"] {
            assert!(!is_named(&none, url), "{url}");
            assert!(is_named(&rules(&["a.example"], &[]), url), "{url}: no other host is reached");
        }
    }
}
