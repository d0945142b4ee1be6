//! Calls as people ask for them: how one is, which there are, its answer, and that it be cancelled.

use std::io;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;

use crate::queue::job::Job;
use crate::queue::keep::fair_share::evict_over;
use crate::queue::keep::record::{CallRecord, CallState};
use crate::queue::payload::Payload;
use crate::queue::run::body::BodySource;
use crate::queue::run::complete::Completion;
use crate::queue::run::response::header_lines;
use crate::queue::schedule::admission::Usage;
use crate::queue::state::readable;
use crate::queue::{Queue, QueueError};
use host::store::{StoreError, StoredJob};
use model::function::{FunctionKey, FunctionName, NamespaceName};

/// How long whoever cancels a call waits for its end.
const CANCEL: Duration = Duration::from_secs(10);
/// Records that are forgotten in one write; others may want their turn in between.
const PART: usize = 256;

/// Which calls are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of functions with this name.
    pub name: Option<FunctionName>,
    /// Those of functions in this namespace.
    pub namespace: Option<NamespaceName>,
    /// Those that are like this.
    pub state: Option<CallState>,
}

impl Filter {
    fn means(&self, call: &CallRecord) -> bool {
        let FunctionKey { name, namespace, .. } = &call.function;
        self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.state.is_none_or(|wanted| wanted == call.state)
    }
}

/// An answer that was kept.
#[derive(Debug)]
pub struct KeptAnswer {
    /// Its status.
    pub code: u16,
    /// Its headers, a line each.
    pub head: Vec<u8>,
    /// Bytes of its body.
    pub size: u64,
    /// Its body.
    pub body: AnswerBody,
    /// Why it has no body, if that was not kept.
    pub omitted: Option<String>,
}

impl KeptAnswer {
    /// Those of its headers that are `wanted`.
    pub fn headers(&self, wanted: impl Fn(&str) -> bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in header_lines(&self.head).filter(|(name, _)| wanted(name.as_str())) {
            headers.append(name, value);
        }
        headers
    }
}

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// A short one.
    Memory(Vec<u8>),
    /// It stands at its beginning.
    File(tokio::fs::File),
}

impl AnswerBody {
    /// Adds the next piece to `out`, of so many bytes at most; how many there were, 0 at the end.
    pub async fn read(&mut self, out: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                out.extend_from_slice(bytes);
                Ok(std::mem::take(bytes).len())
            }
            Self::File(file) => {
                let start = out.len();
                out.resize(start + most, 0);
                let read = file.read(&mut out[start..]).await;
                out.truncate(start + *read.as_ref().unwrap_or(&0));
                read
            }
        }
    }
}

impl Queue {
    /// For how long an answer is kept whose client asks for it with these words: `true`, or a duration.
    pub fn keep_for(&self, text: &str) -> Result<u64, String> {
        let config = &self.0.config;
        if config.max_records == 0 {
            return Err("no answers are kept here (queue.max_records is 0)".to_owned());
        }
        let longest = config.keep_results;
        let asked = match text {
            "true" | "1" => longest,
            _ => quantity::parse_duration(text)
                .ok()
                .filter(|asked| !asked.is_zero())
                .ok_or_else(|| format!("{text:?} is neither true nor a duration such as 10m"))?,
        };
        Ok(asked.min(longest).as_secs().max(1))
    }

    /// A call, by its id; of several the newest.
    pub fn call(&self, call_id: &str) -> Result<CallRecord, QueueError> {
        Ok(match self.found(call_id)? {
            Found::Queued(number, job) => self.as_it_is(number, &job),
            Found::Ended(call, _) => call,
        })
    }

    /// The answer of a call that was kept.
    pub async fn answer(&self, call_id: &str) -> Result<KeptAnswer, QueueError> {
        let nothing = |state| QueueError::NoAnswer { call_id: call_id.to_owned(), state };
        let (call, answer) = match self.found(call_id)? {
            Found::Queued(number, job) => return Err(nothing(self.as_it_is(number, &job).state)),
            Found::Ended(call, answer) => (call, answer),
        };
        match self.opened(&call, answer).await {
            Some(answer) => Ok(answer),
            None => Err(nothing(call.state)),
        }
    }

