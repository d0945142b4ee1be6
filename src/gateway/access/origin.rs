//! Origins of requests: browsers state the page that sent a request, and the name under which they know the gateway.
//!
//! A browser adds credentials of its user, such as a password, to requests of any page. A page cannot forge
//! the headers that state its origin. Other clients send none of them, and are judged by their credentials
//! alone.

use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, Request};
use http_body::Body;
use reqwest::Url;

use super::AccessError;
use super::client::{Client, client_behind};
use model::config::{self, HostPatterns, TrustedProxies};

/// Names of this gateway that no web page can have: browsers and functions do not ask a name server for them.
const NAMES: [&str; 3] = ["localhost", "gateway", "gateway.openfaas"];
/// Types of bodies that are streams of bytes. A form cannot send them, nor a page without a CORS preflight.
const STREAMS: [&str; 7] = [
    "application/octet-stream",
    "application/gzip",
    "application/tar",
    "application/x-gzip",
    "application/x-tar",
    "application/zip",
    "application/zstd",
];
/// Longest text of a client in an error, in characters.
const SHOWN: usize = 100;

/// The rules for origins that may use the API, and for names of the gateway.
#[derive(Debug)]
pub(super) struct OriginPolicy {
    proxies: TrustedProxies,
    hosts: HostPatterns,
    /// The name of this machine.
    hostname: String,
}

impl OriginPolicy {
    pub(super) fn new(config: &config::Gateway) -> Self {
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Self {
            proxies: config.trusted_proxies.clone(),
            hosts: config.hosts.clone(),
            hostname: hostname.unwrap_or_default().to_ascii_lowercase(),
        }
    }

    /// Refuses requests of pages of another origin.
    pub(super) fn check_origin<B>(&self, request: &Request<B>) -> Result<(), AccessError> {
        let headers = request.headers();
        if headers.get_all("sec-fetch-site").iter().any(|site| site != "same-origin" && site != "none") {
            return Err(AccessError::CrossSite);
        }
        if !headers.contains_key(ORIGIN) {
            return Ok(());
        }
        let own = self.own_url(request);
        // `null` is no URL: a page without an origin sends it, such as a sandboxed frame or a local file.
        let is_own = |origin: &HeaderValue| {
            let origin = origin.to_str().ok().and_then(root);
            origin.zip(own.as_ref()).is_some_and(|(origin, own)| origin.origin() == own.origin())
        };
        match headers.get_all(ORIGIN).iter().find(|origin| !is_own(origin)) {
            None => Ok(()),
            Some(foreign) => Err(AccessError::ForeignOrigin {
                origin: shown(foreign.as_bytes()),
                own: own.map_or_else(|| "its own".into(), |own| own.origin().ascii_serialization()),
            }),
        }
    }

    /// Refuses host names that a web page's owner could point at this machine (DNS rebinding).
    pub(super) fn check_host<B>(&self, request: &Request<B>) -> Result<(), AccessError> {
        let own = self.own_url(request);
        let host = own.as_ref().and_then(Url::host_str).unwrap_or_default();
        let name = host.trim_end_matches('.');
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let is_known = NAMES.contains(&name)
            || self.hosts.contains(name)
            || (!name.is_empty() && self.hostname.trim_end_matches('.') == name);
        if is_address || is_known {
            Ok(())
        } else {
            Err(AccessError::UnknownHost { host: shown(host.as_bytes()) })
        }
    }

    /// Returns the address of the client, also behind trusted proxies.
    pub(super) fn client<B>(&self, request: &Request<B>) -> IpAddr {
        let peer = request.extensions().get().unwrap_or(&Client::UNKNOWN).address.ip();
        let lines = request.headers().get_all("x-forwarded-for").iter().rev();
        client_behind(&self.proxies, peer, lines.map(|line| line.to_str().unwrap_or_default()))
    }

    /// Returns the URL under which the client knows the gateway, as a trusted proxy states it, else the client.
    fn own_url<B>(&self, request: &Request<B>) -> Option<Url> {
        let client = request.extensions().get::<Client>();
        let is_proxy = client.is_some_and(|client| self.proxies.contains(client.address.ip()));
        let forwarded = |name| first(request.headers(), name).filter(|_| is_proxy);
        // The authority of a target counts as much as the header.
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let host = forwarded("x-forwarded-host")
            .or(authority)
            .or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok()))?;
        let scheme = forwarded("x-forwarded-proto").unwrap_or("http");
        root(&format!("{scheme}://{host}"))
    }
}

/// Returns whether a web page had a browser send a request, rather than its user.
pub(super) fn is_of_a_page<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    headers.contains_key(ORIGIN) || headers.get("sec-fetch-site").is_some_and(|site| site != "none")
}

/// Refuses changes by a web page with a content type that a browser sends without a CORS preflight.
pub(super) fn check_type<B: Body>(request: &Request<B>) -> Result<(), AccessError> {
    let headers = request.headers();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter().peekable();
    let is_untyped = types.peek().is_none();
    let is_fit = if is_untyped { request.body().is_end_stream() } else { types.all(is_data) };
    if is_fit { Ok(()) } else { Err(AccessError::MediaType) }
}

/// Returns whether a content type is JSON or a stream of bytes.
fn is_data(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json =
        essence.strip_prefix("application/").is_some_and(|sub| sub == "json" || sub.ends_with("+json"));
    is_json || STREAMS.contains(&essence.as_str())
}

/// Parses the URL of an origin; `None` if it contains anything else.
fn root(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let is_bare = url.path() == "/"
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    is_bare.then_some(url)
}

/// Returns the first value of a header that several proxies extend: the one about the client.
fn first<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let value = headers.get(name)?.to_str().ok()?.split(',').next()?.trim();
    Some(value).filter(|value| !value.is_empty())
}

/// Returns a client's text for an error, cut to [`SHOWN`] characters.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|char| !char.is_control()).take(SHOWN).collect()
}
