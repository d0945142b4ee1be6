//! Eviction of what was kept for long enough, or is too much: dead letters, records, and the responses beside them.

use std::time::Duration;

use jiff::Timestamp;

use super::dead_letter::{DeadCall, PART};
use super::fair_share::take_over;
use super::record::CallRecord;
use crate::queue::Queue;
use crate::queue::error::QueueError;
use crate::queue::payload::Payload;
use crate::queue::schedule::admission::Usage;
use model::function::{FunctionFilter, FunctionKey};

/// A dead letter that may be evicted; of two the one that goes first is the lesser.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    since: Timestamp,
    number: u64,
    size: u64,
    function: FunctionKey,
    is_callback: bool,
}

/// A record, or its response, that may be evicted; the one that goes first is the lesser. Everything else
/// stays on disk until the record is evicted: there are many records, and clients and functions decide their
/// contents.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Remembered {
    ended_at: Option<Timestamp>,
    number: u64,
    /// Bytes of the response.
    size: u64,
    result_until: Option<Timestamp>,
    function: FunctionKey,
}

impl Queue {
    /// Throws away calls that were given up and kept for long enough, and what is too much, of the functions that have
    /// most, and those first that were given up first; how many.
    pub async fn expire(&self) -> Result<usize, QueueError> {
        let (settings, now) = (&self.0.config, Timestamp::now());
        let row = |call: DeadCall| Candidate {
            since: call.since(),
            number: call.number,
            size: call.size,
            is_callback: call.facts.is_callback(),
            function: call.facts.function,
        };
        let mut calls = self
            .look_through(move |queue| queue.dead_calls(&FunctionFilter::default()).map(row).collect())
            .await;
        calls.sort_unstable();
        let mut gone: Vec<_> =
            calls.extract_if(.., |call| is_older(call.since, now, settings.keep_dead)).collect();
        // It takes nothing to have callbacks given up, and they must not drive out calls.
        let mut callbacks: Vec<_> = calls.extract_if(.., |call| call.is_callback).collect();
        let mut limit = |most: u64, count: fn(&Candidate) -> u64| {
            let measure = |call: &Candidate| (call.function.clone(), count(call));
            let left = most.saturating_sub(calls.iter().map(count).sum());
            gone.extend(take_over(&mut callbacks, left, measure));
            gone.extend(take_over(&mut calls, most, measure));
            calls.iter().chain(&callbacks).map(|call| call.size).sum()
        };
        let size = limit(settings.max_dead as u64, |_| 1);
        limit(lowered(settings.max_dead_size, size), |call| call.size);
        let numbers: Vec<u64> = gone.iter().map(|call| call.number).collect();
        self.purge_some(&numbers).await
    }

    /// Forgets calls that ended long ago, or are too many, and answers that were kept for long enough, or are too
    /// large together; of the functions that have most, and those first that ended first.
    pub async fn expire_records(&self) -> Result<(), QueueError> {
        let _one = self.0.dead_letter_lock.lock().await;
        let (config, now) = (&self.0.config, Timestamp::now());
        let mut calls = self.look_through(Self::remembered).await;
        calls.sort_unstable();
        let mut forgotten: Vec<_> = calls
            .extract_if(.., |call| call.ended_at.is_none_or(|at| is_older(at, now, config.keep_records)))
            .collect();
        let one = |call: &Remembered| (call.function.clone(), 1);
        forgotten.extend(take_over(&mut calls, config.max_records as u64, one));

        calls.retain(|call| call.size > 0);
        let is_old = |call: &mut Remembered| call.result_until.is_some_and(|until| until < now);
        let mut unanswered: Vec<_> = calls.extract_if(.., is_old).collect();
        let size = calls.iter().map(|call| call.size).sum();
        let measure = |call: &Remembered| (call.function.clone(), call.size);
        unanswered.extend(take_over(&mut calls, lowered(config.max_results_size, size), measure));
        for part in unanswered.chunks(PART) {
            let part = self.records(part)?;
            let without = part.iter().map(|(number, call, _)| {
                let call = CallRecord { result_until: None, ..call.clone() };
                (*number, call.encode(&Payload::nothing()))
            });
            self.0.store.put_call_records(without.collect()).await?;
            for (_, _, answer) in &part {
                self.0.state().records -= Usage::bytes(answer.size());
                self.0.spool.remove(answer).await;
            }
        }
        for part in forgotten.chunks(PART) {
            let numbers: Vec<u64> = part.iter().map(|call| call.number).collect();
            let part = self.records(part)?;
            self.0.store.delete_call_records(&numbers).await?;
            for (number, call, answer) in &part {
                {
                    let mut state = self.0.state();
                    state.index.remove(&call.call_id, *number);
                    state.records -= Usage::call(answer.size());
                }
                self.0.spool.remove(answer).await;
            }
        }
        Ok(())
    }

    /// Returns all remembered calls.
    fn remembered(&self) -> Vec<Remembered> {
        let rows = self.0.store.call_records().filter_map(Result::ok);
        let calls = rows.filter_map(|(number, bytes)| {
            let (CallRecord { ended_at, result_until, function, .. }, answer) =
                CallRecord::decode(&bytes).ok()?;
            Some(Remembered { ended_at, number, size: answer.size(), result_until, function })
        });
        calls.collect()
    }

    /// Reads these records and their responses.
    fn records(&self, part: &[Remembered]) -> Result<Vec<(u64, CallRecord, Payload)>, QueueError> {
        let mut records = Vec::with_capacity(part.len());
        for Remembered { number, .. } in part {
            let row = self.0.store.call_record(*number)?;
            let record = row.and_then(|bytes| CallRecord::decode(&bytes).ok());
            records.extend(record.map(|(call, answer)| (*number, call, answer)));
        }
        Ok(records)
    }
}

/// Whether something is older than it may get. A clock that was set back makes it young again.
fn is_older(since: Timestamp, now: Timestamp, limit: Duration) -> bool {
    Duration::try_from(now.duration_since(since)).unwrap_or_default() > limit
}

/// The limit to go down to: where there is too much, by a part more than it takes, so that the next one does not have
/// all of it looked through again.
fn lowered(limit: u64, size: u64) -> u64 {
    if size > limit { limit - limit / 10 } else { limit }
}
