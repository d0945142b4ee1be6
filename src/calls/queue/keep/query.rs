//! Queries for calls: their state, their list, their answers.

use std::io;

use http::HeaderMap;
use jiff::Timestamp;
use tokio::io::AsyncReadExt as _;

use crate::queue::job::{Excerpt, Job};
use crate::queue::keep::record::{CallRecord, CallState};
use crate::queue::payload::Payload;
use crate::queue::run::body::BodySource;
use crate::queue::run::response::header_lines;
use crate::queue::schedule::scheduler::LaneKey;
use crate::queue::state::readable;
use crate::queue::{Queue, QueueError};
use model::function::FunctionFilter;

/// A selection of calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of these functions.
    pub functions: FunctionFilter,
    /// Only those in this state.
    pub state: Option<CallState>,
}

impl Filter {
    fn means(&self, call: &CallRecord) -> bool {
        self.functions.means(&call.function) && self.state.is_none_or(|wanted| wanted == call.state)
    }
}

/// An answer that was kept.
#[derive(Debug)]
pub struct KeptAnswer {
    /// Status of the response.
    pub code: u16,
    /// Headers of the response, a line each.
    pub head: Vec<u8>,
    /// Bytes of its body.
    pub size: u64,
    /// Body of the response.
    pub body: AnswerBody,
    /// Why it has no body, if that was not kept.
    pub omitted: Option<Excerpt>,
}

impl KeptAnswer {
    /// Returns those of its headers that are `wanted`.
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
    /// A file that stands at its beginning.
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
        let unanswered = |omitted: Option<Excerpt>| QueueError::Unanswered {
            call_id: call.call_id.to_string(),
            state: call.state,
            code: call.code.unwrap_or_default(),
            omitted: omitted.map(String::from),
        };
        match self.opened(&call, answer).await {
            Some(KeptAnswer { omitted: Some(reason), .. }) => Err(unanswered(Some(reason))),
            Some(answer) => Ok(answer),
            None => Err(unanswered(None)),
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
        self.look_through(move |queue| {
            queue.all_calls().filter(|call| filter.means(call)).take(limit).collect()
        })
        .await
    }

    /// All calls, newest first. What cannot be read is left out: it was said when the queue was opened.
    fn all_calls(&self) -> impl Iterator<Item = CallRecord> {
        let mut ended = self.0.store.call_records().rev().filter_map(Result::ok).peekable();
        let mut queued = self.0.store.jobs().rev().filter_map(Result::ok).peekable();
        std::iter::from_fn(move || {
            let is_queued =
                queued.peek().map(|(number, _)| *number) > ended.peek().map(|(number, _)| *number);
            Some((is_queued, if is_queued { queued.next()? } else { ended.next()? }))
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
        let state = self.0.state();
        if let Some(running) = state.running.get(&number) {
            call.state = CallState::Running;
            call.started_at.get_or_insert(running.since);
        } else if job.facts.not_before.is_some_and(|at| at > Timestamp::now()) {
            call.state = CallState::Waiting;
        } else if let Some(refusal) = state.scheduler.refusal(&LaneKey::Function(call.function.clone())) {
            (call.code, call.reason) = (Some(refusal.status), Some(refusal.reason.clone()));
        }
        call
    }

    /// The newest call with an id.
    pub(super) fn found(&self, call_id: &str) -> Result<Found, QueueError> {
        let shared = &self.0;
        let numbers = shared.state().index.find(call_id);
        for number in numbers {
            // In this order: it may end in between.
            let job = shared.store.job(number)?.and_then(|bytes| readable(number, &bytes, Job::decode));
            let ended = shared.store.call_record(number)?;
            match (ended.and_then(|bytes| readable(number, &bytes, CallRecord::decode)), job) {
                (Some((call, answer)), _) if *call.call_id == *call_id => {
                    return Ok(Found::Ended(call, answer));
                }
                (None, Some(job)) if *job.facts.call_id == *call_id && !job.facts.is_callback() => {
                    return Ok(Found::Queued(number, job));
                }
                _ => {}
            }
        }
        Err(QueueError::UnknownCall { call_id: call_id.chars().take(64).collect() })
    }
}

/// A call that was found.
pub(super) enum Found {
    /// Has not ended.
    Queued(u64, Job),
    /// Has ended, with this answer.
    Ended(CallRecord, Payload),
}
