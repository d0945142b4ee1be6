//! One client's connection: reads heads, decides where each request goes, and what happens after.
//!
//! One task serves a connection and everything on it. It holds no buffer while it waits for a
//! request, and one timer for all that it may wait for.

use std::future::poll_fn;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::error::ErrorAnswer;
use super::function::{self, FunctionCall};
use super::handover;
use super::later::{self, LaterCall};
use super::server::Worker;
use super::skill;
use calls::invoke::Outgoing;
use http1::{Alarm, Buffer, Framing, HeadError, Header, RequestHead, ends_after, slots};

/// How long a connection is read on after an answer that came before the end of the request's body:
/// closed at once, the kernel would send a reset that takes the answer with it, and many clients look
/// for an answer only when they have sent everything.
const LINGER: Duration = Duration::from_secs(30);
/// The same after a head that was refused, and when the client sends nothing more.
const LINGER_BRIEFLY: Duration = Duration::from_secs(2);
/// Output that an idle connection may hold on to.
const KEPT_OUTPUT: usize = 1 << 10;

/// What a request is, apart from its headers.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) framing: Framing,
    pub(super) http10: bool,
    /// The connection can carry another request.
    pub(super) persists: bool,
    pub(super) expects_continue: bool,
    pub(super) upgrade: bool,
    /// Errors are wanted as JSON.
    pub(super) json: bool,
    pub(super) to_head: bool,
    pub(super) call_id: CallId,
    pub(super) started: Instant,
    /// The same in nanoseconds of Unix time.
    pub(super) started_at: u128,
}

/// What a call is known by: the client's own id, else a new one.
#[derive(Debug)]
pub(super) enum CallId {
    Sent(Box<[u8]>),
    New([u8; 36]),
}

impl CallId {
    fn of(head: &RequestHead<'_, '_>) -> Self {
        match head.header(Header::CallId) {
            Some(sent) if !sent.is_empty() && sent.len() <= 256 => Self::Sent(sent.into()),
            _ => {
                let mut text = [0; 36];
                uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
                Self::New(text)
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sent(sent) => sent,
            Self::New(text) => text,
        }
    }
}

impl Facts {
    fn of(head: &RequestHead<'_, '_>) -> Self {
        Self {
            framing: head.framing,
            http10: head.http10,
            persists: head.persists(),
            expects_continue: head.expects_continue,
            upgrade: head.upgrade,
            json: head.json,
            to_head: head.method == "HEAD",
            call_id: CallId::of(head),
            started: Instant::now(),
            started_at: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |time| time.as_nanos()),
        }
    }

    pub(super) fn has_body(&self) -> bool {
        self.framing != Framing::None
    }

    /// The headers that every answer has, whoever made it.
    pub(super) fn push_headers(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"X-Call-Id: ");
        out.extend_from_slice(self.call_id.as_bytes());
        out.extend_from_slice(b"\r\nX-Start-Time: ");
        out.extend_from_slice(itoa::Buffer::new().format(self.started_at).as_bytes());
        out.extend_from_slice(b"\r\nX-Duration-Seconds: ");
        push_seconds(out, self.started.elapsed());
        out.extend_from_slice(
            concat!("\r\nX-Served-By: ingle/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes(),
        );
    }
}

/// Seconds with six decimals.
fn push_seconds(out: &mut Vec<u8>, time: Duration) {
    out.extend_from_slice(itoa::Buffer::new().format(time.as_secs()).as_bytes());
    out.push(b'.');
    let micros = time.subsec_micros();
    let mut divisor = 100_000;
    while divisor > 0 {
        out.push(b'0' + u8::try_from(micros / divisor % 10).expect("a digit"));
        divisor /= 10;
    }
}

/// A request's head, taken from the connection.
enum Request {
    Function(FunctionCall),
    Later(Box<LaterCall>),
    /// Its body says which function it calls.
    Skill,
    Api(Box<http::request::Parts>),
    Refused(ErrorAnswer),
}

/// What happens to the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for the next one.
    Next,
    /// It is closed, once the client has had the time to read the answer.
    Linger,
    /// It is closed at once.
    Close,
}

