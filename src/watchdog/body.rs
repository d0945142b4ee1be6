//! The body of a request, as it arrives.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::tcp::ReadHalf;
use tokio::time::{Instant, timeout_at};

use http1::{Buffer, Decoder, Framing};

/// How long the rest of a body is read after an early response, and how long the client may pause meanwhile.
const DRAIN: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(2);

/// Why a body did not arrive whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    /// Not what was announced.
    #[error("the body's chunks are malformed")]
    Malformed,
    /// The client closed the connection.
    #[error("the client went away before the end of its request")]
    Gone,
    /// It took too long.
    #[error("the request did not arrive within read_timeout")]
    Late,
}

/// What has been read of a connection, and the body in it.
#[derive(Debug)]
pub(super) struct Body<'a> {
    stream: ReadHalf<'a>,
    buffer: &'a mut Buffer,
    decoder: Decoder,
    /// Bytes at the front of the buffer that were given out.
    given: usize,
    deadline: Instant,
    /// It is malformed, so its end is not known.
    failed: bool,
}

impl<'a> Body<'a> {
    pub(super) fn new(
        stream: ReadHalf<'a>,
        buffer: &'a mut Buffer,
        framing: Framing,
        deadline: Instant,
    ) -> Self {
        Self { stream, buffer, decoder: framing.into(), given: 0, deadline, failed: false }
    }

    /// The next piece; `None` when that was all. May be given up and called again: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, BodyError> {
        let deadline = self.deadline;
        match timeout_at(deadline, poll_fn(|cx| self.poll_piece(cx))).await {
            Ok(more) => Ok(more?.then(|| self.piece())),
            Err(_) => Err(BodyError::Late),
        }
    }

    /// Looks for the next piece; `false` when that was all.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        self.buffer.consume(std::mem::take(&mut self.given));
        loop {
            if !self.buffer.is_empty() || self.decoder.is_done() {
                let Ok(found) = self.decoder.decode(self.buffer.data()) else {
                    self.failed = true;
                    return Poll::Ready(Err(BodyError::Malformed));
                };
                self.buffer.consume(found.skip);
                if found.data > 0 {
                    self.given = found.data;
                    return Poll::Ready(Ok(true));
                }
                if found.end {
                    return Poll::Ready(Ok(false));
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.decoder == Decoder::UntilClose => return Poll::Ready(Ok(false)),
                Ok(0) | Err(_) => return Poll::Ready(Err(BodyError::Gone)),
                Ok(_) => {}
            }
        }
    }

    /// The piece that was found last.
    pub(super) fn piece(&self) -> &[u8] {
        &self.buffer.data()[..self.given]
    }

    /// Whether more has arrived than that piece.
    pub(super) fn has_more(&self) -> bool {
        self.buffer.data().len() > self.given
    }

    /// Reads from the client. A buffer is held only if something is in it.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let is_idle = self.buffer.is_empty() && self.stream.as_ref().poll_read_ready(cx).is_pending();
        let read = if is_idle { Poll::Pending } else { self.buffer.poll_fill(&mut self.stream, cx) };
        if read.is_pending() {
            self.buffer.release();
        }
        read
    }

    /// Ready when the client does not wait for the response any more. What it sends early is kept.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.buffer.has_room() {
            if !matches!(ready!(self.poll_fill(cx)), Ok(1..)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// When the body is waited for no longer.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// All of it, if that is at most `limit` bytes and has arrived already; it will not be given again.
    pub(super) fn arrived(&mut self, limit: usize) -> Option<&[u8]> {
        let Decoder::Length(length) = self.decoder else { return None };
        let length = usize::try_from(length).ok().filter(|length| *length <= limit)?;
        if self.given > 0 || self.buffer.data().len() < length {
            return None;
        }
        if length > 0 {
            self.given = self.decoder.decode(self.buffer.data()).ok()?.data;
        }
        Some(&self.buffer.data()[..self.given])
    }

    /// Returns the number of bytes that are still to come, if it is known.
    pub(super) fn announced(&self) -> Option<u64> {
        if let Decoder::Length(length) = self.decoder { Some(length) } else { None }
    }

    /// What follows is no request any more: everything is passed on.
    pub(super) fn open(&mut self) {
        self.decoder = Decoder::UntilClose;
    }

    /// Reads and forgets what is left. Returns whether another request can follow.
    pub(super) async fn drain(&mut self) -> bool {
        let end = self.deadline.min(Instant::now() + DRAIN);
        while !self.failed {
            match timeout_at(end.min(Instant::now() + PAUSE), self.next()).await {
                Ok(Ok(Some(_))) if Instant::now() < end => {}
                Ok(Ok(None)) => return true,
                _ => return false,
            }
        }
        false
    }
}
