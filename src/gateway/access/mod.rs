//! Who may use the API, and from where.

mod attempts;
pub mod basic;
pub mod client;
pub mod exposure;
mod origin;

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderMap};

use self::attempts::{Attempts, Outcome};
use self::basic::Credentials;
use self::client::{Client, Listener};
use self::exposure::Exposure;
use self::origin::OriginPolicy;
use model::config;

/// The rules by which a request to the API is let in.
#[derive(Debug)]
pub struct Access {
    /// Everyone if `None`.
    credentials: Option<Credentials>,
    origins: OriginPolicy,
    exposure: Exposure,
    attempts: Attempts,
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It is not served by this listener, or not to this client; the text names the key.
    #[error("{0}")]
    Closed(String),
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
    /// So many credentials of this address were wrong that none are looked at for a while.
    #[error("too many wrong passwords from this address: wait, or use 'sudo ingle' on the machine itself")]
    Throttled(Duration),
    /// A web page sent it as a type that any page may send.
    #[error(
        "a web page has to send this as JSON (Content-Type: application/json) or, where that is taken, as an archive \
         (application/x-tar, application/gzip, application/zip, application/octet-stream)"
    )]
    MediaType,
}

impl Access {
    /// Returns the rules of a configuration, with these credentials; without any, everyone is let in.
    pub fn new(config: &config::Gateway, credentials: Option<Credentials>, exposure: Exposure) -> Self {
        let origins = OriginPolicy::new(config);
        Self { credentials, origins, exposure, attempts: Attempts::default() }
    }

    /// Checks a request before anything is done with it, its body not yet read.
    pub fn check<B: http_body::Body>(&self, request: &http::Request<B>) -> Result<(), AccessError> {
        let path = request.uri().path();
        let client = request.extensions().get().unwrap_or(&Client::UNKNOWN);
        self.exposure.refusal(path, client).map_or(Ok(()), |text| Err(AccessError::Closed(text)))?;
        if !path.starts_with("/system") {
            return Ok(());
        }
        let is_local = client.listener == Listener::Local;
        if self.credentials.is_none() && !is_local {
            self.origins.check_host(request)?;
        }
        self.origins.check_origin(request)?;
        if let Some(credentials) = self.credentials.as_ref().filter(|_| !is_local) {
            let headers = request.headers();
            // Nothing was guessed where nothing was sent.
            let outcome = match headers.contains_key(AUTHORIZATION) {
                true => self.attempts.attempt(self.origins.client(request), || credentials.admit(headers)),
                false => Outcome::Wrong,
            };
            match outcome {
                Outcome::Admitted => {}
                Outcome::Wrong => return Err(AccessError::Unauthorized),
                Outcome::Throttled(wait) => return Err(AccessError::Throttled(wait)),
            }
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
