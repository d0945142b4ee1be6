//! The end of a call, and all that is left of it: a record, its answer, a callback, a place among those that were given
//! up. It is one write, so that a crash finds all of that or the call as it was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::queue::job::{Callback, Ended, Facts};
use crate::queue::payload::Payload;
use crate::queue::run::attempt::AttemptResult;
use crate::queue::run::response::{ResponseWriter, unwritten};
use crate::queue::state::{Room, count};
use crate::queue::{CallRecord, CallState, Job, Queue, Start};
use host::store::{LeftJob, StoreError};
use model::function::RetryPolicy;

/// How a call ended.
pub(in crate::queue) struct Completion {
    state: CallState,
    /// The last try, if there was one.
    last: Option<LastTry>,
    took: Duration,
}

struct LastTry {
    status: u16,
    answer: Option<ResponseWriter>,
    start: Option<Start>,
    received: Option<u64>,
    /// Tries that the call may have had.
    attempts: u32,
}

impl Completion {
    pub(in crate::queue) fn new(
        state: CallState,
        last: AttemptResult,
        took: Duration,
        policy: &RetryPolicy,
    ) -> Self {
        let AttemptResult { status, answer, start, received, .. } = last;
        let last = LastTry { status, answer, start, received, attempts: policy.attempts };
        Self { state, last: Some(last), took }
    }

    /// Somebody wants it no more.
    pub(in crate::queue) fn cancelled(took: Duration) -> Self {
        Self { state: CallState::Cancelled, last: None, took }
    }
}

impl Queue {
    /// A call has ended, or a callback has; `job` knows all tries that failed. It is tried to write that until it is
    /// `hopeless`, or the store is closed: then the next process finds the call as it was.
    pub(in crate::queue) async fn end(
        &self,
        number: u64,
        job: Job,
        mut ending: Completion,
        hopeless: impl Fn(&StoreError) -> bool,
    ) -> Result<(), StoreError> {
        let shared = &self.0;
        let is_callback = job.facts.is_callback();
        let failed = ending.state == CallState::Failed;
        if failed {
            let last = job.facts.tries.last().map_or("", |last| last.reason.as_str());
            tracing::warn!(
                function = %job.facts.function, call = job.facts.call_id, tries = job.facts.tried, reason = last,
                "{} is given up", if is_callback { "the callback of a queued call" } else { "a queued call" }
            );
        }
        let mut left = self.write_aftermath(&job, &mut ending).await;
        let (size, dead) = (job.payload.size(), failed.then(|| job.encode()));
        let result_size = left.record.as_ref().map_or(0, |(_, answer)| answer.size());
        let has_record = left.record.is_some();
        let follower = {
            let mut state = shared.state();
            // First: what is given up or remembered may be found and thrown away as soon as it is there.
            state.dead_size += if failed { size } else { 0 };
            state.dead += usize::from(failed);
            state.result_size += result_size;
            state.records += usize::from(has_record);
            left.callback.as_ref().map(|callback| {
                // Another number than its call's, which is remembered, or given up, under that.
                let number = state.next;
                state.next += 1;
                (number, callback.encode())
            })
        };
        let record = left.record.take().map(|(record, answer)| record.encode(&answer));
        let stored = LeftJob { dead, record, follower: follower.clone() };
        let end = || shared.store.end_job(number, stored.clone());
        if let Err(error) = shared.persist_with_retry("the end of a queued call", end, hopeless).await {
            // Which of the two the store has, the next start will see, and tidy up.
            let mut state = shared.state();
            state.dead_size -= if failed { size } else { 0 };
            state.dead -= usize::from(failed);
            state.result_size -= result_size;
            state.records -= usize::from(has_record);
            return Err(error);
        }
        if !failed {
            shared.spool.remove(&job.payload).await;
        }
        if let Some(room) = left.room {
            room.keep();
        }
        let too_much = {
            let mut state = shared.state();
            state.left(&job.facts, size, number);
            if !has_record && !is_callback {
                state.index.remove(&job.facts.call_id, number);
            }
            if let (Some(callback), Some((number, _))) = (left.callback, follower) {
                state.told += 1;
                shared.add(&mut state, &callback.facts, number, None);
            }
            if state.watched.remove(&number) {
                shared.ended.notify_one();
            }
            for watcher in state.watchers.remove(&number).into_iter().flatten().filter(|_| !is_callback) {
                // It may have gone.
                let _ = watcher.send(ending.state);
            }
            let config = &shared.config;
            state.dead_size > config.max_dead_size
                || state.result_size > config.max_results_size
                // Many go in one write.
                || state.records > config.max_records + config.max_records / 10
        };
        if too_much {
            shared.expire.notify_one();
        }
        let totals = &shared.totals;
        // Last: who sees it counted finds all of it done.
        count(match (ending.state, is_callback) {
            (CallState::Failed, false) => &totals.given_up,
            (CallState::Failed, true) => &totals.untold,
            (CallState::Cancelled, _) => &totals.cancelled,
            (_, false) => &totals.made,
            (_, true) => &totals.told,
        });
        Ok(())
    }

