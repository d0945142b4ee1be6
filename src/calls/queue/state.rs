//! State of the queue in memory, and the handles that its parts share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::callback::client::Client;
use super::codec::DecodeError;
use super::counters::Summary;
use super::job::{Callback, JobMetadata};
use super::keep::index::Index;
use super::schedule::admission::{Quota, Reservation, Usage};
use super::schedule::scheduler::{FairScheduler, LaneKey};
use super::spool::Spool;
use super::waiters::Waiters;
use directory::{Directory, Entry};
use host::store::Store;
use model::config;
use model::function::CALLBACKS;
use model::function::RetryPolicy;
use model::sync::lock;

/// The queue of functions that name none.
pub const DEFAULT_QUEUE: &str = "default";
/// The longest pause that is believed of a call that an earlier process has left, unless it may have longer ones: the
/// clock may have been another.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) directory: Arc<Directory>,
    pub(super) spool: Spool,
    pub(super) config: config::Queue,
    /// Client that callbacks are sent with.
    pub(super) receivers: Client,
    /// Calls that may wait for a replica of one function.
    pub(super) max_waiting: usize,
    /// The room of what is queued or on its way.
    pub(super) quota: Quota,
    /// The number of the next job.
    pub(super) next: AtomicU64,
    pub(super) state: Mutex<State>,
    /// Rung when something is due earlier than it was.
    pub(super) changed: Notify,
    /// Rung when calls that were given up, or remembered, are too much.
    pub(super) expire: Notify,
    /// Runtime that calls are made on.
    pub(super) runtime: Handle,
    /// Set when the daemon stops: no more calls are begun.
    pub(super) stop: CancellationToken,
    /// Set some time after it: those that still run are broken off.
    pub(super) break_off: CancellationToken,
    pub(super) running: TaskTracker,
    /// Held while calls that were given up are taken up again or thrown away, and records are forgotten.
    pub(super) dead_letter_lock: tokio::sync::Mutex<()>,
    /// Held while queues are paused or go on, so that memory and disk say the same.
    pub(super) pausing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) scheduler: FairScheduler,
    /// Room of the jobs that are queued or being made, and when they were queued; calls come first, and callbacks after
    /// them. A job that is removed here has left the queue.
    pub(super) held: BTreeMap<(bool, u64), (Timestamp, Reservation)>,
    /// Calls that are queued or remembered, by their ids.
    pub(super) index: Index,
    /// Jobs that are being made.
    pub(super) running: HashMap<u64, Running>,
    pub(super) waiters: Waiters,
    /// Calls that were given up and are kept.
    pub(super) dead: Usage,
    /// Calls that have ended and are remembered, and the answers that are kept of them.
    pub(super) records: Usage,
    pub(super) summary: Summary,
}

/// A call that is being made.
#[derive(Debug)]
pub(super) struct Running {
    /// Since when.
    pub(super) since: Timestamp,
    /// Breaks it off, for good.
    pub(super) cancel: CancellationToken,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The number of the next job.
    pub(super) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the lane that a job waits in.
    pub(super) fn lane_of(&self, facts: &JobMetadata) -> LaneKey {
        match &facts.callback {
            Some(Callback { url, ended: Some(_) }) => self.receivers.policy().lane(url),
            _ => LaneKey::Function(facts.function.clone()),
        }
    }

    /// The name of the queue that a lane is in; `None` if its function is not there any more.
    pub(super) fn queue_of(&self, lane: &LaneKey) -> Option<Box<str>> {
        let LaneKey::Function(function) = lane else { return Some(CALLBACKS.into()) };
        let entry = self.directory.get(function)?;
        let name = entry.peek().spec.asynchronous.queue.clone();
        Some(name.unwrap_or_else(|| DEFAULT_QUEUE.into()))
    }

    /// How many calls of a lane may run at the same time.
    pub(super) fn limit_of(&self, lane: &LaneKey) -> usize {
        let function = match lane {
            LaneKey::Function(function) => function,
            // Callbacks have half of all places, and those of one group a quarter of that.
            LaneKey::Receivers(_) => {
                return self.config.parallel_calls_per_function.min((self.config.parallel_calls / 8).max(1));
            }
            // A host is always in the same group, so it gets one callback at a time.
            LaneKey::Unnamed(_) => return 1,
        };
        let Some(entry) = self.directory.get(function) else { return 1 };
        let view = entry.peek();
        let each = view.spec.asynchronous.parallel_calls;
        each.map_or(self.config.parallel_calls_per_function, |each| each * view.endpoints.len().max(1))
    }

    /// Takes in a job that is on the disk and has its room.
    pub(super) fn add(
        &self,
        state: &mut State,
        facts: &JobMetadata,
        number: u64,
        at: Option<Instant>,
        reservation: Reservation,
    ) {
        let is_callback = facts.is_callback();
        if !is_callback {
            state.index.add(&facts.call_id, number);
        }
        state.held.insert((is_callback, number), (facts.queued_at, reservation));
        self.schedule(state, facts, number, at);
    }

    /// Schedules a job, now or at a given time.
    pub(super) fn schedule(&self, state: &mut State, facts: &JobMetadata, number: u64, at: Option<Instant>) {
        let lane = self.lane_of(facts);
        let queue = self.queue_of(&lane);
        state.scheduler.add(&lane, queue.as_deref().unwrap_or(DEFAULT_QUEUE), number, at);
    }

    /// When a call is to be made again whose pause was begun earlier; `None`: at once. It is at most the longest pause
    /// that the call may have: the clock may have been another.
    pub(super) fn due(&self, facts: &JobMetadata) -> Option<Instant> {
        let until = facts.not_before?;
        let pause = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        let entry = self.directory.get(&facts.function);
        let own = entry.map_or(self.config.retry.max_wait, |entry| self.policy_of(&entry).max_wait);
        Some(Instant::now() + pause.min(own.max(LONGEST_PAUSE)))
    }

    /// How calls of a function are made again.
    pub(super) fn policy_of(&self, entry: &Entry) -> RetryPolicy {
        self.config.retry.with(&entry.peek().spec.asynchronous.retry)
    }
}

/// Decodes what was stored; nothing, and a word in the log, if it cannot be read.
pub(super) fn readable<T>(
    number: u64,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) -> Option<T> {
    decode(bytes).inspect_err(|error| tracing::error!(number, %error, "a call is left as it is stored")).ok()
}
