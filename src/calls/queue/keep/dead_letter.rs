//! Dead letters: calls that were given up, and kept to be looked at, made again, or thrown away.

use jiff::Timestamp;

use crate::queue::job::{CallId, Job, JobMetadata};
use crate::queue::payload::Payload;
use crate::queue::schedule::admission::{Sender, Usage};
use crate::queue::state::readable;
use crate::queue::{Queue, QueueError};
use model::function::FunctionFilter;

/// Calls that are thrown away or forgotten in one write; others may want their turn in between.
pub(super) const PART: usize = 256;

/// A call that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadCall {
    /// Number under which the dead letter is found.
    pub number: u64,
    /// Metadata of the job.
    pub facts: JobMetadata,
    /// Bytes of its body.
    pub body_size: u64,
    /// Bytes of all that it sends.
    pub size: u64,
}

impl DeadCall {
    fn new(number: u64, Job { facts, payload }: Job) -> Self {
        Self { number, facts, body_size: payload.body_size(), size: payload.size() }
    }

    /// When it was given up, near enough: when its last attempt began.
    pub(super) fn since(&self) -> Timestamp {
        self.facts.tries.last().map_or(self.facts.queued_at, |last| last.at)
    }
}

impl Queue {
    /// Calls that were given up, newest first, at most `limit`.
    pub async fn dead(&self, which: &FunctionFilter, limit: usize) -> Vec<DeadCall> {
        let which = which.clone();
        self.look_through(move |queue| queue.dead_calls(&which).rev().take(limit).collect()).await
    }

    /// The numbers of all that are meant, oldest first.
    async fn dead_numbers(&self, which: &FunctionFilter) -> Vec<u64> {
        let which = which.clone();
        self.look_through(move |queue| queue.dead_calls(&which).map(|call| call.number).collect()).await
    }

    /// All of them, one after the other, oldest first. What cannot be read is left out: it was said when the queue
    /// was opened.
    pub(super) fn dead_calls(&self, which: &FunctionFilter) -> impl DoubleEndedIterator<Item = DeadCall> {
        let which = which.clone();
        self.0.store.dead_jobs().filter_map(move |row| {
            let (number, bytes) = row.ok()?;
            let job = Job::decode(&bytes).ok()?;
            which.means(&job.facts.function).then(|| DeadCall::new(number, job))
        })
    }

    /// One of them.
    pub fn dead_call(&self, number: u64) -> Result<DeadCall, QueueError> {
        Ok(DeadCall::new(number, self.dead_job(number)?))
    }

    /// Queues one of them again, as if it were new; its number from then on, and its id.
    pub async fn replay(&self, number: u64) -> Result<(u64, CallId), QueueError> {
        // One change at a time: a call that is taken up twice would share its body.
        let _one = self.0.dead_letter_lock.lock().await;
        let mut job = self.dead_job(number)?;
        let size = job.payload.size();
        let usage = job.facts.usage(size);
        let reservation = self.0.quota.reserve(job.facts.tenant(), usage, 0, Sender::Client)?;
        job.facts.reset_attempts();
        let again = self.0.next_number();
        self.0.store.revive_job(number, again, job.encode()).await?;
        {
            let mut state = self.0.state();
            state.dead -= Usage::call(size);
            self.0.add(&mut state, &job.facts, again, None, reservation);
            state.summary.accepted += u64::from(!job.facts.is_callback());
        }
        self.pump();
        Ok((again, job.facts.call_id))
    }

    /// Queues all of them again; how many. When the queue is full, the rest stays where it is.
    pub async fn replay_all(&self, which: &FunctionFilter) -> Result<usize, QueueError> {
        // In the order in which they were queued at first.
        let numbers = self.dead_numbers(which).await;
        let mut replayed = 0;
        for number in numbers {
            match self.replay(number).await {
                Ok(_) => replayed += 1,
                // Somebody else was faster.
                Err(QueueError::NotFound { .. }) => {}
                Err(QueueError::Full { .. }) if replayed > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(replayed)
    }

    /// Throws one of them away.
    pub async fn purge(&self, number: u64) -> Result<(), QueueError> {
        match self.purge_some(&[number]).await? {
            0 => Err(QueueError::NotFound { number }),
            _ => Ok(()),
        }
    }

    /// Throws all of them away; how many.
    pub async fn purge_all(&self, which: &FunctionFilter) -> Result<usize, QueueError> {
        self.purge_some(&self.dead_numbers(which).await).await
    }

    /// Throws away those of these that are there still; how many.
    pub(super) async fn purge_some(&self, numbers: &[u64]) -> Result<usize, QueueError> {
        let mut purged = 0;
        for part in numbers.chunks(PART) {
            let _one = self.0.dead_letter_lock.lock().await;
            let mut found = Vec::new();
            for number in part {
                // One that cannot be read is thrown away in no other way; what it sent goes with the next start.
                let payload = |bytes: Vec<u8>| {
                    Job::decode(&bytes).map_or_else(|_| Payload::nothing(), |job| job.payload)
                };
                found.extend(self.0.store.dead_job(*number)?.map(|bytes| (*number, payload(bytes))));
            }
            let numbers: Vec<u64> = found.iter().map(|(number, _)| *number).collect();
            self.0.store.delete_dead_jobs(&numbers).await?;
            for (_, payload) in &found {
                self.0.state().dead -= Usage::call(payload.size());
                self.0.spool.remove(payload).await;
            }
            purged += found.len();
        }
        Ok(purged)
    }

    fn dead_job(&self, number: u64) -> Result<Job, QueueError> {
        let found = self.0.store.dead_job(number)?.and_then(|bytes| readable(number, &bytes, Job::decode));
        found.ok_or(QueueError::NotFound { number })
    }
}
