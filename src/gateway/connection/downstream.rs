//! The client's side of a request: its body goes up, the response comes down.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header;
use http::response::Parts;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use calls::invoke::may_pass;
use forward::{BodyError, Caller, Client, Outgoing, PIECE, Stream};
use http1::{Alarm, Buffer, Decoder, Framing, Header, ResponseHead, end_chunks, method, push_chunk};

use super::places::{Evicted, Place};
use super::request::RequestInfo;
use super::response::{Disposition, push_connection, push_date, push_error, push_via};
use super::worker::{DrainExempt, Worker};
use crate::gateway::error::{ErrorCode, ErrorResponse};

/// How long after its head the end of a body without a length is waited for, before the function gets its beginning.
const GATHER_FOR: Duration = Duration::from_millis(20);

/// A body that was not taken in.
pub(in crate::gateway) enum BodyReadError {
    Gone,
    TooLarge,
    Bad(ErrorResponse),
}

/// A client, during one request.
pub(in crate::gateway) struct Downstream<'a> {
    stream: &'a mut Stream,
    input: &'a mut Buffer,
    /// To the client: what is not written yet, and `written` bytes that are.
    pub(in crate::gateway) out: &'a mut Vec<u8>,
    written: usize,
    request: &'a RequestInfo,
    /// Where the request's body ends.
    body: Decoder,
    /// It is sent on in chunks, as it came.
    chunked: bool,
    /// Bytes that it may still have.
    allowance: u64,
    must_continue: bool,
    body_deadline: Option<Instant>,
    place: &'a mut Place,
    /// Bytes that the request holds elsewhere.
    pub(in crate::gateway) kept: usize,
    /// Bytes of memory of that to which the body is appended.
    piece: usize,
    /// The place knows that the body is waited for.
    waits: bool,
    /// When the wait for the body has begun, if that is not each time that some of it has come.
    waits_since: Option<Instant>,
    /// The end of the body, looked for in input that nobody takes yet: what comes next, and where that begins.
    ahead: Option<(Decoder, usize)>,
    /// All of the body has been read, taken or not; or the connection is a tunnel, whose end is not waited for.
    whole: bool,
    evicted: Option<Evicted>,
    /// Bytes for whose reservation reading waits.
    wanted: usize,
    /// How long it may take to send or read something.
    pub(in crate::gateway) stall: Duration,
    worker: &'a Worker,
    /// Of a tunnel, whose end a stop of the gateway does not wait for.
    unawaited: Option<DrainExempt<'a>>,
    persists: bool,
    /// The answer's body goes out in chunks of our own; else as it comes: with a length, until the connection's end,
    /// or not at all.
    in_chunks: bool,
    /// The status that was answered.
    pub(in crate::gateway) code: u16,
    /// The client has got something of the answer.
    begun: bool,
    /// Grows with every byte in any direction.
    pub(in crate::gateway) bytes_moved: u64,
}

impl<'a> Downstream<'a> {
    #[expect(clippy::too_many_arguments, reason = "the parts of a connection, which lends them")]
    pub(in crate::gateway) fn new(
        stream: &'a mut Stream,
        input: &'a mut Buffer,
        out: &'a mut Vec<u8>,
        request: &'a RequestInfo,
        body_limit: u64,
        worker: &'a Worker,
        place: &'a mut Place,
        kept: usize,
        piece: usize,
    ) -> Self {
        Self {
            stream,
            input,
            out,
            written: 0,
            request,
            body: request.framing.into(),
            chunked: request.framing == Framing::Chunked,
            allowance: body_limit,
            must_continue: request.expects_continue,
            body_deadline: None,
            place,
            kept,
            piece,
            waits: false,
            waits_since: None,
            ahead: None,
            whole: false,
            evicted: None,
            wanted: 0,
            stall: worker.limits.idle_timeout,
            worker,
            unawaited: None,
            persists: request.persists,
            in_chunks: false,
            code: 0,
            begun: false,
            bytes_moved: 0,
        }
    }

    /// Whether the connection can carry another request if it is answered now.
    pub(in crate::gateway) fn may_persist(&self) -> bool {
        self.persists && self.body.is_done() && !self.worker.is_closing()
    }

    /// Forgets an answer that turned out to be none. `false`: the client has seen some of it.
    pub(in crate::gateway) fn discard_response(&mut self) -> bool {
        if !self.begun && self.written == 0 {
            self.out.clear();
            self.code = 0;
            self.in_chunks = false;
        }
        self.code == 0
    }

