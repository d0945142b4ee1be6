//! Who may use the API, and from where.

pub mod basic;
pub mod client;
mod origin;

use http::header::{ACCEPT, HeaderMap};

use self::basic::Credentials;
use self::origin::OriginPolicy;
use model::config;

/// The rules by which a request to the API is let in.
#[derive(Debug)]
pub struct Access {
    /// Everyone if `None`.
    credentials: Option<Credentials>,
    origins: OriginPolicy,
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A page of another site had a browser send it.
    #[error("a web page of another site may not use the API")]
    CrossSite,
    /// A page of another origin had a browser send it.
    #[error(
        "a web page of {origin} may not use the API, which is at {own}: if a proxy is in front of it, name the proxy \
         in gateway.trusted_proxies and have it send X-Forwarded-Host and X-Forwarded-Proto"
    )]
    ForeignOrigin {
        /// The page's.
        origin: String,
        /// The gateway's, as the client knows it.
        own: String,
    },
    /// It came under a name that may be anybody's.
    #[error(
        "{host:?} is no name of this gateway: without a password (gateway.basic_auth) it takes its address, localhost, \
         the name of its machine, and what gateway.hosts names"
    )]
    UnknownHost {
        /// The name.
        host: String,
    },
    /// The credentials are not there, or wrong.
    #[error("wrong user or password: log in with 'faas-cli login' or 'ingle login'")]
    Unauthorized,
    /// A web page sent it as a type that any page may send.
    #[error(
        "a web page has to send this as JSON (Content-Type: application/json) or, where that is taken, as an archive \
         (application/x-tar, application/gzip, application/zip, application/octet-stream)"
    )]
    MediaType,
}

impl Access {
    /// Returns the rules of a configuration, with these credentials; without any, everyone is let in.
    pub fn new(config: &config::Gateway, credentials: Option<Credentials>) -> Self {
        Self { credentials, origins: OriginPolicy::new(config) }
    }

    /// Checks a request before anything is done with it, its body not yet read.
    pub fn check<B: http_body::Body>(&self, request: &http::Request<B>) -> Result<(), AccessError> {
        if self.credentials.is_none() {
            self.origins.check_host(request)?;
        }
        self.origins.check_origin(request)?;
        if self.credentials.as_ref().is_some_and(|credentials| !credentials.admit(request.headers())) {
            return Err(AccessError::Unauthorized);
        }
        origin::check_type(request)
    }

    /// Whether an `Authorization` header opens the API: such a one is not for functions.
    pub fn admits(&self, authorization: &[u8]) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| credentials.admit_value(authorization))
    }
}

/// Whether a browser sent a request. It would ask its user for a password when challenged to, and from then on add that
/// to all requests for this origin, whichever page they are for.
pub fn is_browser(headers: &HeaderMap) -> bool {
    let html = |value: &[u8]| value.windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html"));
    headers.contains_key("sec-fetch-site")
        || headers.get_all(ACCEPT).iter().any(|value| html(value.as_bytes()))
}
