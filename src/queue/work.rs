//! Makes one call, and does with it what its outcome asks for.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::attempt::{self, Outcome};
use super::state::{Shared, count, readable};
use super::{Job, Queue, Try};
use crate::function::FunctionKey;
use crate::store::StoreError;

/// How long a store that does not take a write is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// How long a call is left alone that cannot be read from the store.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

impl Queue {
    /// Makes a call, and does with it what its outcome asks for.
    pub(super) async fn work(&self, function: &FunctionKey, number: u64) {
        let mut running = Running { queue: self, function, number, next: Next::Nothing };
        let job = match self.0.store.job(number) {
            Ok(Some(bytes)) => readable(number, &bytes),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(%function, number, error = &error as &dyn std::error::Error, "a queued call cannot be read; trying again");
                running.next = Next::At(Instant::now() + UNREADABLE_PAUSE);
                return;
            }
        };
        let Some(mut job) = job else { return };
        let (began, at) = (Instant::now(), Timestamp::now());
        let Some(entry) = self.0.directory.get(function) else {
            let reason = format!("there is no function {function} any more");
            job.facts.failed(Try::ended(at, Duration::ZERO, None, &reason));
            self.give_up(number, job).await;
            return;
        };
        let policy = self.0.policy_of(&entry);
        let attempt =
            attempt::attempt(&entry, &job, &self.0.spool, &policy, &self.0.config, self.0.max_waiting);
        // Broken off: the next process makes it again.
        let Some(outcome) = self.0.break_off.run_until_cancelled(attempt).await else { return };
        let failed = |code, reason: &str| Try::ended(at, began.elapsed(), code, reason);
        match outcome {
            Outcome::Done => {
                if self.0.until_kept(|| self.0.store.delete_job(number)).await {
                    self.0.spool.remove(&job.content).await;
                    self.0.state().size -= job.content.size();
                }
                count(&self.0.totals.made);
            }
            Outcome::Hopeless { reason } => {
                job.facts.failed(failed(None, &reason));
                self.give_up(number, job).await;
            }
            Outcome::Busy { pause, reason } => {
                // A clock that was set back makes it young again.
                let age = Duration::try_from(at.duration_since(job.facts.queued_at)).unwrap_or_default();
                if age > self.0.config.max_age {
                    job.facts.failed(failed(None, &format!("{reason}, for longer than queue.max_age")));
                    self.give_up(number, job).await;
                } else {
                    running.next = Next::Refused(pause);
                }
            }
            Outcome::Failed { code, pause, reason } => {
                job.facts.failed(failed(code, &reason));
                if job.facts.tried >= policy.attempts {
                    self.give_up(number, job).await;
                    return;
                }
                let own = policy.pause(job.facts.tried, chance());
                let pause = pause.map_or(own, |asked| asked.max(own));
                job.facts.not_before = Timestamp::now().checked_add(pause).ok();
                count(&self.0.totals.retried);
                // A try that is not remembered would be made for ever.
                let bytes = job.encode();
                self.0.until_kept(|| self.0.store.put_job(number, bytes.clone())).await;
                running.next = Next::At(Instant::now() + pause);
            }
        }
    }

    /// Keeps a call among those that were given up.
    async fn give_up(&self, number: u64, job: Job) {
        let last = job.facts.tries.last().map_or("", |last| last.reason.as_str());
        tracing::warn!(
            function = %job.facts.function, call = job.facts.call_id, tries = job.facts.tried, reason = last,
            "a queued call is given up"
        );
        let (bytes, size) = (job.encode(), job.content.size());
        // First: it may be found and thrown away as soon as it is there.
        self.0.state().dead_size += size;
        let kept = self.0.until_kept(|| self.0.store.bury_job(number, bytes.clone())).await;
        let too_much = {
            let mut state = self.0.state();
            let left = if kept { &mut state.size } else { &mut state.dead_size };
            *left -= size;
            state.dead_size > self.0.config.max_dead_size
        };
        if too_much {
            self.0.expire.notify_one();
        }
        count(&self.0.totals.given_up);
    }
}

impl Shared {
    /// Writes until the store has taken it: what has been made must not be made again. `false`: the store was closed
    /// before it could, and all is as it was.
    pub(super) async fn until_kept<F: Future<Output = Result<(), StoreError>>>(
        &self,
        write: impl Fn() -> F,
    ) -> bool {
        let mut said = false;
        loop {
            let error = match write().await {
                Ok(()) => return true,
                Err(StoreError::Closed) => return false,
                Err(error) => error,
            };
            if !said {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the end of a queued call cannot be kept; trying until it can"
                );
                said = true;
            }
            if self.break_off.run_until_cancelled(tokio::time::sleep(STORE_PAUSE)).await.is_none() {
                return false;
            }
        }
    }
}

/// What follows for a call that was being made.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// Nothing more.
    Nothing,
    /// It is made again at a time.
    At(Instant),
    /// Its function has no room, and is left alone for at least so long.
    Refused(Duration),
}

/// A call that is being made; whatever happens to its task, its lane goes on.
struct Running<'a> {
    queue: &'a Queue,
    function: &'a FunctionKey,
    number: u64,
    next: Next,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A panic is an error of ours: the call is made again, but not at once.
        let next = if std::thread::panicking() { Next::At(Instant::now() + STORE_PAUSE) } else { self.next };
        let mut state = self.queue.0.state();
        match next {
            Next::Nothing => state.lanes.ended(self.function, self.number, None),
            Next::At(at) => state.lanes.ended(self.function, self.number, Some(at)),
            Next::Refused(asked) => state.lanes.refused(self.function, self.number, Instant::now(), asked),
        }
        drop(state);
        self.queue.0.changed.notify_one();
    }
}

/// A number from 0 to 1, by chance.
fn chance() -> f64 {
    let random = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_ne_bytes([random[0], random[1], random[2], random[3]])) / f64::from(u32::MAX)
}
