//! Makes one call, and does with it what its outcome asks for.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::attempt::{self, Outcome};
use super::state::{Shared, count, readable};
use super::{Body, Job, Queue, Try};
use crate::function::FunctionKey;
use crate::store::StoreError;

/// How long a store that does not take a write is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(2);

impl Queue {
    /// Makes a call, and does with it what its outcome asks for.
    pub(super) async fn work(&self, function: &FunctionKey, number: u64) {
        let running = Running { queue: self, function, number, again: None };
        let job = match self.0.store.job(number) {
            Ok(Some(bytes)) => readable(number, &bytes),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(%function, number, error = &error as &dyn std::error::Error, "a queued call cannot be read; trying again");
                running.again(STORE_PAUSE);
                return;
            }
        };
        let Some(mut job) = job else { return };
        let (began, at) = (Instant::now(), Timestamp::now());
        let Some(entry) = self.0.directory.get(function) else {
            let reason = format!("there is no function {function} any more");
            job.facts.tries.push(Try::ended(at, Duration::ZERO, None, reason));
            self.give_up(running, job).await;
            return;
        };
        let policy = self.0.policy_of(&entry);
        let outcome = attempt::attempt(&entry, &job, &self.0.spool, &policy, self.0.max_waiting).await;
        let failed = |code, reason| Try::ended(at, began.elapsed(), code, reason);
        match outcome {
            Outcome::Done { .. } => {
                self.0.until_kept(|| self.0.store.delete_job(number)).await;
                self.0.forget(&job.body).await;
                count(&self.0.totals.made);
            }
            Outcome::Hopeless { reason } => {
                job.facts.tries.push(failed(None, reason));
                self.give_up(running, job).await;
            }
            Outcome::Busy { pause, reason } => {
                // A clock that was set back makes it young again.
                let age = Duration::try_from(at.duration_since(job.facts.queued_at)).unwrap_or_default();
                if age > self.0.config.max_age {
                    job.facts.tries.push(failed(None, format!("{reason}, for longer than queue.max_age")));
                    self.give_up(running, job).await;
                } else {
                    running.again(pause);
                }
            }
            Outcome::Failed { code, pause, reason } => {
                job.facts.tries.push(failed(code, reason));
                let tries = u32::try_from(job.facts.tries.len()).unwrap_or(u32::MAX);
                if tries >= policy.attempts {
                    self.give_up(running, job).await;
                    return;
                }
                let own = policy.pause(tries, chance());
                let pause = pause.map_or(own, |asked| asked.max(own));
                job.facts.not_before = Timestamp::now().checked_add(pause).ok();
                // Not waited for: lost with the process, the call is made a little earlier and once more.
                self.0.store.put_job_soon(number, job.encode());
                count(&self.0.totals.retried);
                running.again(pause);
            }
        }
    }

    /// Keeps a call among those that were given up.
    async fn give_up(&self, running: Running<'_>, job: Job) {
        let last = job.facts.tries.last().map_or("", |last| last.reason.as_str());
        tracing::warn!(
            function = %job.facts.function, call = job.facts.call_id, tries = job.facts.tries.len(), reason = last,
            "a queued call is given up"
        );
        let (number, bytes) = (running.number, job.encode());
        self.0.until_kept(|| self.0.store.bury_job(number, bytes.clone())).await;
        self.0.state().size -= job.body.size();
        count(&self.0.totals.given_up);
    }
}

impl Shared {
    /// Writes until the store has taken it: what has been made must not be made again.
    async fn until_kept<F: Future<Output = Result<(), StoreError>>>(&self, write: impl Fn() -> F) {
        let mut said = false;
        while let Err(error) = write().await {
            if matches!(error, StoreError::Closed) {
                return;
            }
            if !said {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the end of a queued call cannot be kept; trying until it can"
                );
                said = true;
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }

    /// Removes what is left of a call.
    async fn forget(&self, body: &Body) {
        self.spool.remove(body).await;
        self.state().size -= body.size();
    }
}

/// A call that is being made; whatever happens to its task, its lane goes on.
struct Running<'a> {
    queue: &'a Queue,
    function: &'a FunctionKey,
    number: u64,
    again: Option<Instant>,
}

impl Running<'_> {
    fn again(mut self, pause: Duration) {
        self.again = Some(Instant::now() + pause);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A panic is an error of ours: the call is made again, but not at once.
        let again = if std::thread::panicking() { Some(Instant::now() + STORE_PAUSE) } else { self.again };
        self.queue.0.state().lanes.ended(self.function, self.number, again);
        self.queue.0.changed.notify_one();
    }
}

/// A number from 0 to 1, by chance.
fn chance() -> f64 {
    let random = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_ne_bytes([random[0], random[1], random[2], random[3]])) / f64::from(u32::MAX)
}
