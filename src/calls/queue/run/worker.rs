//! Makes one call or callback, and does with it what its outcome asks for.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::queue::callback;
use crate::queue::job::Callback;
use crate::queue::run::attempt::{self, AttemptResult};
use crate::queue::run::complete::Completion;
use crate::queue::run::outcome::Outcome;
use crate::queue::schedule::scheduler::{LaneKey, Next, Refusal};
use crate::queue::state::{Shared, readable};
use crate::queue::{Attempt, CallState, Job, Queue};
use host::store::StoreError;
use model::function::RetryPolicy;

/// How long a store that does not take a write is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// Attempts of a callback to a host that the configuration does not name. Callers of functions choose it, possibly to
/// harm it.
const UNNAMED_ATTEMPTS: u32 = 3;
/// How long a call is left alone that cannot be read from the store.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

impl Queue {
    /// Makes a call, and does with it what its outcome asks for.
    pub(in crate::queue) async fn work(&self, lane: &LaneKey, number: u64, cancel: CancellationToken) {
        let mut running = Running { queue: self, lane, number, next: Next::Nothing, cancel: &cancel };
        let job = match self.0.store.job(number) {
            Ok(Some(bytes)) => readable(number, &bytes, Job::decode),
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
        job.facts.started_at.get_or_insert(at);
        let tried = tokio::select! {
            // Broken off: the next process makes it again.
            () = self.0.break_off.cancelled() => return,
            () = cancel.cancelled() => None,
            tried = self.attempt_once(lane, &job) => Some(tried),
        };
        let took = began.elapsed();
        let Some((tried, policy)) = tried else {
            // Tried until it is kept, or the next process makes it again.
            let cancelled = Completion { state: CallState::Cancelled, last: None, took };
            let _ = self.end(number, job, cancelled, |_| false).await;
            return;
        };
        let failed = |code, reason: &str| Attempt::ended(at, took, code, reason);
        let state = match &tried.outcome {
            Outcome::Success => CallState::Done,
            Outcome::Permanent { reason } => {
                job.facts.failed(failed(None, reason));
                CallState::Failed
            }
            Outcome::Busy { pause, reason } => {
                // A clock that was set back makes it young again. A queue may have been paused, or the machine off:
                // then there was no room for as long as it has been asked for.
                let age = Duration::try_from(at.duration_since(job.facts.queued_at)).unwrap_or_default();
                let refused_for = self.0.state().scheduler.refused_for(lane, began);
                if age.min(refused_for) <= self.0.config.max_age {
                    let refusal = Refusal { status: tried.status, reason: reason.as_str().into() };
                    self.0.state().scheduler.note_refusal(lane, refusal);
                    running.next = Next::Refused(*pause);
                    return;
                }
                job.facts.failed(failed(None, &format!("{reason}, for longer than queue.max_age")));
                running.next = Next::GivenUp(*pause);
                CallState::Failed
            }
            Outcome::Retryable { code, pause, reason } => {
                job.facts.failed(failed(*code, reason));
                if job.facts.tried < policy.attempts {
                    let own = policy.pause(job.facts.tried, random_unit());
                    let pause = pause.map_or(own, |asked| asked.max(own));
                    job.facts.not_before = Timestamp::now().checked_add(pause).ok();
                    self.0.state().summary.retried += 1;
                    // An attempt that is not recorded would be repeated forever.
                    let bytes = job.encode();
                    let put = || self.0.store.put_job(number, bytes.clone());
                    let _ = self.0.persist_with_retry("an attempt of a queued call", put, |_| false).await;
                    running.next = Next::At(Instant::now() + pause);
                    return;
                }
                CallState::Failed
            }
        };
        let completion = Completion { state, last: Some((tried, policy.attempts)), took };
        let _ = self.end(number, job, completion, |_| false).await;
    }

    /// Makes one attempt, and returns the policy that applied to it.
    async fn attempt_once(&self, lane: &LaneKey, job: &Job) -> (AttemptResult, RetryPolicy) {
        let shared = &self.0;
        if let Some(Callback { ended: Some(ended), .. }) = &job.facts.callback {
            let secret = shared.config.callback_secret_file.as_deref();
            let told = callback::deliver(
                &shared.receivers,
                job,
                ended,
                &shared.spool,
                secret,
                shared.config.retry.max_wait,
            )
            .await;
            let mut policy = shared.config.retry.clone();
            if matches!(lane, LaneKey::Unnamed(_)) {
                policy.attempts = policy.attempts.min(UNNAMED_ATTEMPTS);
            }
            return (AttemptResult::unsent(told, 0), policy);
        }
        let function = &job.facts.function;
        let Some(entry) = shared.directory.get(function) else {
            let reason = format!("there is no function {function} any more");
            return (AttemptResult::unsent(Outcome::Permanent { reason }, 404), shared.config.retry.clone());
        };
        if job.facts.incarnation.as_ref().is_some_and(|life| *life != entry.incarnation) {
            let reason = format!(
                "function {function} was removed, and this call is not for the one that was deployed since; \
                 'ingle queue replay' makes it with that one"
            );
            return (AttemptResult::unsent(Outcome::Permanent { reason }, 404), shared.config.retry.clone());
        }
        let policy = shared.policy_of(&entry);
        let tried = attempt::attempt(&entry, job, shared, &policy).await;
        (tried, policy)
    }
}

impl Shared {
    /// Writes `what` until the store has taken it: what has been made must not be made again. An error: the store was
    /// closed before it could, or said something `hopeless`; then the next start finds what was written before that,
    /// or not.
    pub(in crate::queue) async fn persist_with_retry<F: Future<Output = Result<(), StoreError>>>(
        &self,
        what: &str,
        write: impl Fn() -> F,
        hopeless: impl Fn(&StoreError) -> bool,
    ) -> Result<(), StoreError> {
        let mut said = false;
        loop {
            let error = match write().await {
                Ok(()) => return Ok(()),
                Err(error) if matches!(error, StoreError::Closed) || hopeless(&error) => return Err(error),
                Err(error) => error,
            };
            if !said {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "{what} cannot be kept; trying until it can"
                );
                said = true;
            }
            if self.break_off.run_until_cancelled(tokio::time::sleep(STORE_PAUSE)).await.is_none() {
                return Err(error);
            }
        }
    }
}

