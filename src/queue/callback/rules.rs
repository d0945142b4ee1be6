//! Where callbacks may go. A client of the gateway is a stranger to this machine's network; by naming a receiver it
//! must reach nothing that it could not reach without us.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use reqwest::Url;

use super::address::is_public;
use crate::config;

/// The longest URL in bytes.
const LONGEST: usize = 2000;
/// The names that this gateway has for functions.
const GATEWAY: [&str; 2] = ["gateway", "gateway.openfaas"];
/// What may be called of it.
const GATEWAY_PATHS: [&str; 2] = ["/function/", "/async-function/"];

/// Where callbacks may go.
#[derive(Debug)]
pub(in crate::queue) struct Rules {
    /// Names of hosts, or `*.` and what they end with; if there are any, no others are reached.
    hosts: Vec<String>,
    /// Networks that may be reached although they are nobody else's.
    networks: Vec<IpNet>,
    /// This gateway, as it is reached from here.
    gateway: SocketAddr,
}

/// A receiver that may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receiver {
    /// Where it is.
    pub(super) url: Url,
    /// It is this gateway.
    pub(super) is_gateway: bool,
}

impl Rules {
    pub(in crate::queue) fn new(config: &config::Queue, gateway: SocketAddr) -> Self {
        Self { hosts: config.callback_hosts.clone(), networks: config.callback_networks.clone(), gateway }
    }

    /// Whether a callback may be sent to this URL, as far as the URL tells.
    pub(in crate::queue) fn check(&self, text: &str) -> Result<(), String> {
        self.receiver(text).map(drop)
    }

    /// Whom callbacks to this URL are held up with: those of one receiver wait for each other.
    pub(in crate::queue) fn name_of(text: &str) -> Box<str> {
        let url = Url::parse(text).ok();
        let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
        host.map_or_else(Box::default, |(host, port)| format!("{host}:{port}").into())
    }

    /// The receiver that a URL names, if it may be one; else why not.
    pub(super) fn receiver(&self, text: &str) -> Result<Receiver, String> {
        if text.len() > LONGEST {
            return Err(format!("it has {} bytes, and at most {LONGEST} are taken", text.len()));
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
        let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        if GATEWAY.contains(&host.as_str()) {
            return self.own(url);
        }
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        if !self.hosts.is_empty() && !self.hosts.iter().any(|pattern| fits(pattern, &host)) {
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
        let canonical = address.to_canonical();
        if is_public(canonical) || self.networks.iter().any(|network| network.contains(&canonical)) {
            return Ok(());
        }
        Err(format!("{address} is not a public address, and not in queue.callback_networks"))
    }
}

/// Whether a pattern means a host: `example.org`, or `*.example.org` for all below it.
fn fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: &[&str], networks: &[&str]) -> Rules {
        Rules {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
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
            assert_eq!(rules.check(url), Ok(()), "{url}");
        }
        let long = format!("http://a.example/{}", "x".repeat(LONGEST));
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
            (&long, "2017 bytes"),
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
            assert_eq!(rules.check(url), Ok(()), "{url}");
        }
        for url in ["http://b.example/", "http://xb.example/", "http://x.a.example/", "http://1.1.1.1/"] {
            assert!(rules.check(url).expect_err(url).contains("queue.callback_hosts"), "{url}");
        }
        assert_eq!(rules.check("http://gateway:8080/function/env"), Ok(()), "it is no other host");
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
    fn receivers_are_told_apart_by_host_and_port() {
        for (url, name) in [
            ("http://a.example/x", "a.example:80"),
            ("https://a.example/y", "a.example:443"),
            ("http://A.example:81/", "a.example:81"),
            ("nonsense", ""),
        ] {
            assert_eq!(&*Rules::name_of(url), name);
        }
    }
}
