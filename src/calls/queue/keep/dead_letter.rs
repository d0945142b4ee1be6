//! Calls that were given up: kept to be looked at, made again, or thrown away.

use std::time::Duration;

use jiff::Timestamp;

use crate::queue::job::{Facts, Job};
use crate::queue::keep::fair_share::evict_over;
use crate::queue::payload::Payload;
use crate::queue::schedule::admission::{Sender, Usage};
use crate::queue::state::readable;
use crate::queue::{Queue, QueueError};
use model::function::{FunctionKey, FunctionName, NamespaceName};

/// Calls that are thrown away in one write; others may want their turn in between.
const PART: usize = 256;

/// Which of them are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Which {
    /// Those of functions with this name.
    pub name: Option<FunctionName>,
    /// Those of functions in this namespace.
    pub namespace: Option<NamespaceName>,
}

impl Which {
    fn means(&self, function: &FunctionKey) -> bool {
        self.name.as_ref().is_none_or(|name| *name == function.name)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == function.namespace)
    }
}

/// A call that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadCall {
    /// Its number, under which it is found.
    pub number: u64,
    /// What is known of it.
    pub facts: Facts,
    /// Bytes of its body.
    pub body_size: u64,
    /// Bytes of all that it sends.
    pub size: u64,
}

impl DeadCall {
    fn new(number: u64, Job { facts, payload }: Job) -> Self {
        Self { number, facts, body_size: payload.body_size(), size: payload.size() }
    }

    /// When it was given up, near enough: when its last try began.
    fn since(&self) -> Timestamp {
        self.facts.tries.last().map_or(self.facts.queued_at, |last| last.at)
    }
}

/// What decides whether it is kept for longer; of two the one that goes first is the lesser.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    is_call: bool,
    since: Timestamp,
    number: u64,
    size: u64,
    function: FunctionKey,
}

/// Takes out what is more than `most`: their numbers. Callbacks go before calls: it takes nothing to have them given
/// up, and they must not drive out calls.
fn over_limit(calls: &mut Vec<Candidate>, most: u64, count: impl Fn(&Candidate) -> u64) -> Vec<u64> {
    let first_call = calls.partition_point(|call| !call.is_call);
    let counted = |calls: &[Candidate]| -> Vec<_> {
        calls.iter().map(|call| (call.function.clone(), count(call))).collect()
    };
    let (told, made) = (counted(&calls[..first_call]), counted(&calls[first_call..]));
    let taken: u64 = made.iter().map(|(_, count)| count).sum();
    let gone = [evict_over(&told, most.saturating_sub(taken)), evict_over(&made, most)].concat();
    let numbers = calls.iter().zip(&gone).filter(|(_, gone)| **gone).map(|(call, _)| call.number).collect();
    let mut gone = gone.into_iter();
    calls.retain(|_| !gone.next().unwrap_or_default());
    numbers
}

impl Queue {
    /// Calls that were given up, newest first, at most `limit`.
    pub async fn dead(&self, which: &Which, limit: usize) -> Vec<DeadCall> {
        let which = which.clone();
        self.look_through_dead(move |queue| queue.dead_calls(&which).rev().take(limit).collect()).await
    }

