//! One client's connection: reads heads, answers what is asked of the watchdog itself, and hands the rest on.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, INTERNAL};
use super::body::Body;
use super::call::Call;
use super::cgi;
use super::failure::Failure;
use super::mode::Service;
use super::shared::Shared;
use http1::{Alarm, Buffer, Framing, HeadError, HeadScan, RequestHead, slots};

/// The largest head of a request.
const MAX_HEAD: usize = 1 << 20;
/// How long a connection may carry nothing. The gateway keeps some for the next call.
const IDLE: Duration = Duration::from_secs(600);
/// How long a connection is read on after an answer that came before the end of the request: closed at once, the
/// kernel would send a reset that takes the answer with it.
const LINGER: Duration = Duration::from_secs(2);

const TOO_LATE: &str = "the answer did not end within write_timeout";

/// Serves a connection to its end.
pub(super) async fn serve(mut stream: TcpStream, shared: &Shared, service: &Service) {
    let mut buffer = Buffer::default();
    // One for the connection, one for the process: set anew for each request, they would cost more than all else.
    let (mut alarm, mut process_alarm) = (Alarm::default(), Alarm::default());
    loop {
        let (mut from, to) = stream.split();
        let head = match read_head(&mut from, &mut buffer, &mut alarm, shared).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(error) => {
                let status = if error == HeadError::TooLarge {
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                } else {
                    StatusCode::BAD_REQUEST
                };
                let mut answer = Answer::new(to, false, false, false);
                if answer.error(status, &error.to_string()).await.is_ok() {
                    close(stream, buffer).await;
                }
                return;
            }
        };
        let mut slots = slots();
        let Ok(Some((request, _))) = RequestHead::parse(&head, &mut slots) else { return };
        let started = Instant::now();
        let mut body = Body::new(from, &mut buffer, request.framing, started + shared.settings.read_timeout);
        let persists = request.persists() && !shared.is_draining();
        let mut answer = Answer::new(to, request.http10, request.method == "HEAD", persists);
        let deadline = Cell::new(started + shared.settings.write_timeout);
        let call = Call {
            request: &request,
            body: &mut body,
            answer: &mut answer,
            shared,
            alarm: &mut process_alarm,
            deadline: &deadline,
        };
        let responded = {
            // In its place from the beginning: it is large, and would be copied.
            let mut responding = pin!(respond(call, service));
            poll_fn(|cx| match responding.as_mut().poll(cx) {
                Poll::Ready(served) => Poll::Ready(Some(served)),
                // Read anew each time: it may have been moved. Work that always has something to do may leave the
                // timer no turn.
                Poll::Pending => match alarm.poll(cx, deadline.get()) {
                    Poll::Pending if Instant::now() < deadline.get() => Poll::Pending,
                    _ => Poll::Ready(None),
                },
            })
            .await
        };
        let served = match responded {
            Some(served) => served,
            None => {
                shared.log.say(TOO_LATE);
                if !answer.has_begun() {
                    answer.persists = false;
                    let text = format!("{TOO_LATE}\n");
                    let told = answer.error(StatusCode::GATEWAY_TIMEOUT, &text);
                    let _ = timeout_at(Instant::now() + LINGER, told).await;
                }
                let (status, took) = (answer.status, answer.elapsed());
                shared.metrics().finished(request.method, status, took);
                return;
            }
        };
        // What is not done was cut off, and must look so.
        if served.is_err() || !answer.is_done() {
            return;
        }
        if !answer.persists || !body.drain().await {
            drop((body, answer));
            close(stream, buffer).await;
            return;
        }
        buffer.release();
    }
}