/// One client's connection.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) worker: Arc<Worker>,
    pub(super) input: Buffer,
    /// To the client.
    pub(super) out: Vec<u8>,
    /// To a replica.
    pub(super) outgoing: Outgoing,
    pub(super) alarm: Alarm,
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, worker: Arc<Worker>) {
    let mut connection = Connection {
        stream,
        peer,
        worker,
        input: Buffer::default(),
        out: Vec::new(),
        outgoing: Outgoing::default(),
        alarm: Alarm::default(),
    };
    let mut after = After::Next;
    while after == After::Next {
        after = match connection.next().await {
            Some((mut facts, request)) => {
                let worker = connection.worker.clone();
                let _busy = worker.begin();
                match request {
                    Request::Function(call) => function::serve(&mut connection, &facts, &call).await,
                    Request::Skill => match skill::take(&mut connection, &mut facts).await {
                        Ok(call) => function::serve(&mut connection, &facts, &call).await,
                        Err(after) => after,
                    },
                    Request::Later(call) => later::serve(&mut connection, &facts, *call).await,
                    Request::Api(parts) => handover::serve(&mut connection, &facts, *parts).await,
                    Request::Refused(answer) => connection.refuse(&facts, &answer).await,
                }
            }
            None => After::Close,
        };
    }
    if after == After::Linger {
        connection.linger(LINGER).await;
    }
}