/// A call that is being made; whatever happens to its task, its lane goes on.
struct Running<'a> {
    queue: &'a Queue,
    lane: &'a LaneKey,
    number: u64,
    next: Next,
    cancel: &'a CancellationToken,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A panic is an error of ours: the call is made again, but not at once.
        let next = if std::thread::panicking() { Next::At(Instant::now() + STORE_PAUSE) } else { self.next };
        let mut state = self.queue.0.state();
        state.running.remove(&self.number);
        let is_over = matches!(next, Next::Nothing | Next::GivenUp(_));
        if is_over {
            // What cannot be read has no other end; and somebody may have begun to wait when it had just ended.
            state.held.remove(&(self.lane.is_of_callbacks(), self.number));
            state.waiters.tell(self.number, None);
        } else if self.queue.0.stop.is_cancelled() {
            // It is not made any more by this process.
            state.waiters.close(self.number);
        }
        state.scheduler.finished(self.lane, self.number, next, Instant::now());
        drop(state);
        if self.cancel.is_cancelled() && !is_over {
            // Cancelled when its attempt had just ended, and nobody looked any more.
            let (queue, number) = (self.queue.clone(), self.number);
            let runtime = &self.queue.0.runtime;
            self.queue.0.running.spawn_on(async move { queue.cancel_queued(number).await }, runtime);
        }
        self.queue.0.changed.notify_one();
    }
}

/// A number from 0 to 1, by chance.
fn random_unit() -> f64 {
    let random = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_ne_bytes([random[0], random[1], random[2], random[3]])) / f64::from(u32::MAX)
}