/// The bytes of the next head; `None` when there is no further request.
async fn read_head(
    from: &mut ReadHalf<'_>,
    buffer: &mut Buffer,
    alarm: &mut Alarm,
    shared: &Shared,
) -> Result<Option<Vec<u8>>, HeadError> {
    let mut deadline = Instant::now() + IDLE;
    let mut scan = HeadScan::default();
    loop {
        let data = buffer.data();
        let is_new = scan.is_empty();
        if scan.is_due(data) {
            let mut slots = slots();
            if let Some((_, length)) = RequestHead::parse(data, &mut slots)? {
                let head = data[..length].to_vec();
                buffer.consume(length);
                return Ok(Some(head));
            }
        }
        if is_new && !scan.is_empty() {
            deadline = Instant::now() + shared.settings.read_timeout;
        }
        if buffer.is_full() && !buffer.grow(MAX_HEAD) {
            return Err(HeadError::TooLarge);
        }
        let fill = alarm.within(deadline, poll_fn(|cx| buffer.poll_fill(from, cx)));
        let filled = if scan.is_empty() {
            tokio::select! {
                biased;
                filled = fill => filled,
                // A request that is on its way would find nobody; one that has begun is answered.
                () = shared.closing().cancelled() => return Ok(None),
            }
        } else {
            fill.await
        };
        match filled {
            Some(Ok(count)) if count > 0 => {}
            _ => return Ok(None),
        }
    }
}

/// Answers one request.
async fn respond(call: Call<'_, '_>, service: &Service) -> io::Result<()> {
    let Call { request, body, answer, shared, alarm, deadline } = call;
    // A client that is not asked for its body need not send it: what follows may be its next request.
    let asks = request.expects_continue && request.framing != Framing::None;
    let persists = answer.persists;
    answer.persists &= !asks;
    match cgi::split(request.target).0 {
        "/_/health" => return health(answer, !shared.is_draining()).await,
        "/_/ready" => return ready(answer, shared, service).await,
        _ => {}
    }
    let Some(_ticket) = shared.admit() else {
        let limit = shared.settings.max_inflight.unwrap_or_default();
        let text = format!("Concurrent request limit exceeded. Max concurrent requests: {limit}\n");
        let done = answer.error(StatusCode::TOO_MANY_REQUESTS, &text).await;
        shared.metrics().finished(request.method, answer.status, answer.elapsed());
        return done;
    };
    if asks {
        answer.go_on().await?;
        answer.persists = persists;
    }
    let served = service.serve(Call { request, body, answer, shared, alarm, deadline }).await;
    let done = match served {
        Ok(()) => Ok(()),
        Err(failure) => fail(failure, answer, shared).await,
    };
    shared.metrics().finished(request.method, answer.status, answer.elapsed());
    done
}

/// Says what went wrong, where that is still possible.
async fn fail(failure: Failure, answer: &mut Answer<'_>, shared: &Shared) -> io::Result<()> {
    shared.log.say(&failure.to_string());
    if !answer.discard() {
        return Err(io::Error::other("the answer is cut off"));
    }
    if matches!(failure, Failure::Body(_)) {
        // Where the next request begins is not known.
        answer.persists = false;
    }
    match failure.status() {
        Some(status) => {
            let headers = [INTERNAL, ("Retry-After", b"1")];
            let headers = if matches!(failure, Failure::Busy(_)) { &headers } else { &headers[..1] };
            let output = if let Failure::Ended(_, output) = &failure { &output[..] } else { &[] };
            let text = format!("{failure}\n{}", String::from_utf8_lossy(output));
            answer.text(status, &text, headers).await
        }
        None => Err(io::Error::other("the client has gone")),
    }
}

/// Says how the watchdog is.
async fn health(answer: &mut Answer<'_>, is_well: bool) -> io::Result<()> {
    let (status, text) = if is_well { (StatusCode::OK, "OK") } else { (StatusCode::SERVICE_UNAVAILABLE, "") };
    answer.text(status, text, &[]).await
}

async fn ready(answer: &mut Answer<'_>, shared: &Shared, service: &Service) -> io::Result<()> {
    if shared.is_full() {
        return answer.text(StatusCode::TOO_MANY_REQUESTS, "", &[]).await;
    }
    health(answer, !shared.is_draining() && service.is_ready(&shared.settings).await).await
}

/// Says that no more follows, and reads on for a moment.
async fn close(mut stream: TcpStream, mut buffer: Buffer) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let deadline = Instant::now() + LINGER;
    loop {
        let count = buffer.data().len();
        buffer.consume(count);
        let fill = poll_fn(|cx| buffer.poll_fill(&mut stream, cx));
        if !matches!(timeout_at(deadline, fill).await, Ok(Ok(1..))) {
            return;
        }
    }
}
