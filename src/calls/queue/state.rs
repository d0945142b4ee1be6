//! What the queue has in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::callback;
use super::codec::DecodeError;
use super::keep::index::Index;
use super::schedule::scheduler::{FairScheduler, LaneKey};
use super::spool::Spool;
use super::{CallState, DEFAULT_QUEUE, Facts, LONGEST_PAUSE, QueueError};
use directory::{Directory, Entry};
use host::store::Store;
use model::config;
use model::function::RetryPolicy;
use model::function::{CALLBACKS, FunctionKey};
use model::sync::lock;

/// When to come back to a queue that is full, in seconds.
const FULL_PAUSE: u32 = 5;
/// The part of the room for calls, one of so many, that timers have beside it.
const TIMERS_SHARE: usize = 10;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) directory: Arc<Directory>,
    pub(super) spool: Spool,
    pub(super) config: config::Queue,
    /// What callbacks are sent with.
    pub(super) receivers: callback::Client,
    /// Calls that may wait for a replica of one function.
    pub(super) max_waiting: usize,
    pub(super) state: Mutex<State>,
    /// Rung when something is due earlier than it was.
    pub(super) changed: Notify,
    /// Rung when calls that were given up, or remembered, are too much.
    pub(super) expire: Notify,
    /// Rung when a call of a timer has ended.
    pub(super) ended: Notify,
    /// Where calls are made.
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
    pub(super) totals: Totals,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) scheduler: FairScheduler,
    /// The number of the next call.
    pub(super) next: u64,
    /// Calls that are on their way to the disk.
    pub(super) arriving: usize,
    /// Bytes of all that they send, or have sent so far.
    pub(super) size: u64,
    /// How many calls are callbacks, or will leave one.
    pub(super) told: usize,
    /// Who has which part of that.
    pub(super) shares: BTreeMap<Owner, Share>,
    /// When calls were queued, by their numbers; callbacks are left out.
    pub(super) ages: BTreeMap<u64, Timestamp>,
    /// Calls that were given up and are kept.
    pub(super) dead: usize,
    /// Bytes that they send.
    pub(super) dead_size: u64,
    /// Calls that are queued or remembered, by their ids.
    pub(super) index: Index,
    /// What is being made.
    pub(super) running: HashMap<u64, Running>,
    /// Who waits for the end of a call.
    pub(super) watchers: HashMap<u64, Vec<oneshot::Sender<CallState>>>,
    /// Calls that have ended and are remembered.
    pub(super) records: usize,
    /// Bytes of the answers that are kept of them.
    pub(super) result_size: u64,
    /// Calls whose end a timer waits for.
    pub(super) watched: HashSet<u64>,
}

/// Who has room in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// One function, with its calls.
    Function(FunctionKey),
    /// All receivers of callbacks together, with those and the answers that are kept for them.
    Receivers,
}

impl Owner {
    fn of(lane: &LaneKey) -> Self {
        match lane {
            LaneKey::Function(function) => Self::Function(function.clone()),
            LaneKey::Receivers(_) => Self::Receivers,
        }
    }
}

/// What an owner has of the queue.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Calls that are on their way to the disk.
    arriving: usize,
    /// Bytes of all that it has, that which is on its way included.
    size: u64,
}

/// A call that is being made.
#[derive(Debug)]
pub(super) struct Running {
    /// Since when.
    pub(super) since: Timestamp,
    /// Breaks it off, for good.
    pub(super) cancel: CancellationToken,
}

