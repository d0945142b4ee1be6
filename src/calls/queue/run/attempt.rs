//! One attempt of one call: the road that all calls take, with nobody waiting for the answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::invoke::{Call, CallTimer, InvokeError, OUTWAIT};
use crate::queue::job::Job;
use crate::queue::keep::record::Start;
use crate::queue::run::body::BodySource;
use crate::queue::run::outcome::Outcome;
use crate::queue::run::response::ResponseWriter;
use crate::queue::schedule::retry::retry_after;
use crate::queue::spool::Spool;
use crate::queue::state::Shared;
use directory::{Entry, Lease};
use forward::{BodyError, Caller, Exchange, Expected, Failure, Outgoing, PIECE};
use http1::{Alarm, Framing, ResponseHead, method};
use model::function::RetryPolicy;

/// How long a function is left alone that cannot be reached.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);

/// An attempt that has ended.
pub(in crate::queue) struct AttemptResult {
    pub(in crate::queue) outcome: Outcome,
    /// Status that the function answered, or that a client would have been answered.
    pub(in crate::queue) status: u16,
    /// Answer, as far as it is kept.
    pub(in crate::queue) response: Option<ResponseWriter>,
    /// Start that it met; nothing if it did not look for a replica.
    pub(in crate::queue) start: Option<Start>,
    /// Bytes of the answer's body.
    pub(in crate::queue) received: Option<u64>,
}

impl AttemptResult {
    /// An attempt that sent nothing.
    pub(in crate::queue) fn unsent(outcome: Outcome, status: u16) -> Self {
        Self { outcome, status, response: None, start: None, received: None }
    }
}

/// Makes a call once. What it answers is kept if it asked for a callback.
pub(in crate::queue) async fn attempt(
    entry: &Arc<Entry>,
    job: &Job,
    shared: &Arc<Shared>,
    policy: &RetryPolicy,
) -> AttemptResult {
    let (spool, config) = (&shared.spool, &shared.config);
    let (timeout, body_limit) = {
        let view = entry.peek();
        (view.timeout, view.body_limit)
    };
    let size = job.payload.body_size();
    if size > body_limit {
        let error = InvokeError::BodyTooLarge { function: entry.label.to_string(), limit: body_limit };
        return AttemptResult::unsent(
            Outcome::Permanent { reason: error.to_string() },
            error.status().as_u16(),
        );
    }
    let (head, body) = match BodySource::open(&job.payload, spool).await {
        Ok(opened) => opened,
        Err(outcome) => return AttemptResult::unsent(outcome, 500),
    };
    let mut timer = CallTimer::begin(entry, Instant::now());
    let method = &*job.facts.method;
    let call = Call {
        entry,
        expected: Expected {
            to_head: method == "HEAD",
            upgrade: false,
            reuse: size == 0 || method::takes_body(method),
            deadline: timer.started() + timeout + OUTWAIT,
        },
        limit: timeout,
        body_limit,
        idempotent: method::is_idempotent(method),
        max_waiting: shared.max_waiting,
        has_waited: AtomicBool::new(false),
    };
    let mut out = Outgoing::default();
    out.begin(size > 0);
    out.bytes.extend_from_slice(&head);
    let framing = if size > 0 { Framing::Length(size) } else { Framing::None };
    method::push_length(method, framing, &mut out.bytes);
    out.bytes.extend_from_slice(b"\r\n");
    let answer = job.facts.wants_answer().then(|| ResponseWriter::new(shared, &job.facts));
    let mut caller = Quiet { body, seen: Seen::default(), received: 0, answer };
    let mut alarm = Alarm::default();
    let result = match call.begin(&mut out, &mut caller, &mut alarm).await {
        Ok(exchange) => {
            // One that never ends would have its place for ever.
            let end = timer.started() + config.max_age.max(timeout);
            let rest = read_to_end(exchange, &mut out, &mut caller, spool, &mut alarm, (timeout, end)).await;
            rest.map_err(|failure| call.failed(failure))
        }
        Err(error) => Err(error),
    };
    let start = Some(if call.has_waited.into_inner() { Start::Cold } else { Start::Warm });
    match result {
        Ok(()) => {
            let Quiet { seen, answer, received, .. } = caller;
            timer.record_status(seen.code);
            AttemptResult {
                status: seen.code,
                outcome: judge(seen, policy),
                response: answer,
                start,
                received: Some(received),
            }
        }
        Err(error) => {
            let (status, outcome) = (error.status().as_u16(), judge_error(&error, policy));
            timer.record_status(status);
            // If it is the end of the call, then because its function could not be reached for all that time.
            let status = if matches!(outcome, Outcome::Busy { .. }) { 503 } else { status };
            // What has come of an answer is not all of it.
            AttemptResult { start, ..AttemptResult::unsent(outcome, status) }
        }
    }
}

