//! The queue: calls that are accepted now and made later, each at least once.
//!
//! ```text
//! POST /async-function/NAME ──▶ room? ──▶ spool ──▶ on disk ──▶ 202
//!                                                     │
//!                              lanes ── whose turn ──▶ attempt ──┬─ answered ─────────────▶ forgotten
//!                                ▲                               ├─ failed, or no room ──▶ back, for later
//!                                └───────────────────────────────┤
//!                                                                └─ too often, or for ever ▶ given up, and kept
//! ```
//!
//! A call that ends, either way, leaves a callback if its client asked for one: a job like it, see [`callback`].
//!
//! Invariants
//! - Whoever was answered 202 has a call on disk. It stays there until it has been answered by its function, or is
//!   among those that were given up.
//! - A call is made by one task at a time. No clock takes it away from that task: what runs is known to this process
//!   alone, and a process that starts finds nothing running.
//! - Which call is next is decided under one lock, which is never held while anything waits.

mod bounded_text;
mod callback;
mod codec;
mod counters;
mod error;
mod intake;
mod job;
mod keep;
mod payload;
mod run;
mod schedule;
mod scheduled;
mod spool;
mod state;
mod waiters;

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use counters::Summary;
pub use error::QueueError;
pub use intake::Intake;
pub use job::{Attempt, CallId, Callback, Ended, Excerpt, Job, JobMetadata, Method, ReceiverUrl};
pub use keep::dead_letter::DeadCall;
pub use keep::query::{AnswerBody, Filter, KeptAnswer};
pub use keep::record::{CallRecord, CallState, Start};
pub use payload::Payload;
pub use schedule::scheduler::Counts;
pub use scheduled::Stage;
pub use state::DEFAULT_QUEUE;

use codec::DecodeError;
use directory::Directory;
use host::store::{Store, StoreError, StoredJob};
use model::{config, wire};
use schedule::admission::{Quota, Sender, Usage};
use schedule::scheduler::{FairScheduler, Limits};
use spool::Spool;
use state::{Shared, State, readable};

/// How often calls that were given up are looked through for old ones.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// How often functions are asked for their queue, and idle connections to them are closed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The calls that are made later. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

/// How a queue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its name.
    pub name: Box<str>,
    /// No call of it is made.
    pub paused: bool,
    /// Its calls.
    pub counts: Counts,
}

impl Queue {
    /// The queue of this machine, with what an earlier process has left. Blocks; nothing is made before [`Self::run`].
    pub fn open(
        config: &config::Config,
        store: Arc<Store>,
        directory: Arc<Directory>,
        runtime: Handle,
    ) -> Result<Self, QueueError> {
        let spool = Spool::open(&config.daemon.state_dir)?;
        let settings = config.queue.clone();
        let limits = Limits { all: settings.parallel_calls, queue: settings.parallel_calls_per_queue };
        let mut state = State { scheduler: FairScheduler::new(limits), ..State::default() };
        let mut left = Left::default();
        // Of a store that is out of service nothing is read, and every call is refused when it is to be kept.
        let in_service = store.absence().is_none();
        left.unreadable = !in_service;
        let last = if in_service { store.last_job_number()? } else { 0 };
        if in_service {
            state.dead.calls = store.dead_jobs_count()?;
        }
        for row in store.dead_jobs().filter(|_| in_service) {
            let Some((_, job)) = left.row(row, Job::decode) else { continue };
            left.files.extend(job.payload.file());
            state.dead += Usage::bytes(job.payload.size());
        }
        for row in store.call_records().filter(|_| in_service) {
            let Some((number, (record, answer))) = left.row(row, CallRecord::decode) else { continue };
            left.files.extend(answer.file());
            state.index.add(&record.call_id, number);
            state.records += Usage::call(answer.size());
        }
        let shared = Arc::new(Shared {
            store: store.clone(),
            directory,
            spool,
            receivers: callback::client::Client::new(
                callback::EgressPolicy::new(&settings, config.gateway.reached_at()),
                settings.callback_timeout,
                config.functions.timeout,
            ),
            max_waiting: config.functions.max_waiting,
            quota: Quota::new(settings.max_calls, settings.max_size),
            // Also past what cannot be read.
            next: AtomicU64::new(last + 1),
            config: settings,
            state: Mutex::new(state),
            changed: Notify::new(),
            expire: Notify::new(),
            runtime,
            stop: CancellationToken::new(),
            break_off: CancellationToken::new(),
            running: TaskTracker::new(),
            dead_letter_lock: tokio::sync::Mutex::default(),
            pausing: tokio::sync::Mutex::default(),
        });
        for row in store.jobs().filter(|_| in_service) {
            let Some((number, job)) = left.row(row, Job::decode) else { continue };
            left.files.extend(job.payload.file());
            // Whatever the limits are now.
            let held = shared.quota.hold(job.facts.tenant(), job.facts.usage(job.payload.size()));
            let at = shared.due(&job.facts);
            shared.add(&mut shared.state(), &job.facts, number, at, held);
        }
        for queue in if in_service { store.paused_queues()? } else { Vec::new() } {
            shared.state().scheduler.pause(&queue, true);
        }
        if left.unreadable {
            // Nobody knows whose they are.
            tracing::warn!("files of queued calls are not looked through, because some calls cannot be read");
        } else {
            shared.spool.retain(&left.files)?;
        }
        Ok(Self(shared))
    }