    /// The answer of the call with this number, which has ended just now and was to be kept.
    pub async fn answer_of(&self, number: u64) -> Result<KeptAnswer, QueueError> {
        let found = self.0.store.call_record(number)?;
        let found = found.and_then(|bytes| readable(number, &bytes, CallRecord::decode));
        let Some((call, answer)) = found else { return Err(QueueError::NotFound { number }) };
        let unanswered = |reason: Option<String>| QueueError::Unanswered {
            call_id: call.call_id.clone(),
            state: call.state,
            code: call.code.unwrap_or_default(),
            reason: reason.unwrap_or_else(|| "its answer was not kept".to_owned()),
        };
        match self.opened(&call, answer).await {
            Some(KeptAnswer { omitted: Some(reason), .. }) => Err(unanswered(Some(reason))),
            Some(answer) => Ok(answer),
            None => Err(unanswered(call.reason.clone())),
        }
    }

    /// An answer, if it is kept.
    async fn opened(&self, call: &CallRecord, answer: Payload) -> Option<KeptAnswer> {
        let code = call.code.filter(|_| call.result_until.is_some_and(|until| until >= Timestamp::now()))?;
        let size = answer.body_size();
        // Its time may have come just now.
        let (head, body) = BodySource::open(&answer, &self.0.spool).await.ok()?;
        let head = head.into_owned();
        let body = match body {
            BodySource::Memory(bytes) => AnswerBody::Memory(bytes.to_vec()),
            BodySource::File(file) => AnswerBody::File(file),
        };
        Some(KeptAnswer { code, head, size, body, omitted: call.omitted.clone() })
    }

    /// Calls, newest first, at most `limit`.
    pub async fn calls(&self, filter: Filter, limit: usize) -> Vec<CallRecord> {
        let queue = self.clone();
        // There may be many.
        let look = move || queue.all_calls().filter(|call| filter.means(call)).take(limit).collect();
        self.0.runtime.spawn_blocking(look).await.unwrap_or_default()
    }

    /// All calls, newest first. What cannot be read is left out: it was said when the queue was opened.
    fn all_calls(&self) -> impl Iterator<Item = CallRecord> {
        let mut ended = self.0.store.call_records().rev().filter_map(Result::ok).peekable();
        let mut queued = self.0.store.jobs().rev().filter_map(Result::ok).peekable();
        std::iter::from_fn(move || {
            let is_queued = match (ended.peek(), queued.peek()) {
                (None, None) => return None,
                (Some((ended, _)), Some((queued, _))) => queued > ended,
                (ended, _) => ended.is_none(),
            };
            let row = if is_queued { queued.next() } else { ended.next() };
            row.map(|row| (is_queued, row))
        })
        .filter_map(|(is_queued, (number, bytes))| match is_queued {
            true => {
                let job = Job::decode(&bytes).ok().filter(|job| !job.facts.is_callback())?;
                Some(self.as_it_is(number, &job))
            }
            false => CallRecord::decode(&bytes).ok().map(|(call, _)| call),
        })
    }

    /// A call that has not ended.
    fn as_it_is(&self, number: u64, job: &Job) -> CallRecord {
        let mut call = CallRecord::of(&job.facts, &job.payload, CallState::Queued);
        if let Some(running) = self.0.state().running.get(&number) {
            call.state = CallState::Running;
            call.started_at.get_or_insert(running.since);
        } else if job.facts.not_before.is_some_and(|at| at > Timestamp::now()) {
            call.state = CallState::Waiting;
        }
        call
    }

    /// The newest call with an id.
    fn found(&self, call_id: &str) -> Result<Found, QueueError> {
        let shared = &self.0;
        let numbers = shared.state().index.find(call_id);
        for number in numbers {
            // In this order: it may end in between.
            let job = shared.store.job(number)?.and_then(|bytes| readable(number, &bytes, Job::decode));
            let ended = shared.store.call_record(number)?;
            match (ended.and_then(|bytes| readable(number, &bytes, CallRecord::decode)), job) {
                (Some((call, answer)), _) if call.call_id == call_id => {
                    return Ok(Found::Ended(call, answer));
                }
                (None, Some(job)) if job.facts.call_id == call_id && !job.facts.is_callback() => {
                    return Ok(Found::Queued(number, job));
                }
                _ => {}
            }
        }
        Err(QueueError::UnknownCall { call_id: call_id.chars().take(64).collect() })
    }