/// Counts since the daemon began.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Calls that were accepted.
    pub(super) accepted: AtomicU64,
    /// Calls that were answered as they should be.
    pub(super) made: AtomicU64,
    /// Tries that failed, and are followed by another.
    pub(super) retried: AtomicU64,
    /// Calls that were given up.
    pub(super) given_up: AtomicU64,
    /// Calls that somebody cancelled.
    pub(super) cancelled: AtomicU64,
    /// Callbacks that were taken by their receivers.
    pub(super) told: AtomicU64,
    /// Callbacks that were given up.
    pub(super) untold: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a place for a call that sends so much, and gives it a number. What it has only announced must have room
    /// as well, but takes it when it comes: a client may be slow, or never send it. A function that has half of the
    /// room gets no more, so that others are queued while it has too many calls; and timers have some that others have
    /// not.
    pub(super) fn arrive(
        self: &Arc<Self>,
        facts: &Facts,
        size: u64,
        announced: u64,
        by_timer: bool,
    ) -> Result<Arriving, QueueError> {
        let mut state = self.state();
        let calls = self.config.max_calls;
        // Receivers are anybody, and may take their time: they must not keep others from being queued.
        if facts.callback.is_some() && state.told >= calls.div_ceil(2) {
            return Err(QueueError::Full {
                what: format!("{} calls with callbacks (half of queue.max_calls)", calls.div_ceil(2)),
                retry_after: FULL_PAUSE,
            });
        }
        let room = calls + if by_timer { calls.div_ceil(TIMERS_SHARE) } else { 0 };
        if state.scheduler.total() + state.arriving >= room {
            return Err(QueueError::Full {
                what: format!("{calls} calls (queue.max_calls)"),
                retry_after: FULL_PAUSE,
            });
        }
        let lane = facts.lane();
        let (owner, half) = (Owner::of(&lane), room.div_ceil(2));
        let arriving = state.shares.get(&owner).map_or(0, |share| share.arriving);
        if let Owner::Function(function) = &owner
            && state.scheduler.count(&lane) + arriving >= half
        {
            return Err(QueueError::Full {
                what: format!("{half} calls of {function} (half of queue.max_calls)"),
                retry_after: FULL_PAUSE,
            });
        }
        self.take_room(&mut state, &owner, 0, size.saturating_add(announced), by_timer)?;
        state.give_back(&owner, announced);
        state.shares.entry(owner.clone()).or_default().arriving += 1;
        state.arriving += 1;
        let told = facts.callback.is_some();
        state.told += usize::from(told);
        let number = state.next;
        state.next += 1;
        Ok(Arriving { shared: self.clone(), number, owner, told, by_timer, size, kept: false })
    }

    /// Tells when a call has ended, and how. The channel closes without a word when the daemon stops before that.
    pub(super) fn watch(state: &mut State, number: u64) -> oneshot::Receiver<CallState> {
        let (sender, receiver) = oneshot::channel();
        let watchers = state.watchers.entry(number).or_default();
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.push(sender);
        receiver
    }

    /// Forgets those who have stopped waiting for the end of a call.
    pub(super) fn unwatch(state: &mut State, number: u64) {
        if let Some(watchers) = state.watchers.get_mut(&number) {
            watchers.retain(|watcher| !watcher.is_closed());
            if watchers.is_empty() {
                state.watchers.remove(&number);
            }
        }
    }

    /// Takes room for `more` bytes of something of which there are `own`. That is refused once its owner has half of
    /// the room with other things; so it has that and one thing more at most.
    fn take_room(
        &self,
        state: &mut State,
        owner: &Owner,
        own: u64,
        more: u64,
        by_timer: bool,
    ) -> Result<(), QueueError> {
        let bytes = self.config.max_size;
        let room = bytes.saturating_add(if by_timer { bytes.div_ceil(TIMERS_SHARE as u64) } else { 0 });
        let half = room.div_ceil(2);
        let full = |what| Err(QueueError::Full { what, retry_after: FULL_PAUSE });
        if state.shares.get(owner).is_some_and(|share| share.size - own >= half) {
            return full(match owner {
                Owner::Function(function) => format!("{half} bytes for {function} (half of queue.max_size)"),
                Owner::Receivers => format!("{half} bytes for callbacks (half of queue.max_size)"),
            });
        }
        if state.size.saturating_add(more) > room {
            return full(format!("{bytes} bytes (queue.max_size)"));
        }
        state.take(owner, more);
        Ok(())
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
        let LaneKey::Function(function) = lane else {
            // Callbacks have half of all places, and those of one group a quarter of that.
            return self.config.parallel_calls_per_function.min((self.config.parallel_calls / 8).max(1));
        };
        let Some(entry) = self.directory.get(function) else { return 1 };
        let view = entry.peek();
        let each = view.spec.asynchronous.parallel_calls;
        each.map_or(self.config.parallel_calls_per_function, |each| each * view.endpoints.len().max(1))
    }

    /// Takes in a job that is on the disk and has its room.
    pub(super) fn add(&self, state: &mut State, facts: &Facts, number: u64, at: Option<Instant>) {
        if !facts.is_callback() {
            state.index.add(&facts.call_id, number);
            state.ages.insert(number, facts.queued_at);
        }
        let lane = facts.lane();
        let queue = self.queue_of(&lane);
        state.scheduler.add(&lane, queue.as_deref().unwrap_or(DEFAULT_QUEUE), number, at);
    }

    /// When a call is to be made again whose pause was begun earlier; `None`: at once. It is at most the longest pause
    /// that the call may have: the clock may have been another.
    pub(super) fn due(&self, facts: &Facts) -> Option<Instant> {
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

/// Room that an answer has in the queue while it is written; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    shared: Arc<Shared>,
    size: u64,
}