    /// Returns what becomes of the connection after a whole response. What the response's head said of it holds, also
    /// when the gateway has begun to stop since: the client may have sent its next request already.
    pub(in crate::gateway) fn disposition(&self) -> Disposition {
        if !self.persists || self.code == 101 {
            Disposition::LingeringClose
        } else if self.body.is_done() {
            Disposition::KeepAlive
        } else {
            Disposition::Drain(self.body.clone())
        }
    }

    /// Counts the wait for the body from `since`: it is small, and coming bit by bit makes it no younger.
    pub(in crate::gateway) fn wait_since(&mut self, since: Instant) {
        self.waits_since = Some(since);
    }

    /// The response to a request that is not waited for any more, because others wanted what it took.
    pub(in crate::gateway) fn evicted(&self) -> Option<ErrorResponse> {
        self.evicted.map(|evicted| evicted.response(ErrorCode::BodyStalled))
    }

    /// The request's body is taken as data, without chunks.
    pub(in crate::gateway) fn take_body_plain(&mut self) {
        self.chunked = false;
    }

    /// Gathers the beginning of a body that comes without a length, and writes it to `out` behind the head. A body that
    /// ends soon gets its length: many servers know no other way to tell how long it is.
    pub(in crate::gateway) async fn gather_body(
        &mut self,
        out: &mut Outgoing,
        alarm: &mut Alarm,
    ) -> Result<(), BodyError> {
        self.chunked = false;
        let mut body = Vec::new();
        let deadline = self.request.started + GATHER_FOR;
        let ended = poll_fn(|cx| {
            while body.len() < PIECE {
                match self.poll_body(cx, &mut body) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => return Poll::Ready(Ok(true)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return alarm.poll(cx, deadline).map(|()| Ok(false)),
                }
            }
            Poll::Ready(Ok(false))
        });
        if ended.await? {
            method::push_length("POST", Framing::Length(body.len() as u64), &mut out.bytes);
            out.bytes.extend_from_slice(b"\r\n");
            out.bytes.extend_from_slice(&body);
            out.complete();
            return Ok(());
        }
        self.chunked = true;
        method::push_length("POST", Framing::Chunked, &mut out.bytes);
        out.bytes.extend_from_slice(b"\r\n");
        if !body.is_empty() {
            push_chunk(&mut out.bytes, &body);
        }
        Ok(())
    }

