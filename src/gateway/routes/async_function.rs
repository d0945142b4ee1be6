//! `/async-function/{name}`: takes an async call in.
//!
//! The request is written down as its function will get it, so that nothing of it is understood twice. The body
//! goes to the spool piece by piece, and the client is answered when all of it is on disk. A client of
//! `/function/{name}` that prefers so is served here, too: it is answered as by the function if that is quick enough.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use http::header::VIA;
use http::{HeaderValue, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;

use calls::invoke::InvokeError;
use calls::queue::{self, CallState, Intake, Queue, QueueError};
use directory::Entry;
use forward::{Caller as _, PIECE};
use http1::{Alarm, Framing, Header, RequestHead};

use super::forwarded::ForwardedRequest;
use super::prefer::respond_async;
use crate::gateway::connection::Connection;
use crate::gateway::connection::downstream::{BodyReadError, Downstream};
use crate::gateway::connection::request::RequestInfo;
use crate::gateway::connection::response::{Disposition, push_accepted};
use crate::gateway::error::{ErrorCode, ErrorResponse};

/// Bytes that the head of a call may have: it is read into memory for each attempt.
const MAX_HEAD: usize = 64 << 10;

/// An async call whose head has arrived.
pub(super) struct AsyncCall {
    entry: Arc<Entry>,
    facts: queue::JobMetadata,
    head: Vec<u8>,
    /// How long the client waits for the answer.
    wait: Option<Duration>,
}

impl AsyncCall {
    /// A call whose client prefers not to wait for long. `None`: it does not, or cannot be given what it prefers.
    pub(super) fn preferred(
        entry: &Arc<Entry>,
        forward: &ForwardedRequest<'_, '_, '_>,
        queue: &Queue,
    ) -> Option<Result<Self, ErrorResponse>> {
        let wait = respond_async(forward.head)?;
        let keep = queue.keep_for("true").ok()?;
        let is_too_long =
            matches!(forward.head.framing, Framing::Length(length) if length > queue.body_limit());
        if forward.head.upgrade || is_too_long {
            return None;
        }
        Some(Self::new(entry.clone(), forward, queue).map(|mut call| {
            call.facts.keep.get_or_insert(keep);
            call.wait = Some(wait);
            call
        }))
    }

    /// Writes down what is known before the body.
    pub(super) fn new(
        entry: Arc<Entry>,
        forward: &ForwardedRequest<'_, '_, '_>,
        queue: &Queue,
    ) -> Result<Self, ErrorResponse> {
        let request = forward.head;
        let bad = |text: &str| ErrorResponse::new(ErrorCode::BadRequest, text);
        if request.upgrade {
            return Err(bad("a call that is made later cannot change the protocol: leave out Upgrade"));
        }
        let callback =
            one(request, "X-Callback-Url", ErrorCode::BadCallbackUrl, |url| queue.callback_to(url))?;
        let keep = one(request, "X-Keep-Result", ErrorCode::BadRequest, |text| queue.keep_for(text))?;
        let mut head = Vec::new();
        forward.write_head_without_framing(&entry.label, &mut head);
        if head.len() > MAX_HEAD {
            let text = format!("the head of a call that is made later may have {MAX_HEAD} bytes");
            return Err(ErrorResponse::new(ErrorCode::HeadTooLarge, text));
        }
        let mut facts = queue::JobMetadata::new(
            entry.key.clone(),
            String::from_utf8_lossy(forward.request.call_id.as_bytes()).into_owned(),
            request.method.to_owned(),
            &forward.path.to_string(),
        );
        facts.incarnation = Some(entry.incarnation.clone());
        (facts.callback, facts.keep) = (callback, keep);
        Ok(Self { entry, facts, head, wait: None })
    }
}

/// Reads a header that may stand there once. One that cannot be taken is refused under `code`, with its name.
fn one<T>(
    request: &RequestHead<'_, '_>,
    name: &str,
    code: ErrorCode,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ErrorResponse> {
    let mut found = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    let Some(header) = found.next() else { return Ok(None) };
    let said = match (found.next(), std::str::from_utf8(header.value)) {
        (Some(_), _) => Err("there are several: leave one".to_owned()),
        (None, Err(_)) => Err("it has characters in it that must be written as %XX".to_owned()),
        (None, Ok(text)) => read(text.trim()),
    };
    said.map(Some).map_err(|reason| ErrorResponse::new(code, format!("{name}: {reason}")))
}

/// Takes in the body and hands the call to the queue.
pub(super) async fn serve(
    connection: &mut Connection,
    request: &RequestInfo,
    call: AsyncCall,
) -> Disposition {
    let queue = connection.worker.gateway.queue.clone();
    let AsyncCall { entry, facts: kept, head, wait } = call;
    let limits = (queue.body_limit(), entry.peek().body_limit);
    let limit = limits.0.min(limits.1);
    let too_large = || {
        if limits.1 <= limits.0 {
            return InvokeError::BodyTooLarge { function: entry.label.to_string(), limit }.into();
        }
        let text = format!("the body of a call that is made later may have {limit} bytes (queue.body_limit)");
        ErrorResponse::new(ErrorCode::BodyTooLarge, text)
    };
    let announced = match request.framing {
        Framing::Length(length) if length > limit => return connection.refuse(request, &too_large()).await,
        Framing::Length(length) => Some(length),
        _ => None,
    };
    // Before the body: what has no place need not be sent.
    let mut draft = match queue.draft(&kept, head, announced) {
        Ok(draft) => draft,
        Err(error) => return connection.refuse(request, &error.into()).await,
    };
    let (mut client, _, alarm) = connection.downstream(request, limit);
    client.take_body_plain();
    let (watcher, end) = oneshot::channel();
    let watcher = wait.is_some().then_some(watcher);
    let accepted = match read(&mut client, &mut draft, request, alarm).await {
        Ok(()) => queue.accept_and_watch(kept, draft, watcher).await.map_err(ErrorResponse::from),
        Err(BodyReadError::Gone) => return Disposition::Close,
        Err(unread) => {
            // What it takes on the disk goes before the client hears of it.
            drop(draft);
            Err(if let BodyReadError::Bad(answer) = unread { answer } else { too_large() })
        }
    };
    let number = match accepted {
        Ok(number) => number,
        Err(error) => return client.respond_error(&error, alarm).await,
    };
    if let Some(wait) = wait {
        match wait_for(&mut client, alarm, request.started + wait, end).await {
            Waited::Gone => return Disposition::Close,
            Waited::Ended => return answer(&mut client, alarm, request, &queue, number).await,
            Waited::TooLong => {}
        }
    }
    let persists = client.may_persist();
    push_accepted(client.out, request, persists, wait.is_some());
    client.finish(persists, alarm).await
}

/// What a client saw that waited for the end of its call.
enum Waited {
    Ended,
    TooLong,
    /// It went away. Its call is made all the same.
    Gone,
}

async fn wait_for(
    client: &mut Downstream<'_>,
    alarm: &mut Alarm,
    deadline: Instant,
    end: oneshot::Receiver<CallState>,
) -> Waited {
    let waited = async {
        tokio::select! {
            biased;
            // If not, the daemon stops: the next one makes it.
            ended = end => if ended.is_ok() { Waited::Ended } else { Waited::TooLong },
            () = poll_fn(|cx| client.poll_gone(cx)) => Waited::Gone,
        }
    };
    alarm.within(deadline, waited).await.unwrap_or(Waited::TooLong)
}

/// Answers as the function has answered, in time.
async fn answer(
    client: &mut Downstream<'_>,
    alarm: &mut Alarm,
    request: &RequestInfo,
    queue: &Queue,
    number: u64,
) -> Disposition {
    let kept = match queue.answer_of(number).await {
        Ok(kept) => kept,
        Err(error) => return client.respond_error(&unanswered(error), alarm).await,
    };
    let bodiless = request.to_head || matches!(kept.code, 100..=199 | 204 | 304);
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::from_u16(kept.code).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = kept.headers(|name| {
        !matches!(
            Header::of(name),
            Header::Hop
                | Header::TransferEncoding
                | Header::ContentLength
                | Header::Ours
                | Header::CallId
                | Header::Upgrade
        )
    });
    response.headers_mut().append(VIA, HeaderValue::from_static("1.1 ingle"));
    response.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
    client.plain_head(&response.into_parts().0, bodiless, Some(kept.size));
    let mut body = kept.body;
    let mut more = !bodiless;
    while more {
        match body.read(client.out, PIECE).await {
            Ok(count) => more = count > 0,
            // The length was said: a cut connection is the only sign that this is not all.
            Err(error) => {
                tracing::warn!(%error, "the answer of a queued call cannot be read from the disk");
                return Disposition::Close;
            }
        }
        if !client.flush(alarm).await {
            return Disposition::Close;
        }
    }
    if client.flush(alarm).await { client.disposition() } else { Disposition::Close }
}

/// What a client is told whose call has ended without an answer that could be kept.
fn unanswered(error: QueueError) -> ErrorResponse {
    match error {
        QueueError::Unanswered { code, .. } => {
            let status = StatusCode::from_u16(code).ok().filter(|status| status.as_u16() >= 400);
            ErrorResponse::new(ErrorCode::CallFailed, error.to_string())
                .with_status(status.unwrap_or(StatusCode::BAD_GATEWAY))
        }
        error => error.into(),
    }
}

/// Takes the body in.
async fn read(
    client: &mut Downstream<'_>,
    draft: &mut Intake,
    request: &RequestInfo,
    alarm: &mut Alarm,
) -> Result<(), BodyReadError> {
    let (head, mut size) = (client.kept, 0);
    let mut piece = Vec::new();
    let mut more = request.has_body();
    while more {
        more = client.take_piece(&mut piece, alarm).await?;
        // All of it where it does without a file, in what has grown by doubling; else what was written last.
        size += piece.len();
        client.kept = head + 2 * size.min(PIECE);
        let written = draft.push(&piece).await;
        written.map_err(|error: QueueError| BodyReadError::Bad(error.into()))?;
        piece.clear();
    }
    Ok(())
}
