//! `http`: one process, which is a server; requests are passed on to it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use forward::{Caller, Client, Exchange, Expected, IdleConnections, Outgoing, PIECE, Stream, relay};
use http1::{Alarm, Framing, Header, RequestHead, ResponseHead, end_chunks, method, push_chunk};
use quantity::parse_duration;
use tokio::time::{Instant, sleep, timeout};

use super::answer::Answer;
use super::body::{Body, BodyError};
use super::call::Call;
use super::child::{Child, Ending};
use super::failure::Failure;
use super::settings::{FOREVER, Settings, Upstream};
use super::shared::Shared;
use super::spool::Spooled;
use super::upstream::{self, push, returned};

/// The pauses between two attempts to reach a process that does not listen yet.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// How long the process may take to say whether it is ready.
const READY: Duration = Duration::from_secs(5);

/// The process, and connections to it.
#[derive(Debug)]
pub(super) struct Proxy {
    /// Absent for a server that somebody else has started.
    child: RefCell<Option<Child>>,
    upstream: Upstream,
    idle: RefCell<IdleConnections>,
    ended: Ending,
}

impl Proxy {
    /// Starts the process.
    pub(super) fn start(shared: &Arc<Shared>, ended: Ending) -> Result<Self, String> {
        let settings = &shared.settings;
        let child = match settings.command.is_empty() {
            true => None,
            false => Some(Child::start(shared, ended.clone(), |_| Ok(()))?),
        };
        let (child, upstream) = (RefCell::new(child), settings.upstream.clone());
        Ok(Self { child, upstream, idle: RefCell::default(), ended })
    }

    /// Ends the process, and starts it anew. A server that somebody else has started is left alone.
    pub(super) async fn restart(&self, shared: &Arc<Shared>) -> Result<(), Failure> {
        if shared.settings.command.is_empty() {
            return Ok(());
        }
        self.stop().await;
        let child = Child::start(shared, self.ended.clone(), |_| Ok(())).map_err(Failure::Upstream)?;
        *self.child.borrow_mut() = Some(child);
        Ok(())
    }

    /// Sends JSON, in parts, to a path, and reads the whole response: its status and its body.
    pub(super) async fn post(&self, path: &str, body: &[&[u8]]) -> Result<(u16, Vec<u8>), Failure> {
        let length = body.iter().map(|part| part.len()).sum::<usize>();
        let line = format!("POST {}{path}", self.upstream.path);
        let headers = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        ask(self.connect().await?, &self.request(&line, &headers), Some(body)).await
    }

    /// The head of a request of our own.
    fn request(&self, line: &str, headers: &str) -> String {
        let host = self.upstream.address;
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let Call { request, body, answer, shared, alarm, deadline } = call;
        let limit = limit(request, &shared.settings).unwrap_or(FOREVER);
        let buffers = shared.settings.buffer_body && request.framing != Framing::None;
        let whole = if buffers { Some(shared.spool.read(body).await?) } else { None };
        let framing = whole.as_ref().map_or(request.framing, |whole| Framing::Length(whole.length()));
        let end = Instant::now() + limit;
        let mut out = Outgoing::default();
        out.begin(framing != Framing::None);
        write_head(request, &self.upstream.path, framing, &mut out.bytes);
        let expected = Expected {
            to_head: request.method == "HEAD",
            upgrade: request.upgrade,
            // A server may take such a body for a request, and respond to it: that would be the next request's response.
            reuse: framing == Framing::None || method::takes_body(request.method),
            deadline: end,
        };
        let chunked = framing == Framing::Chunked;
        let stall = shared.settings.write_timeout;
        let mut client = Downstream { body, answer, whole, unreadable: None, chunked, stall, moved: 0 };
        let mut reuse = true;
        let exchange = loop {
            let kept = if reuse { self.idle.borrow_mut().checkout() } else { None };
            let was_kept = kept.is_some();
            let stream = match kept {
                Some(stream) => stream,
                None => self.connect_for(&mut client, alarm, end).await?,
            };
            let mut exchange = Exchange::new(stream, &self.idle);
            let head = poll_fn(|cx| exchange.poll_head(cx, expected, &mut out, &mut client, alarm));
            match head.await {
                Ok(()) => break exchange,
                // It was closed just when it was used.
                Err(forward::Failure::Connection(_))
                    if was_kept && out.rewind(method::is_idempotent(request.method)) =>
                {
                    reuse = false;
                }
                Err(failure) => return Err(client.failed(failure)),
            }
        };
        // From now on the limits are those of silence.
        deadline.set(Instant::now() + FOREVER);
        let relayed = relay(exchange, &mut out, &mut client, alarm, limit).await;
        deadline.set(Instant::now() + stall);
        relayed.map_err(|failure| client.failed(failure))
    }

