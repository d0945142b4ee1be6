//! Which gateway a command speaks to.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use super::error::CliError;

/// Where the daemon of this machine listens, unless it is told otherwise.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:8080";

/// A gateway's address: an http or https URL, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    url: Url,
    /// Whether nobody but a stack file names it: such a gateway gets no password from the environment.
    pub(crate) from_stack: bool,
}

impl Gateway {
    /// Takes the first that is there: the option, the stack file, the environment, this machine.
    ///
    /// As in faas-cli, a stack file that names the default address names none: `faas-cli new`
    /// writes that line into every file.
    pub(crate) fn choose(
        option: Option<&str>,
        stack: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CliError> {
        let outside = variable("INGLE_GATEWAY").or_else(|| variable("OPENFAAS_URL"));
        let outside = outside.as_deref().unwrap_or(DEFAULT);
        if let Some(text) = option {
            return Self::parse(text);
        }
        let Some(text) = stack else { return Self::parse(outside) };
        let stack = Self::parse(text)?;
        if stack == Self::parse(DEFAULT)? {
            return Self::parse(outside);
        }
        let from_stack = Self::parse(outside).ok().as_ref() != Some(&stack);
        Ok(Self { from_stack, ..stack })
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
        let host = self.url.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Whether what is sent to it can be read on the way.
    pub(crate) fn is_in_clear(&self) -> bool {
        self.url.scheme() == "http" && !self.is_loopback()
    }
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
        for (text, here) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            assert_eq!(Gateway::parse(text).expect(text).is_loopback(), here, "{text}");
        }
        assert!(Gateway::parse("http://10.0.0.1").expect("a gateway").is_in_clear());
        assert!(!Gateway::parse("https://10.0.0.1").expect("a gateway").is_in_clear());
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
            let gateway = Gateway::choose(option, stack, variable).expect("a gateway");
            (gateway.to_string(), gateway.from_stack)
        };
        assert_eq!(choose(None, None, &none), (DEFAULT.to_owned(), false));
        assert_eq!(choose(None, None, &both), ("http://ingle:1".to_owned(), false));
        assert_eq!(choose(None, None, &old), ("http://openfaas:1".to_owned(), false));
        assert_eq!(choose(None, Some("http://file:1"), &both), ("http://file:1".to_owned(), true));
        assert_eq!(choose(None, Some("http://ingle:1/"), &both), ("http://ingle:1".to_owned(), false));
        assert_eq!(choose(None, Some(DEFAULT), &both), ("http://ingle:1".to_owned(), false));
        assert_eq!(choose(Some("o:1"), Some("http://file:1"), &both), ("http://o:1".to_owned(), false));
    }
}
