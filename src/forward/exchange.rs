//! One call on one connection: head and body go out, an answer comes in, both at the same time.
//!
//! Everything is polled by the task of the caller: no task is spawned and none other is woken. Each
//! direction holds one bounded piece, so a side that does not read stops the side that sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use http1::{Alarm, Buffer, Decoder, HeadError, HeadScan, ResponseHead, slots};

use super::stream::Stream;

/// The largest head of an answer, and of all interim ones together.
const MAX_HEAD: usize = 64 << 10;
/// Bytes of memory that may stay with a call for all the time that its answer takes.
const KEPT: usize = 1 << 10;
/// Bytes that are gathered before they are sent.
pub const PIECE: usize = 16 << 10;

/// Who makes a call: it has a body to send, and takes the answer. The methods that poll register
/// the task like futures do.
pub trait Caller {
    /// Appends the next piece of the body to `out`, as HTTP/1.1 delimits it. `false`: that was all.
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<bool, BodyError>>;

    /// When the body has been waited for too long, if it is being waited for.
    fn body_deadline(&self) -> Option<Instant>;

    /// Ready when nobody waits for the answer any more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// An interim head (1xx), or the head of the answer.
    fn head(&mut self, head: &ResponseHead<'_, '_>);

    /// A piece of the answer's body.
    fn data(&mut self, data: &[u8]);
}

/// Whatever a connection belongs to: held until its exchange ends.
pub trait Keeper {
    /// Keeps a connection for the next exchange.
    fn keep(&self, stream: Stream);
}

/// Nobody: the connection is closed.
impl Keeper for () {
    fn keep(&self, _: Stream) {}
}

/// Why a body did not arrive whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// Over the limit.
    TooLarge,
    /// Malformed, or cut: the reason.
    Bad(String),
    /// The client closed the connection.
    Gone,
}

/// Why an exchange ended before its end.
#[derive(Debug)]
pub enum Failure {
    /// The connection broke or closed; whether a byte of the answer had come.
    Connection(io::Error),
    /// What came is not HTTP, or not in order.
    BadAnswer(&'static str),
    /// The caller's body did not arrive whole.
    Body(BodyError),
    /// The caller sent nothing for too long.
    BodyStalled,
    /// The deadline passed before the answer's head.
    Timeout,
    /// The caller went away.
    Gone,
}

/// What goes to the replica: a head, and as much of the body as has arrived.
#[derive(Debug, Default)]
pub struct Outgoing {
    pub bytes: Vec<u8>,
    sent: usize,
    /// Something that was sent is not held any more, so it cannot be sent again.
    forgotten: bool,
    /// The whole body is here.
    complete: bool,
}

impl Outgoing {
    /// Empties it for the next call, which has a body or not.
    pub fn begin(&mut self, has_body: bool) {
        self.bytes.clear();
        self.sent = 0;
        self.forgotten = false;
        self.complete = !has_body;
    }

    /// Notes that the whole body is here.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// More follows after all: the connection became a tunnel.
    pub fn reopen(&mut self) {
        self.complete = false;
    }

    /// Goes back to the beginning, to be sent again after a connection that broke. `false`: the server may have
    /// seen something that is not `idempotent`, or the beginning is not here any more.
    pub fn rewind(&mut self, idempotent: bool) -> bool {
        let may_repeat = !self.forgotten && (idempotent || self.is_untouched());
        if may_repeat {
            self.sent = 0;
        }
        may_repeat
    }

    /// Whether nothing has been sent.
    pub fn is_untouched(&self) -> bool {
        self.sent == 0 && !self.forgotten
    }

    /// Gives the memory back of what was sent, once the answer has begun and nothing is sent again.
    pub fn forget(&mut self) {
        if self.is_flushed() && self.bytes.capacity() > KEPT {
            (self.bytes, self.sent, self.forgotten) = (Vec::new(), 0, true);
        }
    }

    fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn is_flushed(&self) -> bool {
        self.unsent() == 0
    }
}

/// What the request was, as far as it decides how the answer is read.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// It was a HEAD request.
    pub to_head: bool,
    /// It asked to change to another protocol.
    pub upgrade: bool,
    /// The connection may carry another call afterwards.
    pub reuse: bool,
    /// When the head of the answer must be there.
    pub deadline: Instant,
}

/// One call on one connection.
#[derive(Debug)]
pub struct Exchange<K> {
    stream: Stream,
    keeper: K,
    input: Buffer,
    scan: HeadScan,
    decoder: Decoder,
    /// Bytes of interim heads so far.
    interim: usize,
    persists: bool,
    tunnel: bool,
    /// The replica does not read any more; it may still answer.
    send_error: Option<io::Error>,
    shut: bool,
}

impl<K: Keeper> Exchange<K> {
    /// Begins with nothing sent.
    pub fn new(stream: Stream, keeper: K) -> Self {
        Self {
            stream,
            keeper,
            input: Buffer::default(),
            scan: HeadScan::default(),
            decoder: Decoder::Length(0),
            interim: 0,
            persists: false,
            tunnel: false,
            send_error: None,
            shut: false,
        }
    }

    /// Returns the keeper of the connection.
    pub fn keeper(&self) -> &K {
        &self.keeper
    }

    /// Whether the server agreed to change to another protocol.
    pub fn is_tunnel(&self) -> bool {
        self.tunnel
    }

