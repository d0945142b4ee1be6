//! Exposure of the API and the metrics: the listeners that serve them, and whether functions may use them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use model::config;

use super::client::{Client, Listener};

/// The listeners and clients that the API and the metrics are served to.
#[derive(Debug, Clone)]
pub struct Exposure {
    /// Whether the public listener serves the API.
    public_api: bool,
    /// Whether the public listener serves the metrics.
    public_metrics: bool,
    /// The subnet of functions and this host's address in it, unless functions may use both.
    closed_to: Option<(Ipv4Net, Ipv4Addr)>,
    /// The admin listener, for messages.
    admin: String,
}

impl Exposure {
    /// Returns the exposure that the configuration sets, on a machine whose functions have addresses in
    /// `subnet`, where `host` is the machine's own.
    pub fn of(config: &config::Gateway, subnet: Ipv4Net, host: Ipv4Addr) -> Self {
        Self {
            public_api: config.public_api,
            public_metrics: config.public_metrics,
            closed_to: (!config.functions_api).then_some((subnet, host)),
            admin: config.admin_listen.map_or_else(String::new, |address| format!(" at http://{address},")),
        }
    }

    /// Returns the reason why `client` may not use `path`, if it may not.
    pub fn refusal(&self, path: &str, client: &Client) -> Option<String> {
        let (what, is_public, key) = match path {
            "/metrics" => ("the metrics are", self.public_metrics, "gateway.public_metrics"),
            _ if path.starts_with("/system") => ("the API is", self.public_api, "gateway.public_api"),
            _ => return None,
        };
        let is_function = match (client.address.ip().to_canonical(), self.closed_to) {
            (IpAddr::V4(address), Some((subnet, host))) => subnet.contains(&address) && address != host,
            _ => false,
        };
        match client.listener {
            Listener::Local => None,
            _ if is_function => Some(format!("{what} not served to functions (gateway.functions_api)")),
            Listener::Public if !is_public => Some(format!(
                "{what} not served on this port ({key}), but{} and to 'sudo ingle' on the machine itself",
                self.admin
            )),
            Listener::Public | Listener::Admin => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::config::Config;

    fn exposure(settings: &str) -> Exposure {
        let config = Config::parse(&format!("[gateway]\n{settings}"), |_| None).expect("settings");
        let (subnet, host) = ("10.62.0.0/16".parse().expect("a network"), Ipv4Addr::new(10, 62, 0, 1));
        Exposure::of(&config.gateway, subnet, host)
    }

    #[test]
    fn the_api_and_the_metrics_are_refused_by_listener_and_by_address() {
        let outside = ["192.0.2.1:9", "127.0.0.1:9", "[2001:db8::1]:9", "10.63.0.1:9", "10.62.0.1:9"];
        let functions = ["10.62.0.5:9", "[::ffff:10.62.3.4]:9"];
        let closed = "public_api = false\n";
        let (all, none) = ("public_metrics = true\nfunctions_api = true", "public_metrics = false\n");
        for (settings, listener, path, to_others, to_functions) in [
            ("", Listener::Public, "/system/functions", true, false),
            ("", Listener::Public, "/metrics", true, false),
            ("", Listener::Admin, "/system/functions", true, false),
            ("", Listener::Admin, "/metrics", true, false),
            ("functions_api = true", Listener::Public, "/system/info", true, true),
            ("functions_api = true", Listener::Admin, "/metrics", true, true),
            (closed, Listener::Public, "/system/functions", false, false),
            (closed, Listener::Public, "/system", false, false),
            (closed, Listener::Public, "/metrics", false, false),
            (closed, Listener::Admin, "/system/functions", true, false),
            (none, Listener::Public, "/metrics", false, false),
            (none, Listener::Public, "/system/functions", true, false),
            (none, Listener::Admin, "/metrics", true, false),
            (&format!("{closed}{all}"), Listener::Public, "/metrics", true, true),
            (&format!("{closed}{all}"), Listener::Public, "/system/info", false, false),
            (&format!("{closed}{all}"), Listener::Admin, "/system/info", true, true),
            (closed, Listener::Public, "/healthz", true, true),
            (closed, Listener::Public, "/", true, true),
        ] {
            let exposure = exposure(settings);
            let serves = |address: &str| {
                let client = Client { address: address.parse().expect("an address"), listener };
                exposure.refusal(path, &client).is_none()
            };
            let case = format!("{settings:?} {listener:?} {path}");
            assert!(outside.iter().all(|address| serves(address) == to_others), "{case} for others");
            assert!(functions.iter().all(|address| serves(address) == to_functions), "{case} for functions");
            assert!(exposure.refusal(path, &Client::LOCAL).is_none(), "{case} at the local socket");
        }
    }

    #[test]
    fn a_refusal_names_the_key_and_the_way_in() {
        let public =
            Client { address: "192.0.2.1:9".parse().expect("an address"), listener: Listener::Public };
        let text = |settings: &str, path: &str| exposure(settings).refusal(path, &public).expect("refused");
        let api = text("public_api = false", "/system/functions");
        assert!(api.contains("gateway.public_api") && api.contains("http://127.0.0.1:8081"), "{api}");
        let metrics = text("public_metrics = false", "/metrics");
        assert!(metrics.contains("gateway.public_metrics"), "{metrics}");
        let neither = text("public_api = false\nadmin_listen = \"none\"", "/system/functions");
        assert!(!neither.contains("http://") && neither.contains("sudo ingle"), "{neither}");
    }
}
