//! Makes one call or callback, and does with it what its outcome asks for.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::attempt::{self, Tried};
use super::callback::{self, Callback, Ended};
use super::lanes::LaneKey;
use super::outcome::Outcome;
use super::state::{Shared, count, readable};
use super::{Job, Queue, RetryPolicy, Try};
use crate::store::StoreError;

/// How long a store that does not take a write is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// How long a call is left alone that cannot be read from the store.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

impl Queue {
    /// Makes a call, and does with it what its outcome asks for.
    pub(super) async fn work(&self, lane: &LaneKey, number: u64) {
        let mut running = Running { queue: self, lane, number, next: Next::Nothing };
        let job = match self.0.store.job(number) {
            Ok(Some(bytes)) => readable(number, &bytes),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(
                    ?lane,
                    number,
                    error = &error as &dyn std::error::Error,
                    "a queued call cannot be read; trying again"
                );
                running.next = Next::At(Instant::now() + UNREADABLE_PAUSE);
                return;
            }
        };
        let Some(mut job) = job else { return };
        let (began, at) = (Instant::now(), Timestamp::now());
        // Broken off: the next process makes it again.
        let Some((tried, policy)) = self.0.break_off.run_until_cancelled(self.try_once(&job)).await else {
            return;
        };
        let took = began.elapsed();
        let failed = |code, reason: &str| Try::ended(at, took, code, reason);
        match &tried.outcome {
            Outcome::Done => self.done(number, job, tried, took, &policy).await,
            Outcome::Hopeless { reason } => {
                job.facts.failed(failed(None, reason));
                self.give_up(number, job, tried, took, &policy).await;
            }
            Outcome::Busy { pause, reason } => {
                // A clock that was set back makes it young again.
                let age = Duration::try_from(at.duration_since(job.facts.queued_at)).unwrap_or_default();
                if age > self.0.config.max_age {
                    job.facts.failed(failed(None, &format!("{reason}, for longer than queue.max_age")));
                    self.give_up(number, job, tried, took, &policy).await;
                } else {
                    running.next = Next::Refused(*pause);
                }
            }
            Outcome::Failed { code, pause, reason } => {
                job.facts.failed(failed(*code, reason));
                if job.facts.tried >= policy.attempts {
                    self.give_up(number, job, tried, took, &policy).await;
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

    /// One try, and the policy that it is made under.
    async fn try_once(&self, job: &Job) -> (Tried, RetryPolicy) {
        let shared = &self.0;
        let quiet = |outcome, status| Tried { outcome, status, answer: None };
        if let Some(Callback { ended: Some(ended), .. }) = &job.facts.callback {
            let secret = shared.config.callback_secret_file.as_deref();
            let told = callback::tell(&shared.receivers, job, ended, &shared.spool, secret).await;
            return (quiet(told, 0), shared.config.retry.clone());
        }
        let function = &job.facts.function;
        let Some(entry) = shared.directory.get(function) else {
            let reason = format!("there is no function {function} any more");
            return (quiet(Outcome::Hopeless { reason }, 404), shared.config.retry.clone());
        };
        let policy = shared.policy_of(&entry);
        let tried =
            attempt::attempt(&entry, job, &shared.spool, &policy, &shared.config, shared.max_waiting).await;
        (tried, policy)
    }

    /// Forgets what was made, or puts its callback in its place.
    async fn done(&self, number: u64, job: Job, tried: Tried, took: Duration, policy: &RetryPolicy) {
        let shared = &self.0;
        let callback = self.callback(&job, tried, took, policy).await;
        let kept = match &callback {
            Some(callback) => {
                let bytes = callback.encode();
                shared.until_kept(|| shared.store.put_job(number, bytes.clone())).await
            }
            None => shared.until_kept(|| shared.store.delete_job(number)).await,
        };
        count(if job.facts.is_callback() { &shared.totals.told } else { &shared.totals.made });
        // Otherwise nobody knows which of the two the store has; the next start does, and tidies up.
        if !kept {
            return;
        }
        shared.spool.remove(&job.content).await;
        let mut state = shared.state();
        state.size -= job.content.size();
        if let Some(callback) = callback {
            state.size += callback.content.size();
            shared.add(&mut state, &callback.facts, number, None);
        }
    }

    /// The callback that a call leaves which has ended, if it asked for one.
    async fn callback(&self, job: &Job, tried: Tried, took: Duration, policy: &RetryPolicy) -> Option<Job> {
        let Some(Callback { url, ended: None }) = &job.facts.callback else { return None };
        let (content, omitted) = match tried.answer {
            Some(answer) => answer.finish(&self.0.spool).await,
            None => (super::Content::Inline { head: Vec::new(), body: Vec::new() }, None),
        };
        let failed = !matches!(tried.outcome, Outcome::Done);
        let ended = Ended {
            status: tried.status,
            took_us: took.as_micros().try_into().unwrap_or(u64::MAX),
            retries: job.facts.tried.saturating_sub(u32::from(failed)),
            most_retries: policy.attempts - 1,
            omitted,
        };
        let callback = Callback { url: url.clone(), ended: Some(ended) };
        Some(Job { facts: job.facts.of_callback(callback), content })
    }

    /// Keeps a call among those that were given up.
    async fn give_up(&self, number: u64, job: Job, tried: Tried, took: Duration, policy: &RetryPolicy) {
        let shared = &self.0;
        let last = job.facts.tries.last().map_or("", |last| last.reason.as_str());
        let is_callback = job.facts.is_callback();
        tracing::warn!(
            function = %job.facts.function, call = job.facts.call_id, tries = job.facts.tried, reason = last,
            "{} is given up", if is_callback { "the callback of a queued call" } else { "a queued call" }
        );
        let callback = self.callback(&job, tried, took, policy).await;
        let (bytes, size) = (job.encode(), job.content.size());
        let follower = {
            let mut state = shared.state();
            // First: it may be found and thrown away as soon as it is there.
            state.dead_size += size;
            callback.as_ref().map(|callback| {
                state.size += callback.content.size();
                state.next += 1;
                (state.next - 1, callback.encode())
            })
        };
        let kept = shared.until_kept(|| shared.store.bury_job(number, bytes.clone(), follower.clone())).await;
        let too_much = {
            let mut state = shared.state();
            let left = if kept { &mut state.size } else { &mut state.dead_size };
            *left -= size;
            if let (Some(callback), Some((number, _)), true) = (callback, follower, kept) {
                shared.add(&mut state, &callback.facts, number, None);
            }
            state.dead_size > shared.config.max_dead_size
        };
        if too_much {
            shared.expire.notify_one();
        }
        count(if is_callback { &shared.totals.untold } else { &shared.totals.given_up });
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
    lane: &'a LaneKey,
    number: u64,
    next: Next,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A panic is an error of ours: the call is made again, but not at once.
        let next = if std::thread::panicking() { Next::At(Instant::now() + STORE_PAUSE) } else { self.next };
        let mut state = self.queue.0.state();
        match next {
            Next::Nothing => state.lanes.ended(self.lane, self.number, None),
            Next::At(at) => state.lanes.ended(self.lane, self.number, Some(at)),
            Next::Refused(asked) => state.lanes.refused(self.lane, self.number, Instant::now(), asked),
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
