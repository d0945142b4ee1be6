//! The end of a call, and all that is left of it: a record, its answer, a callback, a place among those that were given
//! up. It is one write, so that a crash finds all of that or the call as it was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::queue::job::{Attempt, Callback, Ended, Excerpt, JobMetadata};
use crate::queue::payload::Payload;
use crate::queue::run::attempt::AttemptResult;
use crate::queue::run::response::unwritten;
use crate::queue::schedule::admission::{Reservation, Tenant, Usage};
use crate::queue::{CallRecord, CallState, Job, Queue};
use host::store::{LeftJob, StoreError};

/// How a call ended.
pub(in crate::queue) struct Completion {
    pub(in crate::queue) state: CallState,
    /// The last attempt, and how many the call may have had; nothing if somebody wants it no more.
    pub(in crate::queue) last: Option<(AttemptResult, u32)>,
    pub(in crate::queue) took: Duration,
}

impl Queue {
    /// Completes a call or a callback; `job` knows all attempts that failed. The write is retried until its error is
    /// `hopeless` or the store is closed: then the next process finds the call as it was.
    pub(in crate::queue) async fn end(
        &self,
        number: u64,
        job: Job,
        mut completion: Completion,
        hopeless: impl Fn(&StoreError) -> bool,
    ) -> Result<(), StoreError> {
        let (shared, ended) = (&self.0, completion.state);
        let is_callback = job.facts.is_callback();
        let failed = ended == CallState::Failed;
        if failed {
            let last = job.facts.tries.last().map_or("", |last| &*last.reason);
            tracing::warn!(
                function = %job.facts.function, number, tries = job.facts.tried, reason = last,
                "{} is given up", if is_callback { "the callback of a queued call" } else { "a queued call" }
            );
        }
        let Aftermath { record, callback } = self.write_aftermath(&job, &mut completion).await;
        // Another number than its call's, which is remembered, or given up, under that.
        let follower = callback.map(|(callback, room)| (shared.next_number(), callback, room));
        let dead = if failed { Usage::call(job.payload.size()) } else { Usage::default() };
        let recorded = record.as_ref().map_or_else(Usage::default, |(_, answer)| Usage::call(answer.size()));
        {
            let mut state = shared.state();
            // First: what is given up or remembered may be found and thrown away as soon as it is there.
            state.dead += dead;
            state.records += recorded;
        }
        let has_record = record.is_some();
        let stored = LeftJob {
            dead: failed.then(|| job.encode()),
            record: record.map(|(record, answer)| record.encode(&answer)),
            follower: follower.as_ref().map(|(number, callback, _)| (*number, callback.encode())),
        };
        let end = || shared.store.end_job(number, stored.clone());
        if let Err(error) = shared.persist_with_retry("the end of a queued call", end, hopeless).await {
            // Which of the two the store has, the next start will see, and tidy up.
            let mut state = shared.state();
            state.dead = state.dead.less(dead);
            state.records = state.records.less(recorded);
            return Err(error);
        }
        if !failed {
            shared.spool.remove(&job.payload).await;
        }
        let mut state = shared.state();
        // Before the call's own room is given back, which a client may take at once.
        if let Some((number, callback, room)) = follower {
            shared.add(&mut state, &callback.facts, number, None, room.into_callback());
        }
        state.held.remove(&(is_callback, number));
        if !has_record && !is_callback {
            state.index.remove(&job.facts.call_id, number);
        }
        state.waiters.tell(number, Some(ended));
        let config = &shared.config;
        if state.dead.bytes > config.max_dead_size
            || state.records.bytes > config.max_results_size
            // Many go in one write.
            || state.records.calls > config.max_records + config.max_records / 10
        {
            shared.expire.notify_one();
        }
        let summary = &mut state.summary;
        *match (ended, is_callback) {
            (CallState::Failed, false) => &mut summary.given_up,
            (CallState::Failed, true) => &mut summary.untold,
            (CallState::Cancelled, _) => &mut summary.cancelled,
            (_, false) => &mut summary.made,
            (_, true) => &mut summary.told,
        } += 1;
        Ok(())
    }

