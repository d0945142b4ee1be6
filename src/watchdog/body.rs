//! The body of a request, as it arrives.

use std::future::poll_fn;

use tokio::net::tcp::ReadHalf;
use tokio::time::{Instant, timeout_at};

use super::settings::FOREVER;
use http1::{Buffer, Decoder, Framing};

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
}

impl<'a> Body<'a> {
    pub(super) fn new(
        stream: ReadHalf<'a>,
        buffer: &'a mut Buffer,
        framing: Framing,
        deadline: Instant,
    ) -> Self {
        Self { stream, buffer, decoder: framing.into(), given: 0, deadline }
    }

    /// The next piece; `None` when that was all. May be given up and called again: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<&[u8]>, BodyError> {
        self.buffer.consume(std::mem::take(&mut self.given));
        loop {
            if !self.buffer.is_empty() || self.decoder.is_done() {
                let found = self.decoder.decode(self.buffer.data()).map_err(|_| BodyError::Malformed)?;
                self.buffer.consume(found.skip);
                if found.data > 0 {
                    self.given = found.data;
                    return Ok(Some(&self.buffer.data()[..found.data]));
                }
                if found.end {
                    return Ok(None);
                }
            }
            let fill = poll_fn(|cx| self.buffer.poll_fill(&mut self.stream, cx));
            match timeout_at(self.deadline, fill).await {
                Ok(Ok(0) | Err(_)) => return Err(BodyError::Gone),
                Ok(Ok(_)) => {}
                Err(_) => return Err(BodyError::Late),
            }
        }
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

    /// What follows is no request any more: everything is passed on, for as long as it takes.
    pub(super) fn open(&mut self) {
        self.decoder = Decoder::UntilClose;
        self.deadline = Instant::now() + FOREVER;
    }

    /// Whether there is nothing more to read of it, so that another request can follow.
    pub(super) fn is_read(&mut self) -> bool {
        self.buffer.consume(std::mem::take(&mut self.given));
        // What has arrived without being asked for is dropped: left, it would be read as the next request.
        while !self.decoder.is_done() && !self.buffer.is_empty() {
            match self.decoder.decode(self.buffer.data()) {
                Ok(found) if found.skip + found.data > 0 => self.buffer.consume(found.skip + found.data),
                _ => return false,
            }
        }
        self.decoder.is_done()
    }
}