    /// A new connection for a client that waits.
    async fn connect_for(
        &self,
        client: &mut Downstream<'_, '_>,
        alarm: &mut Alarm,
        end: Instant,
    ) -> Result<Stream, Failure> {
        let mut connecting = pin!(self.connect());
        poll_fn(|cx| {
            if let Poll::Ready(done) = connecting.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            if client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(client.failed(forward::Failure::Gone)));
            }
            alarm.poll(cx, end).map(|()| Err(client.failed(forward::Failure::Timeout)))
        })
        .await
    }

    /// A new connection. A process that does not listen yet is waited for.
    async fn connect(&self) -> Result<Stream, Failure> {
        let (mut pause, longest) = PAUSES;
        loop {
            match Stream::connect(self.upstream.address).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                Err(error) => {
                    let address = self.upstream.address;
                    return Err(Failure::Upstream(format!(
                        "the process is not reached at {address}: {error}"
                    )));
                }
            }
        }
    }

    /// Whether the process listens, and says that it is ready where it can be asked.
    pub(super) async fn is_ready(&self, settings: &Settings) -> bool {
        let asked = async {
            let stream = Stream::connect(self.upstream.address).await.ok()?;
            let Some(path) = &settings.ready_path else { return Some(true) };
            let (code, _) = ask(stream, &self.request(&format!("GET {path}"), ""), None).await.ok()?;
            Some((200..300).contains(&code))
        };
        matches!(timeout(READY, asked).await, Ok(Some(true)))
    }

    pub(super) async fn stop(&self) {
        self.idle.borrow_mut().clear();
        let child = self.child.borrow_mut().take();
        if let Some(child) = child {
            child.stop().await;
        }
    }
}

/// How long the process may be silent: what the settings say, or less if the caller does.
fn limit(request: &RequestHead<'_, '_>, settings: &Settings) -> Option<Duration> {
    let header = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("x-timeout"));
    let asked = header.and_then(|header| parse_duration(std::str::from_utf8(header.value).ok()?).ok());
    // A limit of zero is one that no process meets.
    let asked = asked.filter(|asked| !asked.is_zero());
    match (settings.exec_timeout, asked) {
        (Some(settings), Some(asked)) => Some(settings.min(asked)),
        (settings, asked) => asked.or(settings),
    }
}