    /// Sends, and reads until the head of the answer has been given to the caller.
    pub fn poll_head<C: Caller>(
        &mut self,
        cx: &mut Context<'_>,
        expected: Expected,
        out: &mut Outgoing,
        caller: &mut C,
        alarm: &mut Alarm,
    ) -> Poll<Result<(), Failure>> {
        loop {
            self.send(cx, out, caller)?;
            match self.poll_input(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failure::Connection(self.closed()))),
                Poll::Ready(Ok(_)) => {
                    if self.take_head(expected, caller)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Err(error)) => {
                    let error = self.send_error.take().unwrap_or(error);
                    return Poll::Ready(Err(Failure::Connection(error)));
                }
                Poll::Pending => break,
            }
        }
        if !self.wants_body(out) && caller.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failure::Gone));
        }
        let body_deadline = if out.is_flushed() && !out.complete { caller.body_deadline() } else { None };
        let deadline = body_deadline.map_or(expected.deadline, |body| body.min(expected.deadline));
        ready!(alarm.poll(cx, deadline));
        Poll::Ready(Err(if body_deadline.is_some() { Failure::BodyStalled } else { Failure::Timeout }))
    }

    /// Reads from the replica. A buffer is held only if something is in it.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let is_pending = self.input.is_empty() && self.stream.poll_read_ready(cx).is_pending();
        let read = if is_pending { Poll::Pending } else { self.input.poll_fill(&mut self.stream, cx) };
        if read.is_pending() {
            self.input.release();
        }
        read
    }

    /// Looks for a head in what has been read, and gives interim ones on. `true` when the answer's
    /// own was found.
    fn take_head<C: Caller>(&mut self, expected: Expected, caller: &mut C) -> Result<bool, Failure> {
        loop {
            let mut slots = slots();
            let parsed = match self.scan.is_due(self.input.data()) {
                true => ResponseHead::parse(self.input.data(), &mut slots, expected.to_head),
                false => Ok(None),
            };
            let Some((head, length)) = parsed.map_err(bad_answer)? else {
                if self.input.is_full() && !self.input.grow(MAX_HEAD) {
                    return Err(Failure::BadAnswer("its head is larger than 64 KiB"));
                }
                return Ok(false);
            };
            self.scan = HeadScan::default();
            let code = head.code;
            if code == 101 && !expected.upgrade {
                return Err(Failure::BadAnswer("it changes the protocol without being asked to"));
            }
            if code < 200 {
                // They wait in memory for a client that may not read.
                self.interim += length;
                if self.interim > MAX_HEAD {
                    return Err(Failure::BadAnswer("its interim answers do not end"));
                }
            }
            // The gateway says "continue" itself, when it wants the body.
            if code != 100 {
                caller.head(&head);
            }
            if code == 101 {
                self.tunnel = true;
                self.decoder = Decoder::UntilClose;
            } else if code >= 200 {
                self.persists = head.persists() && expected.reuse;
                self.decoder = head.framing.into();
            }
            self.input.consume(length);
            if code == 101 || code >= 200 {
                return Ok(true);
            }
            if self.input.is_empty() {
                return Ok(false);
            }
        }
    }

    /// Sends, and gives the caller the next piece of the answer's body. `false`: that was its end.
    pub fn poll_data<C: Caller>(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outgoing,
        caller: &mut C,
    ) -> Poll<Result<bool, Failure>> {
        self.send(cx, out, caller)?;
        loop {
            if !self.input.is_empty() || self.decoder.is_done() {
                let found = self
                    .decoder
                    .decode(self.input.data())
                    .map_err(|_| Failure::BadAnswer("its chunks are malformed"))?;
                if found.data > 0 {
                    caller.data(&self.input.data()[found.skip..found.skip + found.data]);
                }
                self.input.consume(found.skip + found.data);
                if found.end {
                    return Poll::Ready(Ok(false));
                }
                if found.data > 0 {
                    return Poll::Ready(Ok(true));
                }
            }
            match ready!(self.poll_input(cx)) {
                Ok(0) if self.decoder == Decoder::UntilClose => return Poll::Ready(Ok(false)),
                Ok(0) => return Poll::Ready(Err(Failure::Connection(self.closed()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Failure::Connection(error))),
            }
        }
    }

    /// Whether the caller has been asked for its body, and not had it: then it is not looked at otherwise, or it would
    /// keep what comes, and nobody would be woken to send that on.
    pub fn wants_body(&self, out: &Outgoing) -> bool {
        !out.complete && out.unsent() < PIECE && self.send_error.is_none()
    }

    /// Sends what can be sent now. A replica that stops reading is no failure yet: it may have
    /// answered before it did.
    pub fn send<C: Caller>(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outgoing,
        caller: &mut C,
    ) -> Result<(), Failure> {
        while self.send_error.is_none() {
            while !out.complete && out.unsent() < PIECE {
                if out.sent >= PIECE {
                    out.bytes.drain(..out.sent);
                    out.sent = 0;
                    out.forgotten = true;
                }
                match caller.poll_body(cx, &mut out.bytes) {
                    Poll::Ready(Ok(more)) => out.complete = !more,
                    Poll::Ready(Err(error)) => return Err(Failure::Body(error)),
                    Poll::Pending => break,
                }
            }
            if out.is_flushed() {
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, &out.bytes[out.sent..]) {
                Poll::Ready(Ok(count)) => out.sent += count,
                Poll::Ready(Err(error)) => self.send_error = Some(error),
                Poll::Pending => break,
            }
        }
        if self.tunnel && out.complete && out.is_flushed() && !self.shut {
            // One side has said all; the other may still speak. An error shows up when reading.
            self.shut = Pin::new(&mut self.stream).poll_shutdown(cx).is_ready();
        }
        Ok(())
    }

    fn closed(&mut self) -> io::Error {
        self.send_error.take().unwrap_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed before the answer was whole",
            )
        })
    }

    /// Keeps the connection for the next call, if it can carry one.
    pub fn finish(self, out: &Outgoing) {
        let Self { stream, keeper, input, persists, tunnel, send_error, .. } = self;
        let clean = input.is_empty() && out.complete && out.is_flushed() && send_error.is_none();
        if persists && !tunnel && clean {
            keeper.keep(stream);
        }
    }
}

fn bad_answer(error: HeadError) -> Failure {
    Failure::BadAnswer(match error {
        HeadError::TooLarge => "its head has more than 128 headers",
        HeadError::Bad(reason) => reason,
        HeadError::Version => "its version is neither HTTP/1.1 nor HTTP/1.0",
        HeadError::Coding => "its transfer coding is not chunked",
    })
}
