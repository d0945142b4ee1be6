//! Reaches receivers, at addresses that the rules allow.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::egress_policy::{EgressPolicy, Receiver};

/// How long a receiver may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Names that are looked up at the same time. A lookup holds a thread, of which there are few, for as long as name
/// servers like, and cannot be broken off; whoever calls functions chooses the names.
const LOOKUPS: usize = 4;

/// Client that callbacks are sent with. It is made with the first of them: the certificates that it trusts take memory,
/// and most machines send none.
#[derive(Debug)]
pub(in crate::queue) struct Client {
    policy: Arc<EgressPolicy>,
    timeout: Duration,
    /// The same for functions of this machine.
    own_timeout: Duration,
    http: OnceLock<reqwest::Client>,
}

impl Client {
    /// One that keeps to these rules; a receiver may take so long for one callback, a function of this machine so
    /// long as calls may.
    pub(in crate::queue) fn new(policy: EgressPolicy, timeout: Duration, of_calls: Duration) -> Self {
        Self { policy: Arc::new(policy), timeout, own_timeout: of_calls.max(timeout), http: OnceLock::new() }
    }

    /// How long a receiver may take.
    pub(super) fn timeout_of(&self, receiver: &Receiver) -> Duration {
        if receiver.is_gateway { self.own_timeout } else { self.timeout }
    }

    pub(in crate::queue) fn policy(&self) -> &EgressPolicy {
        &self.policy
    }

    pub(super) fn http(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        // reqwest has no TLS of its own; a second installation is refused, and means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .dns_resolver(Guard { policy: self.policy.clone(), lookups: Arc::new(Semaphore::new(LOOKUPS)) })
            // A proxy would look names up by itself, and a redirect would lead past the rules.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            // There are as many receivers as whoever calls functions likes to name.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("ingle/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(self.http.get_or_init(|| http))
    }
}

/// Looks names up, and gives out the addresses that may be reached: what is connected to was looked at, whatever the
/// name means a moment later.
#[derive(Debug)]
struct Guard {
    policy: Arc<EgressPolicy>,
    lookups: Arc<Semaphore>,
}

/// As many names are being looked up as may be.
#[derive(Debug, thiserror::Error)]
#[error("{LOOKUPS} names of receivers are being looked up already")]
pub(super) struct NoLookup;

/// None of a name's addresses may be reached.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
struct Forbidden {
    name: String,
    reason: String,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, permit) = (self.policy.clone(), self.lookups.clone().try_acquire_owned());
        Box::pin(async move {
            let permit = permit.map_err(|_| NoLookup)?;
            let name = name.as_str().to_owned();
            let look = move || {
                // Until the lookup has ended, also when nobody waits for it any more.
                let _permit = permit;
                let found = (name.as_str(), 0).to_socket_addrs()?;
                allowed(&policy, &name, found)
            };
            let allowed = tokio::task::spawn_blocking(look).await??;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Returns the addresses of a name that may be reached.
fn allowed(
    policy: &EgressPolicy,
    name: &str,
    found: impl Iterator<Item = SocketAddr>,
) -> std::io::Result<Vec<SocketAddr>> {
    let mut allowed = Vec::new();
    let mut refused = None;
    for address in found {
        match policy.may_reach(address.ip()) {
            Ok(()) => allowed.push(address),
            Err(reason) => refused = Some(reason),
        }
    }
    match refused {
        Some(reason) if allowed.is_empty() => {
            Err(std::io::Error::other(Forbidden { name: name.to_owned(), reason }))
        }
        _ => Ok(allowed),
    }
}