    /// Makes what a call leaves beside itself, on the disk as far as it has files.
    async fn write_aftermath(&self, job: &Job, completion: &mut Completion) -> Aftermath {
        let (shared, facts) = (&self.0, &job.facts);
        if facts.is_callback() {
            return Aftermath::default();
        }
        let writer = completion.last.as_mut().and_then(|(last, _)| last.response.take());
        let (mut response, mut room, mut omitted) = (None, None, None);
        if let Some(writer) = writer {
            let kept = writer.finish(&shared.spool).await;
            (response, room, omitted) = (Some(kept.payload), Some(kept.room), kept.omitted);
        }
        let callback = completion.callback(facts, omitted.clone()).map(|facts| {
            let payload = response.clone().unwrap_or_else(Payload::nothing);
            let room = room.take().unwrap_or_else(|| shared.quota.hold(Tenant::Receivers, Usage::default()));
            (Job { facts, payload }, room)
        });
        // Responses that are kept with records have room of their own.
        drop(room);
        if shared.config.max_records == 0 {
            return Aftermath { record: None, callback };
        }
        let now = Timestamp::now();
        let keep = facts.keep.and_then(|seconds| SignedDuration::try_from(Duration::from_secs(seconds)).ok());
        let result_until = keep.filter(|_| response.is_some()).and_then(|keep| now.checked_add(keep).ok());
        let mut payload = response.filter(|_| facts.keep.is_some()).unwrap_or_else(Payload::nothing);
        if callback.is_some() {
            // Each goes in its own time.
            payload = shared.spool.share(&payload).await.unwrap_or_else(|error| {
                omitted = Some(unwritten(&error));
                Payload::nothing()
            });
        }
        let refused = completion.refusal(now).map(|refusal| {
            let mut facts = facts.clone();
            facts.failed(refusal);
            facts
        });
        let is_answered = completion.state == CallState::Done && refused.is_none();
        let facts = refused.as_ref().unwrap_or(facts);
        let last = completion.last.as_ref().map(|(last, _)| last);
        let record = CallRecord {
            ended_at: Some(now),
            tries: facts.tried + u32::from(is_answered),
            start: last.and_then(|last| last.start),
            code: last.map(|last| last.status),
            received: last.and_then(|last| last.received),
            result_until,
            omitted,
            ..CallRecord::of(facts, &job.payload, completion.state)
        };
        Aftermath { record: Some((record, payload)), callback }
    }
}

impl Completion {
    /// Returns the last attempt if it was answered with an error after which a call is not made again: for the queue
    /// that is an answer, for whoever looks at the call a failure.
    fn refusal(&self, now: Timestamp) -> Option<Attempt> {
        let (last, _) = self.last.as_ref().filter(|_| self.state == CallState::Done)?;
        let code = last.status;
        let reason = format!("the function answered {code}, after which a call is not made again");
        let began = SignedDuration::try_from(self.took).ok().and_then(|took| now.checked_sub(took).ok());
        (code >= 400).then(|| Attempt::ended(began.unwrap_or(now), self.took, Some(code), &reason))
    }

    /// Makes the metadata of the callback, if the call asked for one.
    fn callback(&self, facts: &JobMetadata, omitted: Option<Excerpt>) -> Option<JobMetadata> {
        let Some(Callback { url, ended: None }) = &facts.callback else { return None };
        // Whoever cancels a call wants to hear no more of it.
        let (last, attempts) = self.last.as_ref()?;
        let ended = Ended {
            message_id: uuid::Uuid::new_v4().to_string(),
            status: last.status,
            took_us: self.took.as_micros().try_into().unwrap_or(u64::MAX),
            retries: facts.tried.saturating_sub(u32::from(self.state == CallState::Failed)),
            most_retries: attempts.saturating_sub(1),
            omitted,
        };
        Some(facts.of_callback(Callback { url: url.clone(), ended: Some(ended) }))
    }
}

/// Rows that a call leaves beside itself.
#[derive(Default)]
struct Aftermath {
    /// With the response, if that is kept.
    record: Option<(CallRecord, Payload)>,
    /// With the room of the response that it sends.
    callback: Option<(Job, Reservation)>,
}
