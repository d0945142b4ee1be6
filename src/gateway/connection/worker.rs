//! The threads' shared state: what is served, within which limits, and what a stop waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use calls::queue::Queue;
use directory::Directory;
use host::liveness::Liveness;
use model::config::{Config, TrustedProxies};
use tokio::runtime::Handle;

use crate::gateway::access::Access;

/// The parts behind the gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The functions that can be called.
    pub directory: Arc<Directory>,
    /// The queue of async calls.
    pub queue: Queue,
    /// The rules of access to the API: credentials that open it are not passed on to functions.
    pub access: Arc<Access>,
    /// Judge of the threads that carry calls: they respond that they turn over.
    pub liveness: Liveness,
    /// Everything that is no call of a function. Its handlers run on the runtime of the daemon, never on the
    /// threads that carry calls.
    pub api: Router,
}

/// The bounds that the gateway holds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest head of a request in bytes.
    pub header_limit: usize,
    /// How long a client may take to send a head, or stay silent or not read.
    pub idle_timeout: Duration,
    /// Connections at the same time; loopback has as many of its own, and so have trusted proxies.
    pub max_connections: usize,
    /// Whether `POST /` takes the requests of Alexa skills.
    pub alexa: bool,
    /// Bytes that requests may hold that have not arrived whole.
    pub request_memory: usize,
    /// The proxies in front.
    pub trusted_proxies: TrustedProxies,
    /// Calls that may wait for one function.
    pub max_waiting: usize,
    /// Threads that serve.
    pub threads: usize,
    /// How long calls that are running may take to end when the gateway stops.
    pub drain: Duration,
}

impl Limits {
    /// Those of the configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            header_limit: config.gateway.header_limit,
            idle_timeout: config.gateway.idle_timeout,
            max_connections: config.gateway.max_connections,
            alexa: config.gateway.alexa,
            request_memory: config.gateway.request_memory,
            trusted_proxies: config.gateway.trusted_proxies.clone(),
            max_waiting: config.functions.max_waiting,
            threads: config.daemon.threads,
            drain: config.gateway.drain_timeout,
        }
    }
}

/// State that the connections of one thread share.
#[derive(Debug)]
pub(in crate::gateway) struct Worker {
    pub(in crate::gateway) gateway: Gateway,
    pub(in crate::gateway) limits: Limits,
    /// Where the API's handlers run.
    pub(in crate::gateway) runtime: Handle,
    pub(in crate::gateway) closing: AtomicBool,
    pub(in crate::gateway) connections: AtomicUsize,
    /// Requests whose end a stop waits for.
    pub(in crate::gateway) busy: AtomicUsize,
}

impl Worker {
    /// Whether connections end with the request they are at.
    pub(in crate::gateway) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Counts a request until it is dropped.
    pub(in crate::gateway) fn begin(&self) -> InFlightGuard<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(&self.busy)
    }

    /// Takes the request that is being served out of the count until this is dropped.
    pub(in crate::gateway) fn stop_awaiting(&self) -> DrainExempt<'_> {
        self.busy.fetch_sub(1, Ordering::Relaxed);
        DrainExempt(&self.busy)
    }
}

/// Counts a request as in flight until it is dropped.
pub(in crate::gateway) struct InFlightGuard<'a>(&'a AtomicUsize);

/// Exempts a request from the drain until it is dropped: it may be cut off when the gateway stops.
pub(in crate::gateway) struct DrainExempt<'a>(&'a AtomicUsize);

impl Drop for DrainExempt<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