impl Connection {
    /// The next request. `None`: there is none, or it was answered here and the connection ends.
    async fn next(&mut self) -> Option<(Facts, Request)> {
        let idle = self.worker.limits.idle_timeout;
        let limit = self.worker.limits.header_limit;
        let deadline = Instant::now() + idle;
        // How much of the input was looked at and did not hold a whole head.
        let mut seen = 0;
        loop {
            if !self.input.is_empty() && (seen == 0 || ends_after(self.input.data(), seen)) {
                match self.take_head(limit) {
                    Ok(Some(request)) => return Some(request),
                    Ok(None) => {}
                    Err(error) => return self.refuse_head(error.into()).await,
                }
            }
            seen = self.input.data().len();
            if seen >= limit || (self.input.is_full() && !self.input.grow(limit)) {
                return self.refuse_head(HeadError::TooLarge.into()).await;
            }
            match poll_fn(|cx| self.poll_more(cx, deadline)).await {
                More::Read => {}
                More::End => return None,
                More::Late if seen == 0 => return None,
                More::Late => return self.refuse_head(ErrorAnswer::head_too_slow(idle)).await,
            }
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<More> {
        // A buffer is taken only when there is something to read.
        let can_read = !self.input.is_empty() || self.stream.poll_read_ready(cx).is_ready();
        if can_read && let Poll::Ready(read) = self.input.poll_fill(&mut self.stream, cx) {
            return Poll::Ready(if matches!(read, Ok(count) if count > 0) { More::Read } else { More::End });
        }
        if self.input.is_empty() {
            self.input.release();
            if self.out.capacity() > KEPT_OUTPUT {
                self.out = Vec::new();
            }
            if self.outgoing.bytes.capacity() > KEPT_OUTPUT {
                self.outgoing = Outgoing::default();
            }
        }
        ready!(self.alarm.poll(cx, deadline));
        Poll::Ready(More::Late)
    }

    /// Takes a head from the input, if a whole one is there, and decides where it goes.
    fn take_head(&mut self, limit: usize) -> Result<Option<(Facts, Request)>, HeadError> {
        let mut slots = slots();
        let Some((head, length)) = RequestHead::parse(self.input.data(), &mut slots)? else {
            return Ok(None);
        };
        if length > limit {
            return Err(HeadError::TooLarge);
        }
        let facts = Facts::of(&head);
        let request = match function::route(&self.worker.gateway.directory, &head) {
            function::Route::Call { entry, path } => {
                let forward = function::Forward { head: &head, path, facts: &facts, peer: self.peer };
                match LaterCall::preferred(&entry, &forward, &self.worker.gateway.queue) {
                    Some(Ok(call)) => Request::Later(Box::new(call)),
                    Some(Err(answer)) => Request::Refused(answer),
                    None => {
                        self.outgoing.begin(facts.has_body());
                        forward.write(&entry, &mut self.outgoing.bytes);
                        Request::Function(FunctionCall::new(entry, head.method, head.framing))
                    }
                }
            }
            function::Route::Later { entry, path } => {
                let forward = function::Forward { head: &head, path, facts: &facts, peer: self.peer };
                match LaterCall::new(entry, &forward, &self.worker.gateway.queue) {
                    Ok(call) => Request::Later(Box::new(call)),
                    Err(answer) => Request::Refused(answer),
                }
            }
            function::Route::Skill { path } => {
                let forward = function::Forward { head: &head, path, facts: &facts, peer: self.peer };
                skill::begin(&forward, &mut self.outgoing);
                Request::Skill
            }
            function::Route::Unknown(error) => Request::Refused(error.into()),
            function::Route::NotAFunction => match handover::parts(&head) {
                Ok(parts) => Request::Api(Box::new(parts)),
                Err(answer) => Request::Refused(answer),
            },
        };
        self.input.consume(length);
        Ok(Some((facts, request)))
    }

    /// Answers a head that could not be read.
    async fn refuse_head(&mut self, answer: ErrorAnswer) -> Option<(Facts, Request)> {
        self.out.clear();
        push_error(&mut self.out, None, &answer, false);
        if self.flush().await {
            self.linger(LINGER_BRIEFLY).await;
        }
        None
    }

    /// Answers with an error, before anything of the body was read.
    pub(super) async fn refuse(&mut self, facts: &Facts, answer: &ErrorAnswer) -> After {
        let persists = facts.persists && !facts.has_body() && !self.worker.is_closing();
        self.out.clear();
        push_error(&mut self.out, Some(facts), answer, persists);
        match self.flush().await {
            true if persists => After::Next,
            true => After::Linger,
            false => After::Close,
        }
    }

    /// Writes all of the output. `false` when the client does not take it.
    pub(super) async fn flush(&mut self) -> bool {
        let deadline = Instant::now() + self.worker.limits.idle_timeout;
        let mut written = 0;
        poll_fn(|cx| {
            while written < self.out.len() {
                match Pin::new(&mut self.stream).poll_write(cx, &self.out[written..]) {
                    Poll::Ready(Ok(count)) if count > 0 => written += count,
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending => return self.alarm.poll(cx, deadline).map(|()| false),
                }
            }
            Poll::Ready(true)
        })
        .await
    }

    /// Reads and forgets what the client still sends, for at most so long.
    async fn linger(&mut self, limit: Duration) {
        self.out = Vec::new();
        self.outgoing = Outgoing::default();
        let end = Instant::now() + limit;
        let mut deadline = Instant::now() + LINGER_BRIEFLY;
        poll_fn(|cx| {
            // Says that nothing more comes; an error shows up when reading.
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
            loop {
                self.input.consume(self.input.data().len());
                match self.input.poll_fill(&mut self.stream, cx) {
                    Poll::Ready(Ok(count)) if count > 0 && Instant::now() < end => {
                        deadline = (Instant::now() + LINGER_BRIEFLY).min(end);
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.alarm.poll(cx, deadline),
                }
            }
        })
        .await;
    }
}

enum More {
    Read,
    End,
    Late,
}

/// Writes an error as a whole answer.
pub(super) fn push_error(out: &mut Vec<u8>, facts: Option<&Facts>, answer: &ErrorAnswer, persists: bool) {
    let (content_type, body) = answer.body(facts.is_some_and(|facts| facts.json));
    let reason = answer.status.canonical_reason().unwrap_or_default();
    let length = body.len();
    let mut push = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("a vector takes all bytes");
    push(format_args!("HTTP/1.1 {} {reason}\r\n", answer.status.as_u16()));
    push(format_args!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"));
    if let Some(seconds) = answer.retry_after {
        push(format_args!("Retry-After: {seconds}\r\n"));
    }
    match (persists, facts) {
        (false, _) => push(format_args!("Connection: close\r\n")),
        (true, Some(facts)) if facts.http10 => push(format_args!("Connection: keep-alive\r\n")),
        (true, _) => {}
    }
    if let Some(facts) = facts {
        facts.push_headers(out);
    }
    out.extend_from_slice(b"\r\n");
    if !facts.is_some_and(|facts| facts.to_head) {
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_six_decimals() {
        for (micros, text) in
            [(0, "0.000000"), (1, "0.000001"), (1_234_567, "1.234567"), (60_000_000, "60.000000")]
        {
            let mut out = Vec::new();
            push_seconds(&mut out, Duration::from_micros(micros));
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