    /// Takes in the next piece of a body that stays here for now. `false`: that was all.
    pub(in crate::gateway) async fn take_piece(
        &mut self,
        piece: &mut Vec<u8>,
        alarm: &mut Alarm,
    ) -> Result<bool, BodyReadError> {
        let read = poll_fn(|cx| match self.poll_body(cx, piece) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => match self.body_deadline() {
                Some(deadline) => alarm.poll(cx, deadline).map(|()| None),
                None => Poll::Pending,
            },
        });
        match read.await {
            Some(Ok(more)) => Ok(more),
            Some(Err(BodyError::TooLarge)) => Err(BodyReadError::TooLarge),
            Some(Err(BodyError::Gone)) => Err(self.evicted().map_or(BodyReadError::Gone, BodyReadError::Bad)),
            Some(Err(BodyError::Bad(reason))) => {
                let text = format!("the body is malformed: {reason}");
                Err(BodyReadError::Bad(ErrorResponse::new(ErrorCode::BadBody, text)))
            }
            None => {
                let text = format!("nothing of the body came for {:?} (gateway.idle_timeout)", self.stall);
                Err(BodyReadError::Bad(ErrorResponse::new(ErrorCode::BodyStalled, text)))
            }
        }
    }

    /// The head of an answer of our own. `length` is the body's, when it is known beforehand.
    pub(in crate::gateway) fn plain_head(&mut self, parts: &Parts, bodiless: bool, length: Option<u64>) {
        self.code = parts.status.as_u16();
        let reason = parts.status.canonical_reason().unwrap_or_default();
        self.push(&[b"HTTP/1.1 ", parts.status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
        for (name, value) in &parts.headers {
            if !matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING) {
                self.push(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            }
        }
        if !bodiless && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            match length {
                Some(length) => {
                    self.push(&[b"content-length: ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
                }
                None if self.request.http10 => self.persists = false,
                None => {
                    self.in_chunks = true;
                    self.push(&[b"transfer-encoding: chunked\r\n"]);
                }
            }
        }
        self.persists &= self.body.is_done();
        self.push_connection();
        if !parts.headers.contains_key(header::DATE) {
            push_date(self.out);
        }
        self.request.push_headers(self.out);
        self.push(&[b"\r\n"]);
    }

    fn push_connection(&mut self) {
        // A client that was not asked for its body need not send it now.
        let is_unasked = self.must_continue && !self.body.is_done();
        self.persists &= !self.worker.is_closing() && !is_unasked;
        push_connection(self.out, self.persists, self.request.http10);
    }

    /// Writes all there is. `false` when the client does not take it.
    pub(in crate::gateway) async fn flush(&mut self, alarm: &mut Alarm) -> bool {
        // One that gives way is not waited for.
        let deadline = Instant::now() + if self.evicted.is_some() { Duration::ZERO } else { self.stall };
        let written = alarm.within(deadline, poll_fn(|cx| self.poll_flush(cx))).await;
        written.is_some_and(|written| written.is_ok())
    }

    /// Responds with an error.
    pub(in crate::gateway) async fn respond_error(
        &mut self,
        error: &ErrorResponse,
        alarm: &mut Alarm,
    ) -> Disposition {
        let persists = self.may_persist();
        push_error(self.out, Some(self.request), error, persists);
        self.finish(persists, alarm).await
    }

    /// Writes what is left of a response after which the connection `persists`, or ends.
    pub(in crate::gateway) async fn finish(&mut self, persists: bool, alarm: &mut Alarm) -> Disposition {
        Disposition::after(self.flush(alarm).await, persists)
    }

    fn push(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.out.extend_from_slice(part);
        }
    }

    /// Reads from the client. A buffer is held only if something is in it. What is read is appended to what takes
    /// `piece` bytes of memory then.
    fn poll_input(&mut self, cx: &mut Context<'_>, piece: usize) -> Poll<io::Result<usize>> {
        if self.input.is_empty() && self.stream.poll_read_ready(cx).is_pending() {
            self.input.release();
            return Poll::Pending;
        }
        if self.may_give_way() {
            let wanted = self.kept + self.out.capacity() + self.input.capacity_to_read(PIECE) + piece;
            if !matches!(self.place.poll_room(cx, wanted), Poll::Ready(Ok(()))) {
                self.wanted = wanted;
                return Poll::Pending;
            }
        }
        let read = self.input.poll_fill(self.stream, cx);
        if read.is_pending() {
            self.input.release();
        }
        read
    }

    fn held(&self) -> usize {
        self.kept + self.input.capacity() + self.out.capacity() + self.piece
    }

    /// Whether the request gives way if others want its memory or place: not when all of it is here, nor when it is
    /// being answered.
    fn may_give_way(&mut self) -> bool {
        self.code == 0 && !self.is_whole()
    }

    /// Notes what is held while something is waited for, and whether the request has to give way.
    fn note_wait(&mut self, cx: &mut Context<'_>) {
        let wanted = std::mem::take(&mut self.wanted);
        if !self.may_give_way() {
            self.waits = false;
            self.place.work();
            return;
        }
        if !self.waits {
            self.waits = true;
            self.place.wait(self.waits_since.unwrap_or_else(Instant::now));
        }
        if let Poll::Ready(Err(evicted)) = self.place.poll_hold(cx, wanted.max(self.held())) {
            self.evicted = Some(evicted);
        }
    }

    /// Whether all of the body has been read, taken or not.
    fn is_whole(&mut self) -> bool {
        if self.whole || self.body.is_done() {
            return true;
        }
        let (decoder, at) = self.ahead.get_or_insert_with(|| (self.body.clone(), 0));
        // What is malformed is refused when it is taken.
        if let Ok(count) = decoder.skip(&self.input.data()[*at..]) {
            *at += count;
            self.whole = decoder.is_done();
        }
        self.whole
    }

    /// Passes the body that is in the input on: all of its chunks, for a chunk may be a byte, and the next one taking
    /// it on has more to do than that. `Some`: whether there is more; `None`: nothing was there.
    fn take_body(&mut self, out: &mut Vec<u8>) -> Result<Option<bool>, BodyError> {
        let mut taken = false;
        self.ahead = None;
        while !self.input.is_empty() || self.body.is_done() {
            let input = self.input.data();
            let found = self.body.decode(input).map_err(|error| BodyError::Bad(error.to_string()))?;
            let data = &input[found.skip..found.skip + found.data];
            self.allowance = self.allowance.checked_sub(data.len() as u64).ok_or(BodyError::TooLarge)?;
            if self.chunked {
                push_chunk(out, data);
            } else {
                out.extend_from_slice(data);
            }
            self.input.consume(found.skip + found.data);
            self.bytes_moved += found.data as u64;
            taken |= found.data > 0;
            if found.end {
                if self.chunked {
                    end_chunks(out);
                }
                return Ok(Some(false));
            }
        }
        Ok(taken.then_some(true))
    }
}

impl Caller for Downstream<'_> {
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<bool, BodyError>> {
        loop {
            if let Some(more) = self.take_body(out)? {
                self.body_deadline = None;
                self.waits = false;
                self.piece = out.capacity();
                if !more {
                    self.place.work();
                }
                return Poll::Ready(Ok(more));
            }
            // Asked for only now: a replica is there to take the body, and the client has not begun
            // to send it unasked.
            if std::mem::take(&mut self.must_continue) && self.code == 0 {
                self.push(&[b"HTTP/1.1 100 Continue\r\n\r\n"]);
            }
            if self.code == 0 {
                // Before the answer, nobody else writes; an error shows up when reading.
                let _ = self.poll_flush(cx);
            }
            let full = out.len() + PIECE;
            // It grows by doubling.
            let piece = if full > out.capacity() { full.max(2 * out.capacity()) } else { out.capacity() };
            match self.poll_input(cx, piece) {
                Poll::Ready(Ok(0)) if self.body == Decoder::UntilClose => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(BodyError::Gone)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    self.body_deadline.get_or_insert_with(|| Instant::now() + self.stall);
                    self.piece = out.capacity();
                    self.note_wait(cx);
                    let gone = self.evicted.map_or(Poll::Pending, |_| Poll::Ready(BodyError::Gone));
                    return gone.map(Err);
                }
            }
        }
    }

    fn body_deadline(&self) -> Option<Instant> {
        self.body_deadline
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.code == 0 && !self.out.is_empty() {
            let _ = self.poll_flush(cx);
        }
        // What comes early is the next request, or the body, and is kept until its turn.
        while self.input.has_room() {
            match self.poll_input(cx, self.piece) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.note_wait(cx);
        self.evicted.map_or(Poll::Pending, |_| Poll::Ready(()))
    }

    fn head(&mut self, head: &ResponseHead<'_, '_>) {
        let interim = head.code < 200 && head.code != 101;
        if interim && self.request.http10 {
            return;
        }
        self.push(&[
            b"HTTP/1.1 ",
            itoa::Buffer::new().format(head.code).as_bytes(),
            b" ",
            head.reason.as_bytes(),
            b"\r\n",
        ]);
        let chunks = matches!(head.framing, Framing::Chunked | Framing::UntilClose);
        let mut dated = false;
        for (index, header) in head.headers.iter().enumerate() {
            let kind = Header::of(header.name);
            match kind {
                Header::Hop | Header::Connection | Header::TransferEncoding => continue,
                Header::Ours | Header::CallId => continue,
                Header::ContentLength if chunks || head.code < 200 || head.code == 204 => continue,
                Header::Upgrade if head.code != 101 => continue,
                kind if !may_pass(kind, header.value) => continue,
                _ => {}
            }
            // Without its length the body would end elsewhere for the client than for us.
            if kind == Header::ContentLength || !head.connection.names(index) {
                dated |= kind == Header::Date;
                self.push(&[header.name.as_bytes(), b": ", header.value, b"\r\n"]);
            }
        }
        if interim {
            self.push(&[b"\r\n"]);
            return;
        }
        self.code = head.code;
        if head.code == 101 {
            self.push(&[b"Connection: Upgrade\r\n"]);
        } else {
            if chunks && self.request.http10 {
                // Its version knows no other way to end a body of unknown length.
                self.persists = false;
            } else if chunks {
                self.in_chunks = true;
                self.push(&[b"Transfer-Encoding: chunked\r\n"]);
            }
            self.push_connection();
        }
        if !dated {
            push_date(self.out);
        }
        push_via(self.out, head.http10);
        self.request.push_headers(self.out);
        self.push(&[b"\r\n"]);
    }

    fn data(&mut self, data: &[u8]) {
        self.bytes_moved += data.len() as u64;
        self.waits = false;
        if self.in_chunks {
            push_chunk(self.out, data);
        } else {
            self.out.extend_from_slice(data);
        }
    }
}

impl Client for Downstream<'_> {
    fn buffered(&self) -> usize {
        self.out.len()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let count = ready!(Pin::new(&mut *self.stream).poll_write(cx, &self.out[self.written..]))?;
            self.written += count;
            self.begun |= self.code != 0;
            self.bytes_moved += count as u64;
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) {
        if self.in_chunks {
            end_chunks(self.out);
        }
    }

    fn bytes_moved(&self) -> u64 {
        self.bytes_moved
    }

    fn stall(&self) -> Duration {
        self.stall
    }

    fn open_tunnel(&mut self) {
        self.body = Decoder::UntilClose;
        self.chunked = false;
        self.allowance = u64::MAX;
        self.whole = true;
        self.unawaited = Some(self.worker.stop_awaiting());
    }
}
