//! Access to the API: credentials, origins and listeners.

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

/// The rules that admit requests to the API.
#[derive(Debug)]
pub struct Access {
    /// The admin's credentials; with `None` everyone is admitted.
    credentials: Option<Credentials>,
    origins: OriginPolicy,
    exposure: Exposure,
    attempts: Attempts,
}

/// The reason why a request is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The path is not served by this listener, or not to this client; the text names the key.
    #[error("{0}")]
    Closed(String),
    /// A page of another site sent the request through a browser.
    #[error("a web page of another site may not use the API")]
    CrossSite,
    /// A page of another origin sent the request through a browser.
    #[error(
        "a web page of {origin} may not use the API, which is at {own}: if there is a proxy in front of it, add the \
         proxy to gateway.trusted_proxies and have it send X-Forwarded-Host and X-Forwarded-Proto"
    )]
    ForeignOrigin {
        /// The origin of the page.
        origin: String,
        /// The origin of the gateway, as the client knows it.
        own: String,
    },
    /// A page had a browser send it to the listener where functions have pages, too, and there is no password.
    #[error(
        "without a password (gateway.basic_auth) web pages may not use the API at this port, because pages of \
         functions come from it as well: use the admin listener (gateway.admin_listen)"
    )]
    SharedOrigin,
    /// The request names a host that may belong to anybody.
    #[error(
        "{host:?} is not a name of this gateway: for the metrics of the admin listener, and without a password \
         (gateway.basic_auth), only IP addresses, localhost, the name of its machine and names in gateway.hosts are accepted"
    )]
    UnknownHost {
        /// The name in the request.
        host: String,
    },
    /// The credentials are missing or wrong.
    #[error("wrong user or password: log in with 'faas-cli login' or 'ingle login'")]
    Unauthorized,
    /// The address sent too many wrong credentials; none of its credentials are checked for this long.
    #[error("too many wrong passwords from this address: wait, or use 'sudo ingle' on the machine itself")]
    Throttled(Duration),
    /// A web page sent a body of a type that any page may send.
    #[error(
        "a web page has to send this as JSON (Content-Type: application/json) or, if the route takes one, as an archive \
         (application/x-tar, application/gzip, application/zip, application/octet-stream)"
    )]
    MediaType,
}

impl Access {
    /// Returns the rules of a configuration, with these credentials; with `None` everyone is admitted.
    pub fn new(config: &config::Gateway, credentials: Option<Credentials>, exposure: Exposure) -> Self {
        let origins = OriginPolicy::new(config);
        Self { credentials, origins, exposure, attempts: Attempts::default() }
    }

    /// Checks a request before anything is done with it and before its body is read.
    pub fn check<B: http_body::Body>(&self, request: &http::Request<B>) -> Result<(), AccessError> {
        let path = request.uri().path();
        let client = request.extensions().get().unwrap_or(&Client::UNKNOWN);
        self.exposure.refusal(path, client).map_or(Ok(()), |text| Err(AccessError::Closed(text)))?;
        let is_api = path.starts_with("/system");
        if !is_api && path != "/metrics" {
            return Ok(());
        }
        self.origins.check_origin(request)?;
        match client.listener {
            Listener::Local => {}
            // A page whose name was pointed to this machine would be of its own origin.
            Listener::Admin if is_api && self.credentials.is_some() => {}
            Listener::Admin => self.origins.check_host(request)?,
            Listener::Public if is_api && self.credentials.is_none() => {
                self.origins.check_host(request)?;
                // The pages of functions are of one origin with the API there.
                if origin::is_of_a_page(request) {
                    return Err(AccessError::SharedOrigin);
                }
            }
            Listener::Public => {}
        }
        if !is_api {
            return Ok(());
        }
        let is_local = client.listener == Listener::Local;
        if let Some(credentials) = self.credentials.as_ref().filter(|_| !is_local) {
            let headers = request.headers();
            // A request without credentials is no guess.
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

    /// Returns whether an `Authorization` header opens the API, and must not reach functions.
    pub fn admits(&self, authorization: &[u8]) -> bool {
        self.credentials.as_ref().is_some_and(|credentials| credentials.admit_value(authorization))
    }
}

/// Returns whether a browser sent a request. A browser that is challenged asks its user for the password, and
/// adds it to all further requests to this origin, whichever page sends them.
pub fn is_browser(headers: &HeaderMap) -> bool {
    let html = |value: &[u8]| value.windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html"));
    headers.contains_key("sec-fetch-site")
        || headers.get_all(ACCEPT).iter().any(|value| html(value.as_bytes()))
}
