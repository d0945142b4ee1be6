//! Cancelling of calls that are queued or being made.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::queue::Queue;
use crate::queue::error::QueueError;
use crate::queue::job::Job;
use crate::queue::keep::query::Found;
use crate::queue::keep::record::CallState;
use crate::queue::run::complete::Completion;
use crate::queue::state::readable;

/// How long whoever cancels a call waits for its end.
const CANCEL: Duration = Duration::from_secs(10);

impl Queue {
    /// Cancels a call, and interrupts its attempt if one is running; returns when that is on disk.
    pub async fn cancel(&self, call_id: &str) -> Result<(), QueueError> {
        if let Found::Queued(number, job) = self.found(call_id)? {
            let (watcher, end) = oneshot::channel();
            let (is_running, is_taken) = {
                let mut state = self.0.state();
                let is_running = state.running.get(&number).map(|running| running.cancel.cancel()).is_some();
                let is_taken = !is_running && state.scheduler.take(&self.0.lane_of(&job.facts), number);
                if !is_taken {
                    state.waiters.add(number, watcher);
                }
                (is_running, is_taken)
            };
            if is_taken {
                return self.end_queued(number, job).await;
            }
            // The end of one that runs is always told. Another one has just been cancelled by somebody else, and may
            // have ended before there was anybody to tell.
            if !is_running && !matches!(self.found(call_id), Ok(Found::Queued(..))) {
                drop(end);
            } else if let Ok(Ok(CallState::Cancelled)) = tokio::time::timeout(CANCEL, end).await {
                return Ok(());
            }
            self.0.state().waiters.forget_closed(number);
        }
        let call_id = call_id.to_owned();
        match self.found(&call_id)? {
            Found::Ended(call, _) => Err(QueueError::Ended { call_id, state: call.state }),
            Found::Queued(..) => Err(QueueError::Ending { call_id }),
        }
    }

    /// Ends a call that somebody wants no more and that was taken out of its lane. If that cannot be written now, it
    /// goes back there.
    async fn end_queued(&self, number: u64, job: Job) -> Result<(), QueueError> {
        let facts = job.facts.clone();
        let cancelled = Completion { state: CallState::Cancelled, last: None, took: Duration::ZERO };
        let ended = self.end(number, job, cancelled, |_| true).await;
        if ended.is_err() {
            let shared = &self.0;
            let at = shared.due(&facts);
            shared.schedule(&mut shared.state(), &facts, number, at);
            self.pump();
        }
        Ok(ended?)
    }

    /// Ends a call that waits again, after its attempt had ended when it was cancelled.
    pub(in crate::queue) async fn cancel_queued(&self, number: u64) {
        let job = self.0.store.job(number).ok().flatten();
        let Some(job) = job.and_then(|bytes| readable(number, &bytes, Job::decode)) else { return };
        let taken = self.0.state().scheduler.take(&self.0.lane_of(&job.facts), number);
        if taken {
            // It was tried to do what was asked; who asked for it has been told that it did not come to that.
            let _ = self.end_queued(number, job).await;
        }
    }
}