/// Writes the head for the process.
fn write_head(request: &RequestHead<'_, '_>, prefix: &str, framing: Framing, out: &mut Vec<u8>) {
    upstream::write_head(request.method, request, prefix, out);
    method::push_length(request.method, framing, out);
    if request.upgrade
        && let Some(protocol) = request.header(Header::Upgrade)
    {
        push(out, "Connection", b"Upgrade");
        push(out, "Upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

/// Makes a request of our own. Returns the status of the response and, if the request has a body, the response's body.
async fn ask(stream: Stream, head: &str, body: Option<&[&[u8]]>) -> Result<(u16, Vec<u8>), Failure> {
    let mut out = Outgoing::default();
    out.begin(body.is_some());
    out.bytes.extend_from_slice(head.as_bytes());
    let pieces = body.unwrap_or_default().iter().flat_map(|part| part.chunks(PIECE));
    let mut asker = Asker { body: pieces, code: 0, content: Vec::new() };
    let deadline = Instant::now() + FOREVER;
    let expected = Expected { to_head: false, upgrade: false, reuse: false, deadline };
    let (mut exchange, mut alarm) = (Exchange::new(stream, ()), Alarm::default());
    let head = poll_fn(|cx| exchange.poll_head(cx, expected, &mut out, &mut asker, &mut alarm));
    head.await.map_err(failed)?;
    while body.is_some()
        && poll_fn(|cx| exchange.poll_data(cx, &mut out, &mut asker)).await.map_err(failed)?
    {}
    Ok((asker.code, asker.content))
}

/// The watchdog itself, as a caller.
struct Asker<B> {
    /// The pieces of the body.
    body: B,
    code: u16,
    content: Vec<u8>,
}

impl<'a, B: Iterator<Item = &'a [u8]>> Caller for Asker<B> {
    fn poll_body(
        &mut self,
        _: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<bool, forward::BodyError>> {
        let piece = self.body.next();
        out.extend_from_slice(piece.unwrap_or_default());
        Poll::Ready(Ok(piece.is_some()))
    }

    fn body_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn head(&mut self, head: &ResponseHead<'_, '_>) {
        self.code = head.code;
    }

    fn data(&mut self, data: &[u8]) {
        self.content.extend_from_slice(data);
    }
}

/// A client, during one request that is passed on.
struct Downstream<'c, 'a> {
    body: &'c mut Body<'a>,
    answer: &'c mut Answer<'a>,
    /// The body, if it was read before the call.
    whole: Option<Spooled<'c>>,
    /// An error of the disk that it is on.
    unreadable: Option<io::Error>,
    /// It is sent on in chunks, as it came.
    chunked: bool,
    /// How long the client may take to read something.
    stall: Duration,
    /// Bytes that have moved, in any direction.
    moved: u64,
}

impl Downstream<'_, '_> {
    /// Writes interim heads, which wait for nothing.
    fn flush_interim(&mut self, cx: &mut Context<'_>) {
        if !self.answer.has_begun() {
            // An error shows up when reading.
            let _ = self.answer.poll_flush(cx);
        }
    }

    /// A failure, as the modes know them.
    fn failed(&mut self, failure: forward::Failure) -> Failure {
        match failure {
            forward::Failure::Body(_) if self.unreadable.is_some() => {
                Failure::Spool(self.unreadable.take().unwrap_or_else(|| io::ErrorKind::Other.into()))
            }
            forward::Failure::Timeout if self.answer.gathered().0 > 0 => {
                Failure::Client(io::Error::other("it does not read the answer (write_timeout)"))
            }
            failure => failed(failure),
        }
    }
}

fn failed(failure: forward::Failure) -> Failure {
    match failure {
        forward::Failure::Connection(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::Upstream("the process closed the connection without an answer".into())
        }
        forward::Failure::Connection(error) => {
            Failure::Upstream(format!("the process's answer cannot be read: {error}"))
        }
        forward::Failure::BadAnswer(reason) => {
            Failure::Upstream(format!("the process's answer cannot be read: {reason}"))
        }
        forward::Failure::Body(forward::BodyError::Gone) => BodyError::Gone.into(),
        forward::Failure::Body(forward::BodyError::Bad(_) | forward::BodyError::TooLarge) => {
            BodyError::Malformed.into()
        }
        forward::Failure::BodyStalled => BodyError::Late.into(),
        forward::Failure::Timeout => Failure::late("the process did not answer within exec_timeout"),
        forward::Failure::Gone => Failure::Client(io::ErrorKind::ConnectionAborted.into()),
    }
}

impl Caller for Downstream<'_, '_> {
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<bool, forward::BodyError>> {
        self.flush_interim(cx);
        let before = out.len();
        let more = if let Some(whole) = &mut self.whole {
            ready!(whole.poll_append(cx, out)).map_err(|error| {
                forward::BodyError::Bad(format!("it cannot be read from the disk: {error}"))
            })?
        } else {
            loop {
                let more = match self.body.poll_piece(cx) {
                    // What has come is sent first.
                    Poll::Pending if out.len() > before => break true,
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(more)) => more,
                    Poll::Ready(Err(BodyError::Malformed)) => {
                        return Poll::Ready(Err(forward::BodyError::Bad(BodyError::Malformed.to_string())));
                    }
                    Poll::Ready(Err(BodyError::Gone | BodyError::Late)) => {
                        return Poll::Ready(Err(forward::BodyError::Gone));
                    }
                };
                match (more, self.chunked) {
                    (true, true) => push_chunk(out, self.body.piece()),
                    (true, false) => out.extend_from_slice(self.body.piece()),
                    (false, true) => end_chunks(out),
                    (false, false) => {}
                }
                // A chunk may be a byte.
                if !more || !self.body.has_more() || out.len() - before >= PIECE {
                    break more;
                }
            }
        };
        self.moved += (out.len() - before) as u64;
        Poll::Ready(Ok(more))
    }

    fn body_deadline(&self) -> Option<Instant> {
        self.whole.is_none().then(|| self.body.deadline())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flush_interim(cx);
        self.body.poll_gone(cx)
    }

    fn head(&mut self, head: &ResponseHead<'_, '_>) {
        let answer = &mut *self.answer;
        let took = answer.took();
        let mut headers: Vec<(&str, &[u8])> =
            returned(head).map(|header| (header.name, header.value)).collect();
        if head.code == 101 {
            let upgrade = head.headers.iter().find(|header| Header::of(header.name) == Header::Upgrade);
            headers.extend(upgrade.map(|header| ("Upgrade", header.value)));
            headers.push(("Connection", b"Upgrade"));
            return answer.switch(&headers);
        }
        if head.code < 200 {
            return answer.interim(head.code, head.reason, &headers);
        }
        headers.push(("X-Duration-Seconds", took.as_bytes()));
        let length = match head.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
            // There is no body, but one may be spoken of: HEAD asks for nothing else.
            Framing::None => {
                let is_length = |name: &str| Header::of(name) == Header::ContentLength;
                let header = head.headers.iter().find(|header| is_length(header.name));
                header.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok())
            }
        };
        answer.begin(head.code, head.reason, length, &headers);
    }

    fn data(&mut self, data: &[u8]) {
        self.moved += data.len() as u64;
        let gathered = self.answer.gather(data);
        debug_assert!(gathered.is_ok(), "the exchange gives no more than was announced");
    }
}

impl Client for Downstream<'_, '_> {
    fn buffered(&self) -> usize {
        self.answer.gathered().0
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (held, written) = self.answer.gathered();
        let flushed = self.answer.poll_flush(cx);
        let now = if flushed.is_ready() { held } else { self.answer.gathered().1 };
        self.moved += (now - written) as u64;
        flushed
    }

    fn end(&mut self) {
        let ended = self.answer.finish();
        debug_assert!(ended.is_ok(), "the exchange gives all that was announced");
    }

    fn bytes_moved(&self) -> u64 {
        self.moved
    }

    fn stall(&self) -> Duration {
        self.stall
    }

    fn open_tunnel(&mut self) {
        self.body.open();
        self.chunked = false;
    }
}
