//! Which gateway a command speaks to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

use super::error::CliError;

/// The address of a daemon with the default configuration.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:8080";

/// A gateway's address: an http or https URL, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    url: Url,
    /// Whether nobody but a stack file names it: such a gateway gets no password from the environment.
    pub(crate) from_stack: bool,
}

impl Gateway {
    /// Takes the first that is there: the option, the stack file, the environment, the daemon of this machine.
    ///
    /// As in faas-cli, a stack file that names the default address names none: `faas-cli new`
    /// writes that line into every file.
    pub(crate) fn choose(
        option: Option<&str>,
        stack: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
        own: &Self,
    ) -> Result<Self, CliError> {
        let outside = || match variable("INGLE_GATEWAY").or_else(|| variable("OPENFAAS_URL")) {
            Some(text) => Self::parse(&text),
            None => Ok(own.clone()),
        };
        if let Some(text) = option {
            return Self::parse(text);
        }
        let Some(text) = stack else { return outside() };
        let stack = Self::parse(text)?;
        if stack == Self::parse(DEFAULT)? {
            return outside();
        }
        let from_stack = outside().ok().as_ref() != Some(&stack);
        Ok(Self { from_stack, ..stack })
    }

    /// Returns the gateway of a daemon at this address.
    pub(crate) fn of_daemon(address: SocketAddr) -> Self {
        Self::parse(&address.to_string()).expect("an address and port make a URL")
    }

    /// Reads an address; `host:port` means http.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        let text = text.trim();
        let wrong =
            |why: &str| CliError::Usage(format!("gateway {text:?} {why}: write one such as {DEFAULT}"));
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url: Url =
            full.trim_end_matches('/').parse().map_err(|error| wrong(&format!("is not a URL ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong("is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("holds a password, which belongs to 'ingle login'"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has more than a host, a port and a path"));
        }
        Ok(Self { url, from_stack: false })
    }

    /// The URL of the path made of `segments`, each encoded.
    pub(crate) fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        url.path_segments_mut().expect("http URLs have a path").pop_if_empty().extend(segments);
        url
    }

    /// The URL of a function, as people call it.
    pub(crate) fn function(&self, name: &str, namespace: Option<&str>) -> Url {
        match namespace.filter(|namespace| *namespace != model::function::NamespaceName::DEFAULT) {
            Some(namespace) => self.at(&["function", &format!("{name}.{namespace}")]),
            None => self.at(&["function", name]),
        }
    }

    /// Whether it is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.url)
    }

    /// Returns whether a daemon of this machine that listens at `own` answers here while it runs.
    pub(crate) fn is_at(&self, own: SocketAddr) -> bool {
        if self.url.scheme() != "http"
            || self.url.path() != "/"
            || self.url.port_or_known_default() != Some(own.port())
        {
            return false;
        }
        let own = own.ip().to_canonical();
        match address(&self.url) {
            Some(address) if address == own => true,
            Some(address) if !address.is_unspecified() => own.is_unspecified() && address.is_loopback(),
            // `localhost`, and addresses that lead to it.
            _ => self.is_loopback() && (own.is_loopback() || own.is_unspecified()),
        }
    }

    /// Whether what is sent to it can be read on the way.
    pub(crate) fn is_in_clear(&self) -> bool {
        self.url.scheme() == "http" && !self.is_loopback()
    }
}

/// Returns whether a URL leads to this machine, so that no proxy is used for it.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let is_name = host == "localhost" || host.ends_with(".localhost");
    // Connections to the unspecified address go to loopback.
    is_name || address(url).is_some_and(|address| address.is_loopback() || address.is_unspecified())
}

fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, shown) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("HTTPS://Example.org/", "https://example.org"),
            ("https://example.org/faas//", "https://example.org/faas"),
            ("localhost", "http://localhost"),
        ] {
            assert_eq!(Gateway::parse(text).expect(text).to_string(), shown);
        }
        for text in ["", "ftp://x", "http://", "http://admin:x@host", "http://host/?a=b", "http://ho st"] {
            assert!(matches!(Gateway::parse(text), Err(CliError::Usage(_))), "{text}");
        }
    }

    #[test]
    fn paths_are_encoded_and_follow_the_base() {
        let gateway = Gateway::parse("https://example.org/faas").expect("a gateway");
        assert_eq!(
            gateway.at(&["system", "function", "a/b"]).as_str(),
            "https://example.org/faas/system/function/a%2Fb"
        );
        assert_eq!(gateway.function("env", Some("dev")).path(), "/faas/function/env.dev");
        assert_eq!(gateway.function("env", Some("openfaas-fn")).path(), "/faas/function/env");
        let root = Gateway::parse("http://h").expect("a gateway");
        assert_eq!(root.at(&["system", "namespace", ""]).as_str(), "http://h/system/namespace/");
    }

    #[test]
    fn this_machine_is_told_from_others() {
        // Other spellings count as well, so that no proxy is used for them.
        for (text, here) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://LOCALHOST.:1", true),
            ("http://a.localhost", true),
            ("http://127.1", true),
            ("http://0.0.0.0:1", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://10.0.0.1", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            assert_eq!(Gateway::parse(text).expect(text).is_loopback(), here, "{text}");
        }
        assert!(Gateway::parse("http://10.0.0.1").expect("a gateway").is_in_clear());
        assert!(!Gateway::parse("https://10.0.0.1").expect("a gateway").is_in_clear());
    }

    #[test]
    fn the_local_daemon_is_recognized_by_address_and_port() {
        for (own, here, elsewhere) in [
            (
                "0.0.0.0:8080",
                &["127.0.0.1:8080", "localhost:8080", "127.0.0.9:8080", "0.0.0.0:8080", "[::1]:8080"][..],
                &[
                    "127.0.0.1:8081",
                    "127.0.0.1",
                    "https://127.0.0.1:8080",
                    "127.0.0.1:8080/faas",
                    "10.0.0.1:8080",
                ][..],
            ),
            (
                "127.0.0.1:80",
                &["127.0.0.1", "localhost", "0.0.0.0"],
                &["127.0.0.9", "[::1]", "localhost:8080"],
            ),
            ("[::]:8080", &["127.0.0.1:8080", "[::1]:8080"], &["[2001:db8::1]:8080"]),
            ("10.0.0.1:8080", &["10.0.0.1:8080"], &["127.0.0.1:8080", "localhost:8080", "0.0.0.0:8080"]),
        ] {
            let is_at =
                |text: &str| Gateway::parse(text).expect(text).is_at(own.parse().expect("an address"));
            here.iter().for_each(|text| assert!(is_at(text), "{own} {text}"));
            elsewhere.iter().for_each(|text| assert!(!is_at(text), "{own} {text}"));
        }
    }

    #[test]
    fn the_option_wins_then_the_file_then_the_environment() {
        let none = |_: &str| None;
        let both = |name: &str| match name {
            "INGLE_GATEWAY" => Some("http://ingle:1".to_owned()),
            "OPENFAAS_URL" => Some("http://openfaas:1".to_owned()),
            _ => None,
        };
        let old = |name: &str| both(name).filter(|_| name == "OPENFAAS_URL");
        let choose = |option, stack, variable: &dyn Fn(&str) -> Option<String>| {
            let own = Gateway::parse("127.0.0.1:9000").expect("a gateway");
            let gateway = Gateway::choose(option, stack, variable, &own).expect("a gateway");
            (gateway.to_string(), gateway.from_stack)
        };
        assert_eq!(choose(None, None, &none), ("http://127.0.0.1:9000".to_owned(), false));
        assert_eq!(choose(None, Some(DEFAULT), &none), ("http://127.0.0.1:9000".to_owned(), false));
        assert_eq!(choose(None, None, &both), ("http://ingle:1".to_owned(), false));
        assert_eq!(choose(None, None, &old), ("http://openfaas:1".to_owned(), false));
        assert_eq!(choose(None, Some("http://file:1"), &both), ("http://file:1".to_owned(), true));
        assert_eq!(choose(None, Some("http://ingle:1/"), &both), ("http://ingle:1".to_owned(), false));
        assert_eq!(choose(None, Some(DEFAULT), &both), ("http://ingle:1".to_owned(), false));
        assert_eq!(choose(Some("o:1"), Some("http://file:1"), &both), ("http://o:1".to_owned(), false));
    }
}
