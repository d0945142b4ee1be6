//! Reaches receivers, at addresses that the rules allow.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::rules::Rules;

/// How long a receiver may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next callback to the same receiver.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How many of them.
const IDLE_CONNECTIONS: usize = 2;

/// What callbacks are sent with. It is made with the first of them: the certificates that it trusts take memory, and
/// most machines send none.
#[derive(Debug)]
pub(in crate::queue) struct Client {
    rules: Arc<Rules>,
    timeout: Duration,
    http: OnceLock<reqwest::Client>,
}

impl Client {
    /// One that keeps to these rules; a receiver may take so long for one callback.
    pub(in crate::queue) fn new(rules: Rules, timeout: Duration) -> Self {
        Self { rules: Arc::new(rules), timeout, http: OnceLock::new() }
    }

    pub(in crate::queue) fn rules(&self) -> &Rules {
        &self.rules
    }

    pub(super) fn http(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        // reqwest has no TLS of its own; a second installation is refused, and means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .dns_resolver(Guard(self.rules.clone()))
            // A proxy would look names up by itself, and a redirect would lead past the rules.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(self.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .user_agent(concat!("ingle/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(self.http.get_or_init(|| http))
    }
}

/// Looks names up, and gives out the addresses that may be reached: what is connected to was looked at, whatever the
/// name means a moment later.
#[derive(Debug)]
struct Guard(Arc<Rules>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut allowed = Vec::new();
            let mut refused = None;
            for address in found {
                match rules.may_reach(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(reason) => refused = Some(reason),
                }
            }
            match refused {
                Some(reason) if allowed.is_empty() => {
                    Err(Box::<dyn Error + Send + Sync>::from(format!("{}: {reason}", name.as_str())))
                }
                _ => {
                    Ok(Box::new(allowed.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send> as Addrs)
                }
            }
        })
    }
}
