//! Calls that timers make: accepted together with what the timer remembers of them, and watched until they end.

use super::payload::Payload;
use super::schedule::admission::Sender;
use super::{CallRecord, CallState, Job, JobMetadata, Queue, QueueError};
use host::store::StoreError;
use model::function::Incarnation;

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Still to be made, or being made.
    Pending {
        /// How many attempts have failed.
        tried: u32,
    },
    /// Given up, and kept.
    GivenUp,
    /// Cancelled.
    Cancelled,
    /// Not there any more: it was made.
    Made,
    /// Its row is there and cannot be read: it is not made, and stays.
    Unreadable,
}

impl Queue {
    /// Accepts a call that a timer makes, and keeps what `timer` makes of the call's number in the same write: after a
    /// crash both are there, or none of them. The call's number, when it is on disk.
    pub async fn accept_run(
        &self,
        facts: JobMetadata,
        incarnation: &Incarnation,
        head: Vec<u8>,
        timer: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<u64, QueueError> {
        let shared = &self.0;
        let usage = facts.usage(head.len() as u64);
        let reservation = shared.quota.reserve(facts.tenant(), usage, 0, Sender::Timer)?;
        let number = shared.next_number();
        let job = Job { facts, payload: Payload::Inline { head, body: Vec::new() } };
        let function = &job.facts.function;
        let (bytes, timer) = (job.encode(), timer(number));
        let write = || shared.store.put_run(function, incarnation, number, bytes.clone(), timer.clone());
        match write().await {
            Ok(()) => {}
            // Nothing of it was written; or this process writes no more, and the next one sees.
            Err(error) if !error.was_begun() || error.needs_restart() => return Err(error.into()),
            // It may be found by the next start all the same, so it must be this very write that is made: another one
            // would be another run.
            Err(_) => {
                shared.persist_with_retry("a run of a schedule", write, StoreError::needs_restart).await?
            }
        }
        // Nothing is kept of a function that was removed meanwhile.
        if shared.store.job(number)?.is_none() {
            return Err(QueueError::NoFunction { function: job.facts.function.to_string() });
        }
        {
            let mut state = shared.state();
            state.waiters.watch(number);
            shared.add(&mut state, &job.facts, number, None, reservation);
            state.summary.accepted += 1;
        }
        self.pump();
        Ok(number)
    }

    /// Has [`Self::run_ended`] tell of this call, too, if it has not ended: an earlier process has accepted it.
    pub fn watch(&self, number: u64) -> Result<Stage, QueueError> {
        // First: it may end between the two.
        self.0.state().waiters.watch(number);
        let stage = self.stage(number);
        if !matches!(stage, Ok(Stage::Pending { .. })) {
            self.0.state().waiters.unwatch(number);
        }
        stage
    }

    /// Whether a call is watched that has not ended.
    pub fn watches(&self, number: u64) -> bool {
        self.0.state().waiters.watches(number)
    }

    /// Returns when a call has ended that is watched, or had since the last time. For one task.
    pub async fn run_ended(&self) {
        let ended = self.0.state().waiters.ended.clone();
        ended.notified().await;
    }

    /// How far a call has come.
    pub fn stage(&self, number: u64) -> Result<Stage, QueueError> {
        if let Some(bytes) = self.0.store.job(number)? {
            let job = Job::decode(&bytes);
            return Ok(job.map_or(Stage::Unreadable, |job| Stage::Pending { tried: job.facts.tried }));
        }
        // All that it leaves comes in the write in which it goes, so it cannot be missed in between.
        if self.0.store.dead_job(number)?.is_some() {
            return Ok(Stage::GivenUp);
        }
        let record = self.0.store.call_record(number)?;
        let state = record.and_then(|bytes| CallRecord::decode(&bytes).ok()).map(|(record, _)| record.state);
        Ok(match state {
            Some(CallState::Cancelled) => Stage::Cancelled,
            // Given up and thrown away, before anybody looked.
            Some(CallState::Failed) => Stage::GivenUp,
            _ => Stage::Made,
        })
    }
}