impl Room {
    pub(super) fn none(shared: &Arc<Shared>) -> Self {
        Self { shared: shared.clone(), size: 0 }
    }

    /// It has so many bytes in all.
    pub(super) fn grow(&mut self, size: u64) -> Result<(), QueueError> {
        if size > self.size {
            let more = size - self.size;
            self.shared.take_room(&mut self.shared.state(), &Owner::Receivers, self.size, more, false)?;
            self.size = size;
        }
        Ok(())
    }

    /// It has only so many bytes.
    pub(super) fn shrink(&mut self, size: u64) {
        if size < self.size {
            self.shared.state().give_back(&Owner::Receivers, self.size - size);
            self.size = size;
        }
    }

    /// A callback has it, and gives it back at its own end.
    pub(super) fn keep(mut self) {
        self.size = 0;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// A call on its way to the disk, which has a place.
#[derive(Debug)]
pub(super) struct Arriving {
    shared: Arc<Shared>,
    pub(super) number: u64,
    owner: Owner,
    /// It is a callback, or will leave one.
    told: bool,
    by_timer: bool,
    size: u64,
    kept: bool,
}

impl Arriving {
    /// It sends so much in all; room is taken for what is more than was known.
    pub(super) fn grow(&mut self, size: u64) -> Result<(), QueueError> {
        if size > self.size {
            let (more, state) = (size - self.size, &mut self.shared.state());
            self.shared.take_room(state, &self.owner, self.size, more, self.by_timer)?;
            self.size = size;
        }
        Ok(())
    }

    /// It is on the disk.
    pub(super) fn arrived(mut self, facts: &Facts) {
        self.kept = true;
        self.shared.add(&mut self.shared.state(), facts, self.number, None);
    }
}

impl State {
    /// A job that an earlier process has left has so many bytes, whatever the limits are now.
    pub(super) fn found(&mut self, facts: &Facts, size: u64) {
        self.take(&Owner::of(&facts.lane()), size);
        self.told += usize::from(facts.callback.is_some());
    }

    /// A call is not queued any more.
    pub(super) fn left(&mut self, facts: &Facts, size: u64, number: u64) {
        self.give_back(&Owner::of(&facts.lane()), size);
        self.told -= usize::from(facts.callback.is_some());
        self.ages.remove(&number);
    }

    fn take(&mut self, owner: &Owner, size: u64) {
        self.size += size;
        self.shares.entry(owner.clone()).or_default().size += size;
    }

    fn give_back(&mut self, owner: &Owner, size: u64) {
        self.size -= size;
        if let Some(share) = self.shares.get_mut(owner) {
            share.size -= size;
            self.forget_empty(owner);
        }
    }

    fn forget_empty(&mut self, owner: &Owner) {
        if self.shares.get(owner).is_some_and(|share| (share.arriving, share.size) == (0, 0)) {
            self.shares.remove(owner);
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.arriving -= 1;
        if let Some(share) = state.shares.get_mut(&self.owner) {
            share.arriving -= 1;
        }
        // Last: it forgets those that have nothing.
        if self.kept {
            state.forget_empty(&self.owner);
        } else {
            state.told -= usize::from(self.told);
            state.give_back(&self.owner, self.size);
        }
    }
}

/// What was stored, if it can be read.
pub(super) fn readable<T>(
    number: u64,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) -> Option<T> {
    decode(bytes).inspect_err(|error| tracing::error!(number, %error, "a call is left as it is stored")).ok()
}