    /// Looks through all of them, on a thread of its own: there may be many.
    async fn look_through_dead<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Self) -> Vec<T> + Send + 'static,
    ) -> Vec<T> {
        let queue = self.clone();
        self.0.runtime.spawn_blocking(move || look(&queue)).await.unwrap_or_default()
    }

    /// The numbers of all that are meant, oldest first.
    async fn dead_numbers(&self, which: &Which) -> Vec<u64> {
        let which = which.clone();
        self.look_through_dead(move |queue| queue.dead_calls(&which).map(|call| call.number).collect()).await
    }

    /// All of them, one after the other, oldest first. What cannot be read is left out: it was said when the queue
    /// was opened.
    fn dead_calls(&self, which: &Which) -> impl DoubleEndedIterator<Item = DeadCall> {
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

    /// Queues one of them again, as if it were new; the number that it has from then on.
    pub async fn replay(&self, number: u64) -> Result<u64, QueueError> {
        // One change at a time: a call that is taken up twice would share its body.
        let _one = self.0.dead_letter_lock.lock().await;
        let mut job = self.dead_job(number)?;
        let size = job.payload.size();
        let reservation = self.0.reserve(&job.facts, size, 0, Sender::Client)?;
        job.facts.renew();
        let again = self.0.next_number();
        self.0.store.revive_job(number, again, job.encode()).await?;
        {
            let mut state = self.0.state();
            state.dead -= Usage::call(size);
            self.0.add(&mut state, &job.facts, again, None, reservation);
            state.summary.accepted += u64::from(!job.facts.is_callback());
        }
        self.pump();
        Ok(again)
    }

    /// Queues all of them again; how many. When the queue is full, the rest stays where it is.
    pub async fn replay_all(&self, which: &Which) -> Result<usize, QueueError> {
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
        let _one = self.0.dead_letter_lock.lock().await;
        let bytes = self.0.store.dead_job(number)?.ok_or(QueueError::NotFound { number })?;
        self.0.store.delete_dead_jobs(&[number]).await?;
        // One that cannot be read is thrown away in no other way; what it sent goes with the next start.
        let payload = Job::decode(&bytes).map_or_else(|_| Payload::nothing(), |job| job.payload);
        self.0.state().dead -= Usage::call(payload.size());
        self.0.spool.remove(&payload).await;
        Ok(())
    }

    /// Throws all of them away; how many.
    pub async fn purge_all(&self, which: &Which) -> Result<usize, QueueError> {
        self.purge_some(self.dead_numbers(which).await).await
    }

    /// Throws away what was kept for long enough, and what is too much, of the functions that have most, and those
    /// first that were given up first; how many.
    pub async fn expire(&self) -> Result<usize, QueueError> {
        let settings = &self.0.config;
        let look = |queue: &Self| {
            let all = Which::default();
            let calls = queue.dead_calls(&all);
            let row = |call: DeadCall| Candidate {
                is_call: !call.facts.is_callback(),
                since: call.since(),
                number: call.number,
                size: call.size,
                function: call.facts.function,
            };
            let mut calls: Vec<_> = calls.map(row).collect();
            calls.sort_unstable();
            calls
        };
        let calls = self.look_through_dead(look).await;
        let (now, mut numbers) = (Timestamp::now(), Vec::new());
        let young = |call: &Candidate| {
            // A clock that was set back makes it young again.
            let age = Duration::try_from(now.duration_since(call.since)).unwrap_or_default();
            age <= settings.keep_dead
        };
        let (mut calls, old): (Vec<Candidate>, Vec<Candidate>) = calls.into_iter().partition(young);
        numbers.extend(old.iter().map(|call| call.number));
        numbers.extend(over_limit(&mut calls, settings.max_dead as u64, |_| 1));
        let size: u64 = calls.iter().map(|call| call.size).sum();
        // By a part more than it takes, so that the next one does not have all of them looked through again.
        let most = settings.max_dead_size;
        let most = if size > most { most - most / 10 } else { most };
        numbers.extend(over_limit(&mut calls, most, |call| call.size));
        self.purge_some(numbers).await
    }

    async fn purge_some(&self, numbers: Vec<u64>) -> Result<usize, QueueError> {
        let mut purged = 0;
        for part in numbers.chunks(PART) {
            let _one = self.0.dead_letter_lock.lock().await;
            let (mut there, mut payloads) = (Vec::new(), Vec::new());
            for number in part {
                match self.dead_job(*number) {
                    Ok(job) => {
                        there.push(*number);
                        payloads.push(job.payload);
                    }
                    // Somebody else was faster.
                    Err(QueueError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            self.0.store.delete_dead_jobs(&there).await?;
            for payload in &payloads {
                self.0.state().dead -= Usage::call(payload.size());
                self.0.spool.remove(payload).await;
            }
            purged += there.len();
        }
        Ok(purged)
    }

    fn dead_job(&self, number: u64) -> Result<Job, QueueError> {
        let found = self.0.store.dead_job(number)?.and_then(|bytes| readable(number, &bytes, Job::decode));
        found.ok_or(QueueError::NotFound { number })
    }
}
