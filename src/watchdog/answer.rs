//! What goes back to the client.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::tcp::WriteHalf;
use tokio::time::Instant;

use super::upstream::push;
use http1::{end_chunks, push_chunk};

/// Bytes that are gathered before they are sent.
const PIECE: usize = 16 << 10;

/// Marks an error that is the watchdog's own.
pub(super) const INTERNAL: (&str, &[u8]) = ("X-OpenFaaS-Internal", b"faas-middleware");

/// How far an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was sent.
    Before,
    /// So many bytes are to come.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection ends.
    UntilClose,
    /// All was sent.
    Done,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    stream: WriteHalf<'a>,
    out: Vec<u8>,
    /// Bytes at the front of `out` that are written.
    written: usize,
    /// The client has got something of its head.
    is_seen: bool,
    state: State,
    http10: bool,
    to_head: bool,
    /// The connection may carry another request.
    pub(super) persists: bool,
    started: Instant,
    /// What was answered, for logs and metrics; 0 before that.
    pub(super) status: u16,
    /// Bytes of the body so far.
    pub(super) sent: u64,
}

impl<'a> Answer<'a> {
    pub(super) fn new(stream: WriteHalf<'a>, http10: bool, to_head: bool, persists: bool) -> Self {
        let (out, state) = (Vec::new(), State::Before);
        Self {
            stream,
            out,
            written: 0,
            is_seen: false,
            state,
            http10,
            to_head,
            persists,
            started: Instant::now(),
            status: 0,
            sent: 0,
        }
    }

    /// Whether its head was made: it is too late for another one.
    pub(super) fn has_begun(&self) -> bool {
        self.state != State::Before
    }

    /// Forgets what was made. `false`: the client has seen some of it, so it is too late for another one.
    pub(super) fn discard(&mut self) -> bool {
        let unseen = !self.is_seen && self.written == 0;
        if unseen {
            self.out.clear();
            (self.state, self.status, self.sent) = (State::Before, 0, 0);
        }
        unseen
    }

    /// Whether all of it was made.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How long it has taken so far.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The same in seconds, as headers and logs have it.
    pub(super) fn took(&self) -> String {
        let elapsed = self.elapsed();
        format!("{}.{:06}", elapsed.as_secs(), elapsed.subsec_micros())
    }

    /// Tells the client that its body is wanted.
    pub(super) async fn go_on(&mut self) -> io::Result<()> {
        self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await
    }

    /// Makes an interim head, which another one follows. A client of HTTP/1.0 would take it for the response.
    pub(super) fn interim(&mut self, status: u16, reason: &str, headers: &[(&str, &[u8])]) {
        if self.http10 {
            return;
        }
        let _ = write!(self.out, "HTTP/1.1 {status} {reason}\r\n");
        for (name, value) in headers {
            push(&mut self.out, name, value);
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// Makes the head: its status line, these headers, and how the body ends. `length` is that of the body, as
    /// far as it is known.
    pub(super) fn begin(
        &mut self,
        status: u16,
        reason: &str,
        length: Option<u64>,
        headers: &[(&str, &[u8])],
    ) {
        debug_assert_eq!(self.state, State::Before, "an answer has one head");
        self.status = status;
        // A vector takes all bytes.
        let _ = write!(self.out, "HTTP/1.1 {status} {reason}\r\n");
        for (name, value) in headers {
            push(&mut self.out, name, value);
        }
        let bodiless = status < 200 || status == 204 || status == 304;
        self.state = match length {
            _ if bodiless => State::Done,
            Some(length) => {
                let _ = write!(self.out, "Content-Length: {length}\r\n");
                if length == 0 { State::Done } else { State::Length(length) }
            }
            // Of an answer to HEAD it need not be known.
            None if self.to_head => State::Done,
            None if self.http10 => {
                self.persists = false;
                State::UntilClose
            }
            None => {
                push(&mut self.out, "Transfer-Encoding", b"chunked");
                State::Chunked
            }
        };
        if self.to_head {
            self.state = State::Done;
        }
        match (self.persists, self.http10) {
            (false, _) => push(&mut self.out, "Connection", b"close"),
            (true, true) => push(&mut self.out, "Connection", b"keep-alive"),
            (true, false) => {}
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// Adds a piece of the body, and sends what has been gathered when there is enough of it.
    pub(super) async fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.gather(data)?;
        if self.out.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    /// Adds a piece of the body.
    pub(super) fn gather(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.state {
            // HEAD, or a status that has no body.
            State::Done => return Ok(()),
            State::Before => debug_assert!(false, "the head comes first"),
            State::Length(left) => {
                let length = data.len() as u64;
                if length > *left {
                    return Err(io::Error::other("the body is longer than was announced"));
                }
                *left -= length;
                self.out.extend_from_slice(data);
                if *left == 0 {
                    self.state = State::Done;
                }
            }
            State::Chunked => push_chunk(&mut self.out, data),
            State::UntilClose => self.out.extend_from_slice(data),
        }
        self.sent += data.len() as u64;
        Ok(())
    }

    /// Ends the body, and sends all that is left.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        self.finish()?;
        self.flush().await
    }

    /// Ends the body.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self.state {
            State::Chunked => end_chunks(&mut self.out),
            State::UntilClose | State::Done => {}
            State::Before | State::Length(_) => {
                return Err(io::Error::other("the body is shorter than was announced"));
            }
        }
        self.state = State::Done;
        Ok(())
    }

    /// Sends what has been gathered.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// The same, for a task that waits for other things as well.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            self.written += ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]))?;
            self.is_seen |= self.has_begun();
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Returns how many bytes have been gathered, and how many of them are written.
    pub(super) fn gathered(&self) -> (usize, usize) {
        (self.out.len(), self.written)
    }

    /// An answer whose body is there.
    pub(super) async fn whole(
        &mut self,
        status: u16,
        reason: &str,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> io::Result<()> {
        self.begin(status, reason, Some(body.len() as u64), headers);
        self.data(body).await?;
        self.end().await
    }

    /// A whole answer of text.
    pub(super) async fn text(
        &mut self,
        status: StatusCode,
        text: &str,
        headers: &[(&str, &[u8])],
    ) -> io::Result<()> {
        let mut all: Vec<(&str, &[u8])> = vec![("Content-Type", b"text/plain; charset=utf-8")];
        all.extend_from_slice(headers);
        let reason = status.canonical_reason().unwrap_or_default();
        self.whole(status.as_u16(), reason, &all, text.as_bytes()).await
    }

    /// An error that is the watchdog's own.
    pub(super) async fn error(&mut self, status: StatusCode, text: &str) -> io::Result<()> {
        self.text(status, text, &[INTERNAL]).await
    }

    /// Makes the head of an answer that changes the protocol; what follows is sent as it is.
    pub(super) fn switch(&mut self, headers: &[(&str, &[u8])]) {
        self.begin(101, "Switching Protocols", None, headers);
        self.state = State::UntilClose;
        self.persists = false;
    }
}
