//! HTTP to a process: its answers, as they arrive.

use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::ioctl_fionread;
use tokio::io::AsyncRead;

use super::failure::Failure;
use http1::{Buffer, Decoder, HeadScan, Header, RequestHead, ResponseHead, slots};

/// The largest head of an answer.
const MAX_HEAD: usize = 1 << 20;

/// Answers that come from somewhere, one after the other.
#[derive(Debug)]
pub(super) struct Incoming<R> {
    from: R,
    buffer: Buffer,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: Buffer::default(), decoder: Decoder::Length(0) }
    }

    /// The bytes of the next head that is not an interim one. `None`: the other side closed before its first byte.
    pub(super) async fn head(&mut self, to_head: bool) -> Result<Option<Vec<u8>>, Failure> {
        let mut scan = HeadScan::default();
        loop {
            let mut slots = slots();
            let parsed = match scan.is_due(self.buffer.data()) {
                true => ResponseHead::parse(self.buffer.data(), &mut slots, to_head),
                false => Ok(None),
            };
            let parsed = parsed.map_err(|error| bad(&error.to_string()))?;
            if let Some((head, length)) = parsed {
                scan = HeadScan::default();
                let interim = head.code < 200 && head.code != 101;
                self.decoder =
                    if head.code == 101 { Decoder::UntilClose } else { Decoder::from(head.framing) };
                let bytes = (!interim).then(|| self.buffer.data()[..length].to_vec());
                self.buffer.consume(length);
                if bytes.is_some() {
                    return Ok(bytes);
                }
                continue;
            }
            if self.buffer.is_full() && !self.buffer.grow(MAX_HEAD) {
                return Err(bad("its head is too large"));
            }
            match poll_fn(|cx| self.buffer.poll_fill(&mut self.from, cx)).await {
                Ok(0) | Err(_) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(bad("it ended within its head")),
                Ok(_) => {}
                Err(error) => return Err(bad(&error.to_string())),
            }
        }
    }

    /// The next piece of the body, after `given` bytes of the last were used; how long it is. `None`: that was all.
    pub(super) async fn next(&mut self, given: usize) -> Result<Option<usize>, Failure> {
        self.buffer.consume(given);
        loop {
            if !self.buffer.is_empty() || self.decoder.is_done() {
                let found =
                    self.decoder.decode(self.buffer.data()).map_err(|error| bad(&error.to_string()))?;
                self.buffer.consume(found.skip);
                if found.data > 0 {
                    return Ok(Some(found.data));
                }
                if found.end {
                    return Ok(None);
                }
            }
            match poll_fn(|cx| self.buffer.poll_fill(&mut self.from, cx)).await {
                Ok(0) if self.decoder == Decoder::UntilClose => return Ok(None),
                Ok(0) => return Err(bad("it ended before its end")),
                Ok(_) => {}
                Err(error) => return Err(bad(&error.to_string())),
            }
        }
    }

    /// The piece that [`Self::next`] found.
    pub(super) fn data(&self, length: usize) -> &[u8] {
        &self.buffer.data()[..length]
    }

    /// All of the body.
    pub(super) async fn whole(&mut self) -> Result<Vec<u8>, Failure> {
        let (mut all, mut given) = (Vec::new(), 0);
        while let Some(length) = self.next(given).await? {
            all.extend_from_slice(self.data(length));
            given = length;
        }
        Ok(all)
    }

    /// Whether nothing is left over, which would be taken for the next answer.
    pub(super) fn is_clean(&self) -> bool {
        self.buffer.is_empty() && self.decoder.is_done()
    }

    /// Returns when a byte is there that no answer was read from, or there will be none.
    pub(super) async fn something(&mut self) {
        if self.buffer.is_empty() {
            let _ = poll_fn(|cx| self.buffer.poll_fill(&mut self.from, cx)).await;
        }
    }
}

impl<R: AsyncRead + AsFd + Unpin> Incoming<R> {
    /// Returns the stream that the bytes come from, for inspection.
    pub(super) fn from(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    /// Whether nothing is left over, here or on its way: the kernel is asked, as it may not have told yet.
    pub(super) fn is_silent(&self) -> bool {
        self.is_clean() && ioctl_fionread(&self.from).is_ok_and(|count| count == 0)
    }
}

fn bad(reason: &str) -> Failure {
    Failure::Upstream(format!("the process's answer cannot be read: {reason}"))
}

/// Writes the head of a request as its process is to see it, up to what says how its body ends. `prefix` comes before
/// its path.
pub(super) fn write_head(method: &str, request: &RequestHead<'_, '_>, prefix: &str, out: &mut Vec<u8>) {
    for part in [method, " ", prefix, request.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if request.header(Header::Host).is_none() {
        push(out, "Host", b"localhost");
    }
    for (index, header) in request.headers.iter().enumerate() {
        if is_for_the_end(header.name) && !request.connection.names(index) {
            push(out, header.name, header.value);
        }
    }
}

/// Adds a header to a head.
pub(super) fn push(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The headers of an answer that its client is to see.
pub(super) fn returned<'h, 'b>(
    answer: &'h ResponseHead<'h, 'b>,
) -> impl Iterator<Item = &'h httparse::Header<'b>> {
    let is_returned = |index: usize, name| is_for_the_end(name) && !answer.connection.names(index);
    let headers = answer.headers.iter().enumerate();
    headers.filter(move |(index, header)| is_returned(*index, header.name)).map(|(_, header)| header)
}

/// Whether a header goes beyond the connection that it came by.
fn is_for_the_end(name: &str) -> bool {
    !matches!(
        Header::of(name),
        Header::Hop
            | Header::Connection
            | Header::TransferEncoding
            | Header::ContentLength
            | Header::Expect
            | Header::Upgrade
    )
}