    /// Makes a call no more, and breaks off its try if it is being made; returns when that is on disk.
    pub async fn cancel(&self, call_id: &str) -> Result<(), QueueError> {
        if let Found::Queued(number, job) = self.found(call_id)? {
            let (watcher, end) = oneshot::channel();
            let taken = {
                let mut state = self.0.state();
                if let Some(running) = state.running.get(&number) {
                    running.cancel.cancel();
                }
                // It is running, or somebody else has cancelled it just now, where it is not taken.
                let taken = state.scheduler.take(&job.facts.lane(), number);
                if !taken {
                    state.waiters.add(number, watcher);
                }
                taken
            };
            if taken {
                return self.end_queued(number, job).await;
            }
            // It may have ended before there was anybody to tell.
            if matches!(self.found(call_id), Ok(Found::Queued(..)))
                && let Ok(Ok(CallState::Cancelled)) = tokio::time::timeout(CANCEL, end).await
            {
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

    /// Ends a call that waits again, after its try had ended when it was cancelled.
    pub(in crate::queue) async fn cancel_queued(&self, number: u64) {
        let job = self.0.store.job(number).ok().flatten();
        let Some(job) = job.and_then(|bytes| readable(number, &bytes, Job::decode)) else { return };
        let taken = self.0.state().scheduler.take(&job.facts.lane(), number);
        if taken {
            // It was tried to do what was asked; who asked for it has been told that it did not come to that.
            let _ = self.end_queued(number, job).await;
        }
    }

    /// Forgets calls that ended long ago, or are too many, and answers that were kept for long enough, or are too
    /// large together; of the functions that have most, and those first that ended first.
    pub async fn expire_records(&self) -> Result<(), QueueError> {
        let _one = self.0.dead_letter_lock.lock().await;
        let queue = self.clone();
        let look = move || queue.remembered();
        let calls = self.0.runtime.spawn_blocking(look).await.unwrap_or_default();
        let (config, now) = (&self.0.config, Timestamp::now());
        // A clock that was set back makes it young again.
        let is_young = |(_, call, _): &Remembered| {
            let age = call.ended_at.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
            age.is_some_and(|age| age <= config.keep_records)
        };
        let (calls, mut forgotten): (Vec<_>, Vec<_>) = calls.into_iter().partition(is_young);
        let counted: Vec<_> = calls.iter().map(|(_, call, _)| (call.function.clone(), 1)).collect();
        let mut gone = evict_over(&counted, config.max_records as u64).into_iter();
        let (too_many, calls): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|_| gone.next().unwrap_or_default());
        forgotten.extend(too_many);

        let is_old = |call: &CallRecord| call.result_until.is_some_and(|until| until < now);
        let (old, answered): (Vec<_>, Vec<_>) = calls
            .into_iter()
            .filter(|(_, _, answer)| answer.size() > 0)
            .partition(|(_, call, _)| is_old(call));
        let sizes: Vec<_> =
            answered.iter().map(|(_, call, answer)| (call.function.clone(), answer.size())).collect();
        let size: u64 = sizes.iter().map(|(_, size)| size).sum();
        // By a part more than it takes, so that the next one does not have all of them looked through again.
        let most = config.max_results_size;
        let most = if size > most { most - most / 10 } else { most };
        let too_large = answered.into_iter().zip(evict_over(&sizes, most)).filter(|(_, gone)| *gone);
        let unanswered: Vec<Remembered> = old.into_iter().chain(too_large.map(|(call, _)| call)).collect();
        for part in unanswered.chunks(PART) {
            let without = part.iter().map(|(number, call, _)| {
                let call = CallRecord { result_until: None, ..call.clone() };
                (*number, call.encode(&Payload::nothing()))
            });
            self.0.store.put_call_records(without.collect()).await?;
            for (_, _, answer) in part {
                self.0.state().records -= Usage::bytes(answer.size());
                self.0.spool.remove(answer).await;
            }
        }
        for part in forgotten.chunks(PART) {
            let numbers: Vec<u64> = part.iter().map(|(number, ..)| *number).collect();
            self.0.store.delete_call_records(&numbers).await?;
            {
                let mut state = self.0.state();
                for (number, call, answer) in part {
                    state.index.remove(&call.call_id, *number);
                    state.records -= Usage::call(answer.size());
                }
            }
            for (_, _, answer) in part {
                self.0.spool.remove(answer).await;
            }
        }
        Ok(())
    }

    /// All calls that are remembered, in the order in which they ended.
    fn remembered(&self) -> Vec<Remembered> {
        let row = |row: Result<StoredJob, StoreError>| {
            let (number, bytes) = row.ok()?;
            let (call, answer) = CallRecord::decode(&bytes).ok()?;
            Some((number, call, answer))
        };
        let mut calls: Vec<Remembered> = self.0.store.call_records().filter_map(row).collect();
        calls.sort_by_key(|(number, call, _)| (call.ended_at, *number));
        calls
    }
}

/// A call that is remembered: its number, what is known of it, and its answer.
type Remembered = (u64, CallRecord, Payload);

/// A call that was found.
enum Found {
    /// It has not ended.
    Queued(u64, Job),
    /// It has, with this answer.
    Ended(CallRecord, Payload),
}
