//! The state that all threads share: settings, the log, counts, and whether requests are still taken.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::metrics::Metrics;
use super::settings::Settings;
use super::spool::Spool;

/// State that all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) log: Log,
    pub(super) spool: Spool,
    metrics: Mutex<Metrics>,
    gate: Gate,
}

/// Counts requests, and knows whether more are taken.
#[derive(Debug, Default)]
struct Gate {
    in_flight: AtomicUsize,
    /// Health is denied, and the end is near.
    draining: AtomicBool,
    /// Told when the last one has ended.
    idle: Notify,
    /// Connections that wait for a request are to end.
    closing: CancellationToken,
}

/// One request, counted while it lives.
#[derive(Debug)]
pub(super) struct Ticket<'s>(&'s Gate);

impl Shared {
    /// Returns the state of a watchdog that has counted nothing yet.
    pub(super) fn new(settings: Settings, log: Log) -> Arc<Self> {
        let spool = Spool::new(&settings);
        Arc::new(Self { settings, log, spool, metrics: Mutex::default(), gate: Gate::default() })
    }

    /// Denies health from now on: the end is near.
    pub(super) fn drain(&self) {
        self.gate.draining.store(true, Ordering::Relaxed);
    }

    /// Ends the connections that wait for a request.
    pub(super) fn close(&self) {
        self.gate.closing.cancel();
    }

    /// Returns when no request is under way.
    pub(super) async fn idle(&self) {
        loop {
            let mut idle = pin!(self.gate.idle.notified());
            // From here on it hears of it.
            idle.as_mut().enable();
            if self.gate.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Counts a request; `None` when there are as many as may be.
    pub(super) fn admit(&self) -> Option<Ticket<'_>> {
        let limit = self.settings.max_inflight.unwrap_or(usize::MAX);
        let one_more = |count: usize| (count < limit).then_some(count + 1);
        let counted = self.gate.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.is_ok().then(|| Ticket(&self.gate))
    }

    /// Whether as many requests are under way as may be.
    pub(super) fn is_full(&self) -> bool {
        self.settings.max_inflight.is_some_and(|limit| self.in_flight() >= limit)
    }

    /// Requests under way.
    pub(super) fn in_flight(&self) -> usize {
        self.gate.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it was told to leave.
    pub(super) fn is_draining(&self) -> bool {
        self.gate.draining.load(Ordering::Relaxed)
    }

    /// Cancelled when connections that carry no request are to end.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.gate.closing
    }

    /// What was counted of requests that have ended.
    pub(super) fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Release) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
