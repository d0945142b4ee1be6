//! One client's connection: its stream, its buffers, and one timer for all that it may wait for.
//!
//! One task serves a connection and everything on it. It holds no buffer while it waits for a request.

pub(super) mod downstream;
pub(super) mod places;
pub(super) mod request;
pub(super) mod response;
pub(super) mod worker;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use forward::{Outgoing, Stream};
use http1::{Alarm, Buffer, Decoder, RequestHead, slots};
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::Instant;

use self::downstream::Downstream;
use self::places::{Evicted, Place};
use self::request::RequestInfo;
use self::response::{Disposition, push_error};
use self::worker::Worker;
use crate::gateway::access::client::Client;
use crate::gateway::error::ErrorResponse;

/// How long a connection is read on after an answer that came before the end of the request's body:
/// closed at once, the kernel would send a reset that takes the answer with it, and many clients look
/// for an answer only when they have sent everything.
pub(super) const LINGER: Duration = Duration::from_secs(30);
/// The same after a head that was refused, and when the client sends nothing more.
const LINGER_BRIEFLY: Duration = Duration::from_secs(2);
/// Output that an idle connection may hold on to.
const KEPT_OUTPUT: usize = 1 << 10;

/// One client's connection.
pub(in crate::gateway) struct Connection {
    pub(in crate::gateway) stream: Stream,
    pub(in crate::gateway) client: Client,
    pub(in crate::gateway) worker: Arc<Worker>,
    pub(in crate::gateway) place: Place,
    pub(in crate::gateway) input: Buffer,
    /// To the client.
    pub(in crate::gateway) out: Vec<u8>,
    /// To a replica.
    pub(in crate::gateway) outgoing: Outgoing,
    /// Bytes that the request at hand holds elsewhere.
    pub(in crate::gateway) kept: usize,
    pub(in crate::gateway) alarm: Alarm,
}

/// How a wait for input ended.
pub(in crate::gateway) enum More {
    Read,
    End,
    Late,
    Evicted(Evicted),
}

impl Connection {
    pub(super) fn new(stream: Stream, client: Client, worker: Arc<Worker>, place: Place) -> Self {
        Self {
            stream,
            client,
            worker,
            place,
            input: Buffer::default(),
            out: Vec::new(),
            outgoing: Outgoing::default(),
            kept: 0,
            alarm: Alarm::default(),
        }
    }