/// Reads the answer to its end, also where nobody wants it: a function that is cut off may not have done its work.
/// The next piece may take as long as the first may, and all of it until `end`.
async fn read_to_end(
    mut exchange: Exchange<Lease>,
    out: &mut Outgoing,
    caller: &mut Quiet<'_>,
    spool: &Spool,
    alarm: &mut Alarm,
    (limit, end): (Duration, Instant),
) -> Result<(), Failure> {
    loop {
        let deadline = end.min(Instant::now() + limit);
        let more = poll_fn(|cx| match exchange.poll_data(cx, out, caller) {
            Poll::Pending => alarm.poll(cx, deadline).map(|()| Err(Failure::Timeout)),
            ready => ready,
        });
        let more = more.await?;
        if let Some(answer) = &mut caller.answer {
            answer.write(spool).await;
        }
        if !more {
            exchange.finish(out);
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Failure::Timeout);
        }
    }
}

/// The parts of an answer that count.
#[derive(Debug, Default)]
struct Seen {
    code: u16,
    retry_after: Option<Duration>,
    /// Whether it is the watchdog's own word, not the function's.
    internal: bool,
}

/// A caller that does not wait for the answer.
struct Quiet<'a> {
    body: BodySource<'a>,
    seen: Seen,
    /// Bytes of the answer's body so far.
    received: u64,
    answer: Option<ResponseWriter>,
}

impl Caller for Quiet<'_> {
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<bool, BodyError>> {
        match &mut self.body {
            BodySource::Memory(bytes) => {
                out.extend_from_slice(bytes);
                Poll::Ready(Ok(false))
            }
            BodySource::File(file) => {
                let start = out.len();
                out.resize(start + PIECE, 0);
                let mut piece = ReadBuf::new(&mut out[start..]);
                let read = Pin::new(file).poll_read(cx, &mut piece);
                let count = piece.filled().len();
                out.truncate(start + count);
                ready!(read)
                    .map_err(|error| BodyError::Bad(format!("it cannot be read from the disk: {error}")))?;
                Poll::Ready(Ok(count > 0))
            }
        }
    }

    fn body_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn head(&mut self, head: &ResponseHead<'_, '_>) {
        if head.code < 200 {
            return;
        }
        let header = |name: &str| {
            let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        if let Some(answer) = &mut self.answer {
            answer.head(head);
        }
        self.seen = Seen {
            code: head.code,
            retry_after: header("retry-after").and_then(|value| retry_after(value, jiff::Timestamp::now())),
            internal: header("x-openfaas-internal").is_some(),
        };
    }

    fn data(&mut self, piece: &[u8]) {
        self.received += piece.len() as u64;
        if let Some(answer) = &mut self.answer {
            answer.data(piece);
        }
    }
}

fn judge(seen: Seen, policy: &RetryPolicy) -> Outcome {
    let Seen { code, retry_after, internal } = seen;
    // Before all else: nothing was done with this call, whatever its function thinks of that code.
    if code == 429 && internal {
        let reason = "the function has as many calls as it takes (max_inflight)".to_owned();
        return Outcome::Busy { pause: retry_after.unwrap_or_default(), reason };
    }
    if !policy.codes.contains(code) {
        return Outcome::Success;
    }
    Outcome::Retryable {
        code: Some(code),
        pause: retry_after,
        reason: format!("the function answered {code}"),
    }
}

fn judge_error(error: &InvokeError, policy: &RetryPolicy) -> Outcome {
    let reason = error.in_full();
    match error {
        InvokeError::NotFound { .. } | InvokeError::BodyTooLarge { .. } | InvokeError::BadBody { .. } => {
            Outcome::Permanent { reason }
        }
        // Nothing was sent.
        InvokeError::TooManyWaiting { .. } => Outcome::Busy { pause: Duration::ZERO, reason },
        InvokeError::NoReplicaInTime { .. } => Outcome::Busy { pause: UNREACHABLE_PAUSE, reason },
        InvokeError::BackingOff { wait, .. } => Outcome::Busy { pause: *wait, reason },
        // Nor here: a replica is on its way out, or in.
        InvokeError::Unreachable { unsent: true, .. } => Outcome::Busy { pause: UNREACHABLE_PAUSE, reason },
        // Its answer would have been one of these, and the function says which are worth another attempt.
        InvokeError::NoAnswerInTime { .. } if !policy.codes.contains(504) => Outcome::Permanent { reason },
        InvokeError::BadAnswer { .. } if !policy.codes.contains(502) => Outcome::Permanent { reason },
        _ => Outcome::Retryable { code: None, pause: None, reason },
    }
}
