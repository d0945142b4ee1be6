//! Finds a replica for a call, and waits for one when there is none.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use forward::{Caller, Failure};
use tokio::time::Instant;

use super::{Call, InvokeError};
use directory::{Endpoint, Entry, Lease, Phase};
use http1::Alarm;

/// Shortest `Retry-After` of a function that does not come up.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Longest time until the next start for which a call waits.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a look at a function's view gave.
enum Lookup {
    Replica(Lease),
    /// There are replicas, but all of them have refused this call.
    AllRefused,
    /// There may be one later.
    NotYet,
    Removed,
    Failed(String),
    /// Not before this time.
    NotBefore(Instant, String),
    /// Starts have failed in a row; the next one is at this time.
    CrashLooping(Instant, String),
}

impl Call<'_> {
    /// The replica with the fewest calls in flight, waited for if need be. `None` when all that
    /// there are have `refused`.
    pub(super) async fn find<C: Caller>(
        &self,
        refused: &[Arc<Endpoint>],
        caller: &mut C,
        alarm: &mut Alarm,
    ) -> Result<Option<Lease>, InvokeError> {
        match self.decide(lookup(self.entry, refused)) {
            Some(done) => done,
            None => self.wait(refused, caller, alarm).await,
        }
    }

    fn decide(&self, look: Lookup) -> Option<Result<Option<Lease>, InvokeError>> {
        let function = || self.entry.label.to_string();
        Some(match look {
            Lookup::Replica(lease) => Ok(Some(lease)),
            Lookup::AllRefused => Ok(None),
            Lookup::NotYet => return None,
            Lookup::Removed => Err(InvokeError::NotFound { function: function() }),
            Lookup::Failed(reason) => Err(InvokeError::Failed { function: function(), reason }),
            Lookup::NotBefore(time, _)
                if time < self.expected.deadline.min(Instant::now() + LONGEST_WAIT) =>
            {
                return None;
            }
            Lookup::NotBefore(time, reason) | Lookup::CrashLooping(time, reason) => {
                Err(InvokeError::BackingOff {
                    function: function(),
                    wait: time.saturating_duration_since(Instant::now()).max(SHORTEST_WAIT),
                    reason,
                })
            }
        })
    }

    async fn wait<C: Caller>(
        &self,
        refused: &[Arc<Endpoint>],
        caller: &mut C,
        alarm: &mut Alarm,
    ) -> Result<Option<Lease>, InvokeError> {
        let _place = WaitSlot::take(&self.entry.waiting, self.max_waiting).map_err(|waiting| {
            InvokeError::TooManyWaiting { function: self.entry.label.to_string(), waiting }
        })?;
        self.has_waited.store(true, Ordering::Relaxed);
        // Subscribed before looking again, so that no view is missed in between.
        let mut views = self.entry.watch();
        loop {
            if let Some(done) = self.decide(lookup(self.entry, refused)) {
                return done;
            }
            self.entry.wanted.notify_one();
            let mut changed = pin!(views.changed());
            poll_fn(|cx| {
                // The sender lives in the entry, which is borrowed: it cannot be gone.
                if changed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                if caller.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(self.failed(Failure::Gone)));
                }
                alarm.poll(cx, self.expected.deadline).map(|()| Err(self.no_replica_in_time()))
            })
            .await?;
        }
    }

    fn no_replica_in_time(&self) -> InvokeError {
        let view = self.entry.peek();
        InvokeError::NoReplicaInTime {
            function: self.entry.label.to_string(),
            limit: self.limit,
            reason: match &view.reason {
                Some(reason) => format!("{}: {reason}", view.phase),
                None => view.phase.to_string(),
            },
        }
    }
}

fn lookup(entry: &Entry, refused: &[Arc<Endpoint>]) -> Lookup {
    let view = entry.peek();
    if view.phase == Phase::Removing {
        return Lookup::Removed;
    }
    let is_left = |endpoint: &&Arc<Endpoint>| !refused.iter().any(|other| Arc::ptr_eq(other, endpoint));
    // One that takes no more calls leaves the view in a moment.
    let open = || view.endpoints.iter().filter(|endpoint| endpoint.is_open());
    while let Some(endpoint) = open().filter(is_left).min_by_key(|endpoint| endpoint.load()) {
        if let Some(lease) = Lease::take(endpoint) {
            return Lookup::Replica(lease);
        }
    }
    if open().next().is_some() {
        return Lookup::AllRefused;
    }
    let reason = || view.reason.clone().unwrap_or_else(|| "no reason was given".to_owned());
    match (view.phase, view.retry_at) {
        (Phase::Failed, _) => Lookup::Failed(reason()),
        // A start that is under way will most likely fail as well.
        (Phase::BackingOff | Phase::Pulling | Phase::Starting, time) if view.crash_looping => {
            Lookup::CrashLooping(time.unwrap_or_else(Instant::now), reason())
        }
        (Phase::BackingOff, Some(time)) => Lookup::NotBefore(time, reason()),
        _ => Lookup::NotYet,
    }
}

/// A place among those that wait; given back when dropped.
struct WaitSlot<'a>(&'a AtomicUsize);

impl<'a> WaitSlot<'a> {
    fn take(waiting: &'a AtomicUsize, limit: usize) -> Result<Self, usize> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiting);
        if before < limit { Ok(place) } else { Err(before) }
    }
}

impl Drop for WaitSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