    /// Makes calls until [`Self::stop`].
    pub async fn run(&self) {
        tokio::join!(self.make(), self.tidy(), self.look());
    }

    /// Begins calls when they are due, or have room.
    async fn make(&self) {
        let shared = &self.0;
        loop {
            let changed = shared.changed.notified();
            let now = self.pump();
            let due = shared.state().scheduler.next_due(now);
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = changed => {}
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
            }
        }
    }

    /// Throws away what was kept for long enough, now and then.
    async fn tidy(&self) {
        let mut interval = tokio::time::interval(EXPIRE_EVERY);
        loop {
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                _ = interval.tick() => {}
                () = self.0.expire.notified() => {}
            }
            if let Err(error) = self.expire().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "calls that were given up are kept for longer"
                );
            }
            if let Err(error) = self.expire_records().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "calls are remembered for longer");
            }
        }
    }

    /// Follows functions into other queues, and closes connections that nobody needs: those of queued calls belong to
    /// no thread that serves calls, and would be looked at by nobody.
    async fn look(&self) {
        let shared = &self.0;
        let mut interval = tokio::time::interval(LOOK_EVERY);
        while let Some(_now) = shared.stop.run_until_cancelled(interval.tick()).await {
            shared.state().scheduler.reassign(|lane| shared.queue_of(lane));
            for entry in shared.directory.all() {
                entry.peek().endpoints.iter().for_each(|endpoint| endpoint.pool.evict_idle());
            }
            shared.changed.notify_one();
        }
    }

    /// Begins no more calls, and waits for those that run, for at most so long. What is broken off then is made again
    /// by the next process.
    pub async fn stop(&self, limit: Duration) {
        {
            let mut state = self.0.state();
            self.0.stop.cancel();
            // Nobody need wait for what is not made any more.
            let state = &mut *state;
            state.waiters.retain(|number| state.running.contains_key(number));
        }
        self.0.running.close();
        if tokio::time::timeout(limit, self.0.running.wait()).await.is_err() {
            tracing::warn!(
                calls = self.0.running.len(),
                "queued calls that run are broken off; the next start makes them again"
            );
            self.0.break_off.cancel();
            self.0.running.wait().await;
        }
    }

    /// The largest body of a call in bytes.
    pub fn body_limit(&self) -> u64 {
        self.0.config.body_limit
    }

    /// Makes the callback for a client that gave this URL; else says why none can go there.
    pub fn callback_to(&self, url: &str) -> Result<Callback, String> {
        Ok(Callback { url: self.0.receivers.policy().check(url)?.into(), ended: None })
    }

    /// Begins to take in a call with this head; `body` bytes are announced to follow, if that is known.
    pub fn draft(&self, facts: &JobMetadata, head: Vec<u8>, body: Option<u64>) -> Result<Intake, QueueError> {
        let (shared, usage) = (&self.0, facts.usage(head.len() as u64));
        let reservation = shared.quota.reserve(facts.tenant(), usage, body.unwrap_or(0), Sender::Client)?;
        let writer = shared.spool.writer(head, facts.inline());
        Ok(Intake { number: shared.next_number(), reservation, writer })
    }

    /// Accepts a call; returns when it is on disk.
    pub async fn accept(&self, facts: JobMetadata, draft: Intake) -> Result<(), QueueError> {
        self.accept_and_watch(facts, draft, None).await.map(drop)
    }

    /// The same, and the call's number; how it ends is told to `watcher`, unless the daemon stops before.
    pub async fn accept_and_watch(
        &self,
        facts: JobMetadata,
        draft: Intake,
        watcher: Option<oneshot::Sender<CallState>>,
    ) -> Result<u64, QueueError> {
        let shared = &self.0;
        let Intake { number, reservation, writer } = draft;
        let job = Job { facts, payload: writer.finish().await? };
        if let Err(error) = shared.store.put_job(number, job.encode()).await {
            if !error.was_begun() {
                shared.spool.remove(&job.payload).await;
                return Err(error.into());
            }
            // It may be found by the next start: then its file must be there, too. The client need not wait for that.
            let queue = self.clone();
            let undo = async move {
                let shared = &queue.0;
                let delete = || shared.store.delete_job(number);
                let undone = shared
                    .persist_with_retry("that a call was refused", delete, StoreError::needs_restart)
                    .await;
                if undone.is_ok() {
                    shared.spool.remove(&job.payload).await;
                }
                drop(reservation);
            };
            shared.running.spawn_on(undo, &shared.runtime);
            return Err(error.into());
        }
        {
            let mut state = shared.state();
            // Once the daemon stops, it is the next one that makes it.
            if let Some(watcher) = watcher.filter(|_| !shared.stop.is_cancelled()) {
                state.waiters.add(number, watcher);
            }
            shared.add(&mut state, &job.facts, number, None, reservation);
            state.summary.accepted += 1;
        }
        self.pump();
        Ok(number)
    }

    /// The queues that there are, and how many calls each has.
    pub fn queues(&self) -> Vec<QueueStatus> {
        let queues = self.0.state().scheduler.queues().into_iter();
        queues.map(|(name, (paused, counts))| QueueStatus { name, paused, counts }).collect()
    }

    /// Makes no more calls of a queue, or makes them again; returns when that is on disk.
    pub async fn pause(&self, queue: &str, paused: bool) -> Result<(), QueueError> {
        let _one = self.0.pausing.lock().await;
        self.0.store.pause_queue(queue, paused).await?;
        self.0.state().scheduler.pause(queue, paused);
        self.pump();
        Ok(())
    }

    /// The counts of all queues together.
    pub fn summary(&self) -> Summary {
        self.0.state().summary
    }

    /// How long the call waits that was queued first; nothing if there is none.
    pub fn oldest(&self) -> Duration {
        // Numbers are given out in order, and calls come before callbacks.
        let first = self.0.state().held.first_key_value().map(|(key, (queued_at, _))| (*key, *queued_at));
        let queued_at = first.filter(|((is_callback, _), _)| !is_callback).map(|(_, queued_at)| queued_at);
        let age = queued_at.map(|at| Duration::try_from(Timestamp::now().duration_since(at)));
        age.and_then(Result::ok).unwrap_or_default()
    }

    /// How many bytes the calls send that were given up and are kept.
    pub fn dead_size(&self) -> u64 {
        self.0.state().dead.bytes
    }

    /// How many calls were given up and are kept.
    pub fn dead_count(&self) -> usize {
        self.0.state().dead.calls
    }

    /// Returns the bytes that calls, dead letters and records take on the disk.
    pub fn disk_usage(&self) -> wire::QueueUsage {
        let share = |usage: Usage| wire::Share { count: usage.calls as u64, size: usage.bytes, unused: 0 };
        let (dead, records) = {
            let state = self.0.state();
            (state.dead, state.records)
        };
        wire::QueueUsage { calls: share(self.0.quota.total()), dead: share(dead), records: share(records) }
    }

    /// Begins as many calls as there may be; the time that this went by.
    fn pump(&self) -> Instant {
        let shared = &self.0;
        let now = Instant::now();
        loop {
            // One at a time: others accept meanwhile.
            let (lane, number, cancel, token) = {
                let mut state = shared.state();
                if shared.stop.is_cancelled() {
                    return now;
                }
                let next = state.scheduler.next(now, |lane| shared.limit_of(lane));
                let Some((lane, number)) = next else { return now };
                let cancel = CancellationToken::new();
                let running = state::Running { since: Timestamp::now(), cancel: cancel.clone() };
                state.running.insert(number, running);
                // Before a stop can see that nothing runs.
                (lane, number, cancel, shared.running.token())
            };
            let queue = self.clone();
            shared.runtime.spawn(async move {
                let _runs = token;
                queue.work(&lane, number, cancel).await;
            });
        }
    }
}

/// The rows that an earlier process left behind.
#[derive(Default)]
struct Left {
    /// The files of its calls.
    files: HashSet<Uuid>,
    /// Some calls cannot be read. They stay where they are: a later version may know more.
    unreadable: bool,
}

impl Left {
    /// A row's number and what it says, if they can be read.
    fn row<T>(
        &mut self,
        row: Result<StoredJob, StoreError>,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Option<(u64, T)> {
        let (number, bytes) = match row {
            Ok(row) => row,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a queued call is left as it is stored"
                );
                self.unreadable = true;
                return None;
            }
        };
        let found = readable(number, &bytes, decode);
        self.unreadable |= found.is_none();
        found.map(|found| (number, found))
    }
}

#[cfg(test)]
mod tests;