    /// Returns the client's side of a request, with what a call needs beside it. The body may have so many bytes.
    pub(in crate::gateway) fn downstream<'a>(
        &'a mut self,
        request: &'a RequestInfo,
        body_limit: u64,
    ) -> (Downstream<'a>, &'a mut Outgoing, &'a mut Alarm) {
        let Self { stream, worker, place, input, out, outgoing, kept, alarm, .. } = self;
        out.clear();
        let piece = outgoing.bytes.capacity();
        let client = Downstream::new(stream, input, out, request, body_limit, worker, place, *kept, piece);
        (client, outgoing, alarm)
    }

    /// Waits for more of a head, which may have `limit` bytes.
    pub(in crate::gateway) fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Instant,
        limit: usize,
    ) -> Poll<More> {
        self.place.serve(cx);
        // A buffer is taken only when there is something to read, and memory for it.
        let mut is_idle = self.input.is_empty() && self.stream.poll_read_ready(cx).is_pending();
        let mut is_whole = false;
        if !is_idle && self.input.is_empty() && self.place.is_pressed() {
            match self.has_whole_request() {
                Some(found) => is_whole = found,
                None => is_idle = self.stream.poll_read_ready(cx).is_pending(),
            }
        }
        let mut reserved = if is_idle || is_whole {
            Poll::Ready(Ok(()))
        } else {
            self.place.poll_room(cx, self.input.capacity_to_read(limit))
        };
        if matches!(reserved, Poll::Ready(Ok(()))) {
            if !is_idle {
                if self.input.is_full() {
                    self.input.grow(limit);
                }
                if let Poll::Ready(read) = self.input.poll_fill(&mut self.stream, cx) {
                    let is_end = !read.is_ok_and(|count| count > 0);
                    return Poll::Ready(if is_end { More::End } else { More::Read });
                }
            }
            self.input.release();
            reserved = self.place.poll_hold(cx, self.input.capacity());
        }
        if self.out.capacity() > KEPT_OUTPUT {
            self.out = Vec::new();
        }
        if self.outgoing.bytes.capacity() > KEPT_OUTPUT {
            self.outgoing = Outgoing::default();
        }
        if let Poll::Ready(Err(evicted)) = reserved {
            // One that has sent nothing hears nothing: it would take that for the response to its next request.
            return Poll::Ready(if is_idle { More::End } else { More::Evicted(evicted) });
        }
        ready!(self.alarm.poll(cx, deadline));
        Poll::Ready(More::Late)
    }

    /// Looks into the stream for a request that has arrived whole, before anything of it is read. `None`: nothing has
    /// come after all.
    fn has_whole_request(&mut self) -> Option<bool> {
        let found = match self.input.peek(&self.stream) {
            Ok(bytes) => Some(bytes.is_empty() || is_one_request(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // It shows up again when reading.
            Err(_) => Some(true),
        };
        if found != Some(true) {
            self.input.release();
        }
        found
    }

    /// Responds to a head that could not be read, and waits until the client has read that.
    pub(in crate::gateway) async fn refuse_head(&mut self, error: &ErrorResponse) {
        self.out.clear();
        push_error(&mut self.out, None, error, false);
        if self.flush().await {
            self.linger(LINGER_BRIEFLY).await;
        }
    }

    /// Responds to a head that gives way to others. A client that does not take that now is not waited for.
    pub(in crate::gateway) async fn evict_head(&mut self, error: &ErrorResponse) {
        self.input = Buffer::default();
        self.out.clear();
        push_error(&mut self.out, None, error, false);
        poll_fn(|cx| {
            let _ = Pin::new(&mut self.stream).poll_write(cx, &self.out);
            Poll::Ready(())
        })
        .await;
        self.linger(LINGER_BRIEFLY).await;
    }

    /// Responds with an error, before anything of the body was read.
    pub(in crate::gateway) async fn refuse(
        &mut self,
        request: &RequestInfo,
        error: &ErrorResponse,
    ) -> Disposition {
        let persists = request.persists && !request.has_body() && !self.worker.is_closing();
        self.out.clear();
        push_error(&mut self.out, Some(request), error, persists);
        Disposition::after(self.flush().await, persists)
    }

    /// Writes all of the output. `false` when the client does not take it.
    async fn flush(&mut self) -> bool {
        let deadline = Instant::now() + self.worker.limits.idle_timeout;
        let written = self.alarm.within(deadline, self.stream.write_all(&self.out)).await;
        written.is_some_and(|written| written.is_ok())
    }

    /// Reads and forgets what the client still sends, for at most so long, which gives it the time to read a response.
    pub(in crate::gateway) async fn linger(&mut self, limit: Duration) {
        // Says that nothing more comes; an error shows up when reading.
        poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx).map(drop)).await;
        self.discard(limit, None).await;
    }

    /// Reads and forgets the rest of a body that its response did not wait for. Returns whether that was all of it,
    /// after which another request may come.
    pub(in crate::gateway) async fn drain(&mut self, body: Decoder) -> bool {
        let is_whole = self.discard(LINGER, Some(body)).await;
        if !is_whole {
            self.linger(LINGER_BRIEFLY).await;
        }
        is_whole
    }

    async fn discard(&mut self, limit: Duration, mut body: Option<Decoder>) -> bool {
        self.out = Vec::new();
        self.outgoing = Outgoing::default();
        let begin = Instant::now();
        let end = begin + limit;
        let mut deadline = begin + LINGER_BRIEFLY;
        self.place.linger();
        poll_fn(|cx| {
            loop {
                let data = self.input.data();
                let skipped = body.as_mut().map_or(Ok(data.len()), |body| body.skip(data));
                let Ok(count) = skipped else { return Poll::Ready(false) };
                self.input.consume(count);
                if body.as_ref().is_some_and(Decoder::is_done) {
                    return Poll::Ready(true);
                }
                let can_read = self.stream.poll_read_ready(cx).is_ready();
                if can_read && let Poll::Ready(read) = self.input.poll_fill(&mut self.stream, cx) {
                    if !read.is_ok_and(|count| count > 0) || Instant::now() >= end {
                        return Poll::Ready(false);
                    }
                    deadline = (Instant::now() + LINGER_BRIEFLY).min(end);
                    continue;
                }
                self.input.release();
                if self.place.is_evicted() {
                    return Poll::Ready(false);
                }
                return self.alarm.poll(cx, deadline).map(|()| false);
            }
        })
        .await
    }
}

/// Whether `bytes` are exactly one whole request, or will be refused.
fn is_one_request(bytes: &[u8]) -> bool {
    let mut slots = slots();
    match RequestHead::parse(bytes, &mut slots) {
        Ok(Some((head, length))) => {
            let mut body = Decoder::from(head.framing);
            body.skip(&bytes[length..]).map_or(true, |count| body.is_done() && length + count == bytes.len())
        }
        Ok(None) => false,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_whole_request_is_told_from_less_and_from_more() {
        let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice();
        let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".as_slice();
        let chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for whole in [get, post, chunks] {
            assert!(is_one_request(whole));
            for length in 0..whole.len() {
                assert!(!is_one_request(&whole[..length]), "{length} of {}", whole.escape_ascii());
            }
            assert!(!is_one_request(&[whole, b"G"].concat()));
            assert!(!is_one_request(&[whole, whole].concat()));
        }
        // Refused as soon as it is read.
        assert!(is_one_request(b"GET / HTTP/9.9\r\n"));
    }
}
