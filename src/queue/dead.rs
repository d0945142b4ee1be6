//! Calls that were given up: kept to be looked at, made again, or thrown away.

use jiff::Timestamp;

use super::job::{Facts, Job};
use super::state::{count, readable};
use super::{Queue, QueueError};
use crate::function::FunctionKey;

/// Calls that are thrown away in one write; others may want their turn in between.
const PART: usize = 256;

/// A call that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadCall {
    /// Its number, under which it is found.
    pub number: u64,
    /// What is known of it.
    pub facts: Facts,
    /// Bytes of its body.
    pub size: u64,
}

impl DeadCall {
    /// When it was given up, near enough: when its last try began.
    fn since(&self) -> Timestamp {
        self.facts.tries.last().map_or(self.facts.queued_at, |last| last.at)
    }
}

impl Queue {
    /// Calls that were given up, newest first: of one function or all, at most `limit`.
    pub fn dead(&self, function: Option<&FunctionKey>, limit: usize) -> Result<Vec<DeadCall>, QueueError> {
        self.dead_calls(function).rev().take(limit).collect()
    }

    /// All of them, one after the other, oldest first.
    fn dead_calls(
        &self,
        function: Option<&FunctionKey>,
    ) -> impl DoubleEndedIterator<Item = Result<DeadCall, QueueError>> {
        self.0.store.dead_jobs().filter_map(move |row| {
            let (number, bytes) = match row {
                Ok(row) => row,
                Err(error) => return Some(Err(error.into())),
            };
            let Job { facts, body, .. } = readable(number, &bytes)?;
            let is_meant = function.is_none_or(|function| facts.function == *function);
            is_meant.then(|| Ok(DeadCall { number, facts, size: body.size() }))
        })
    }

    /// One of them.
    pub fn dead_call(&self, number: u64) -> Result<DeadCall, QueueError> {
        let Job { facts, body, .. } = self.dead_job(number)?;
        Ok(DeadCall { number, facts, size: body.size() })
    }

    /// Queues one of them again, with all its tries; the number that it has from then on.
    pub async fn replay(&self, number: u64) -> Result<u64, QueueError> {
        // One change at a time: a call that is taken up twice would share its body.
        let _one = self.0.burying.lock().await;
        let mut job = self.dead_job(number)?;
        let arriving = self.0.arrive(job.body.size())?;
        job.facts.tries.clear();
        job.facts.not_before = None;
        job.facts.queued_at = Timestamp::now();
        let again = arriving.number;
        self.0.store.revive_job(number, again, job.encode()).await?;
        arriving.arrived(&job.facts.function);
        count(&self.0.totals.accepted);
        self.pump();
        Ok(again)
    }

    /// Queues all of them again, of one function or all; how many.
    pub async fn replay_all(&self, function: Option<&FunctionKey>) -> Result<usize, QueueError> {
        // In the order in which they were queued at first.
        let numbers =
            self.dead_calls(function).map(|call| Ok(call?.number)).collect::<Result<Vec<_>, QueueError>>()?;
        let mut replayed = 0;
        for number in numbers {
            match self.replay(number).await {
                Ok(_) => replayed += 1,
                // Somebody else was faster.
                Err(QueueError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(replayed)
    }

    /// Throws one of them away.
    pub async fn purge(&self, number: u64) -> Result<(), QueueError> {
        let _one = self.0.burying.lock().await;
        let job = self.dead_job(number)?;
        self.0.store.delete_dead_jobs(&[number]).await?;
        self.0.spool.remove(&job.body).await;
        Ok(())
    }

    /// Throws all of them away, of one function or all; how many.
    pub async fn purge_all(&self, function: Option<&FunctionKey>) -> Result<usize, QueueError> {
        let numbers = self.dead_calls(function).map(|call| Ok(call?.number));
        self.purge_some(numbers.collect::<Result<_, QueueError>>()?).await
    }

    /// Throws away what was kept for long enough, and what is too much, the oldest first; how many.
    pub async fn expire(&self) -> Result<usize, QueueError> {
        let settings = &self.0.config;
        let too_many = self.0.store.dead_jobs_count()?.saturating_sub(settings.max_dead);
        let now = Timestamp::now();
        let is_old = |call: &DeadCall| now.duration_since(call.since()).unsigned_abs() > settings.keep_dead;
        let mut numbers = Vec::new();
        for (index, call) in self.dead_calls(None).enumerate() {
            let call = call?;
            // Those that follow were queued later.
            if index >= too_many && !is_old(&call) {
                break;
            }
            numbers.push(call.number);
        }
        self.purge_some(numbers).await
    }

    async fn purge_some(&self, numbers: Vec<u64>) -> Result<usize, QueueError> {
        let mut purged = 0;
        for part in numbers.chunks(PART) {
            let _one = self.0.burying.lock().await;
            let (mut there, mut bodies) = (Vec::new(), Vec::new());
            for number in part {
                match self.dead_job(*number) {
                    Ok(job) => {
                        there.push(*number);
                        bodies.push(job.body);
                    }
                    // Somebody else was faster.
                    Err(QueueError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            self.0.store.delete_dead_jobs(&there).await?;
            for body in &bodies {
                self.0.spool.remove(body).await;
            }
            purged += there.len();
        }
        Ok(purged)
    }

    fn dead_job(&self, number: u64) -> Result<Job, QueueError> {
        let found = self.0.store.dead_job(number)?.and_then(|bytes| readable(number, &bytes));
        found.ok_or(QueueError::NotFound { number })
    }
}