    /// What a call leaves beside itself, on the disk as far as it has files.
    async fn write_aftermath(&self, job: &Job, ending: &mut Completion) -> Aftermath {
        let (shared, facts) = (&self.0, &job.facts);
        if facts.is_callback() {
            return Aftermath::default();
        }
        let (mut answer, mut room, mut omitted) = (None, None, None);
        if let Some(kept) = ending.last.as_mut().and_then(|last| last.answer.take()) {
            let kept = kept.finish(&shared.spool).await;
            (answer, room, omitted) = (Some(kept.payload), Some(kept.room), kept.omitted);
        }
        let callback = ending
            .callback(facts, omitted.clone())
            .map(|facts| Job { facts, payload: answer.clone().unwrap_or_else(Payload::nothing) });
        // Answers that are kept with records have room of their own.
        let room = room.filter(|_| callback.is_some());
        if shared.config.max_records == 0 {
            return Aftermath { record: None, callback, room };
        }
        let now = Timestamp::now();
        let mut result_until = None;
        if let (Some(payload), Some(seconds)) = (&mut answer, facts.keep) {
            result_until = SignedDuration::try_from(Duration::from_secs(seconds))
                .ok()
                .and_then(|keep| now.checked_add(keep).ok());
            if callback.is_some() {
                // Each goes in its own time.
                match shared.spool.share(payload).await {
                    Ok(own) => *payload = own,
                    Err(error) => {
                        *payload = Payload::nothing();
                        omitted = Some(unwritten(&error));
                    }
                }
            }
        } else {
            answer = None;
        }
        let last = ending.last.as_ref();
        let record = CallRecord {
            ended_at: Some(now),
            tries: facts.tried + u32::from(ending.state == CallState::Done),
            start: last.and_then(|last| last.start),
            code: last.map(|last| last.status),
            received: last.and_then(|last| last.received),
            result_until,
            omitted,
            ..CallRecord::of(facts, &job.payload, ending.state)
        };
        Aftermath { record: Some((record, answer.unwrap_or_else(Payload::nothing))), callback, room }
    }
}

impl Completion {
    /// What is known of the callback, if the call asked for one.
    fn callback(&self, facts: &Facts, omitted: Option<String>) -> Option<Facts> {
        let Some(Callback { url, ended: None }) = &facts.callback else { return None };
        // Whoever cancels a call wants to hear no more of it.
        let last = self.last.as_ref()?;
        let ended = Ended {
            message_id: uuid::Uuid::new_v4().to_string(),
            status: last.status,
            took_us: self.took.as_micros().try_into().unwrap_or(u64::MAX),
            retries: facts.tried.saturating_sub(u32::from(self.state == CallState::Failed)),
            most_retries: last.attempts.saturating_sub(1),
            omitted,
        };
        Some(facts.of_callback(Callback { url: url.clone(), ended: Some(ended) }))
    }
}

/// What a call leaves beside itself.
#[derive(Default)]
struct Aftermath {
    record: Option<(CallRecord, Payload)>,
    callback: Option<Job>,
    /// What the callback has of the queue's room.
    room: Option<Room>,
}
