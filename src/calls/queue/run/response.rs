//! A function's answer as it is kept for its callback or its record: collected while it is read, and written to the
//! spool piece by piece, so that a long one is never held in memory.

use std::io;

use http::{HeaderName, HeaderValue};

use crate::invoke::may_pass;
use crate::queue::error::QueueError;
use crate::queue::job::{Excerpt, JobMetadata};
use crate::queue::payload::Payload;
use crate::queue::schedule::admission::{Reservation, Tenant, Usage};
use crate::queue::spool::{Spool, SpoolWriter};
use crate::queue::state::Shared;
use http1::{Header, ResponseHead};

/// Bytes that are buffered before a write, because a chunk may be a single byte.
const GATHERED: usize = 64 << 10;

/// An answer that is being kept.
#[derive(Debug)]
pub(in crate::queue) struct ResponseWriter {
    /// The largest body.
    limit: u64,
    /// Bytes of head and body that may stand beside what is known of the call.
    inline: usize,
    head: Vec<u8>,
    /// Bytes of the body so far, also those that are not kept.
    size: u64,
    /// Bytes that came and are not written yet.
    pending: Vec<u8>,
    draft: Option<SpoolWriter>,
    /// Room of the queue that it takes.
    room: Reservation,
    /// Why its body is not kept, if it is not.
    omitted: Option<Excerpt>,
}

/// An answer that was kept.
pub(in crate::queue) struct KeptResponse {
    /// On the disk, if it has a file.
    pub(in crate::queue) payload: Payload,
    /// Room of the queue that it has.
    pub(in crate::queue) room: Reservation,
    /// Why its body is not there, if it is not.
    pub(in crate::queue) omitted: Option<Excerpt>,
}

impl ResponseWriter {
    /// Keeps the answer of the call of which this is known.
    pub(in crate::queue) fn new(shared: &Shared, facts: &JobMetadata) -> Self {
        Self {
            limit: shared.config.answer_limit,
            inline: facts.inline(),
            head: Vec::new(),
            size: 0,
            pending: Vec::new(),
            draft: None,
            room: shared.quota.hold(Tenant::Receivers, Usage::default()),
            omitted: None,
        }
    }

    /// Its head has come.
    pub(in crate::queue) fn head(&mut self, head: &ResponseHead<'_, '_>) {
        self.head.clear();
        for (index, header) in head.headers.iter().enumerate() {
            // What the connection has named belongs to it alone.
            if head.connection.names(index) || !may_pass(Header::of(header.name), header.value) {
                continue;
            }
            for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
                self.head.extend_from_slice(part);
            }
        }
    }

    /// A piece of its body has come.
    pub(in crate::queue) fn data(&mut self, piece: &[u8]) {
        self.size += piece.len() as u64;
        if self.size <= self.limit && self.omitted.is_none() {
            self.pending.extend_from_slice(piece);
        }
    }

    /// Writes the buffered bytes if there are enough of them.
    pub(in crate::queue) async fn write(&mut self, spool: &Spool) {
        if self.pending.len() >= GATHERED {
            self.write_all(spool).await;
        }
    }

    /// Writes the buffered bytes. If that fails the body is omitted, because a failed write must not repeat the call.
    async fn write_all(&mut self, spool: &Spool) {
        if self.omitted.is_some() {
            return;
        }
        if self.size > self.limit {
            self.omit(format!("it is larger than {} bytes (queue.answer_limit)", self.limit).into());
            return;
        }
        if let Err(full) = self.room.grow(self.head.len() as u64 + self.size) {
            self.omit(QueueError::from(full).to_string().into());
            return;
        }
        let draft = self.draft.get_or_insert_with(|| spool.writer(self.head.clone(), self.inline));
        let written = draft.push(&self.pending).await;
        self.pending.clear();
        if let Err(error) = written {
            self.omit(unwritten(&error));
        }
    }

    /// Leaves the body out; what was kept of it goes.
    fn omit(&mut self, reason: Excerpt) {
        (self.draft, self.pending) = (None, Vec::new());
        self.room.clear();
        self.omitted = Some(reason);
    }

    /// Finishes what there is to be kept.
    pub(in crate::queue) async fn finish(mut self, spool: &Spool) -> KeptResponse {
        self.write_all(spool).await;
        for _ in 0..2 {
            // Without its body, a head is worth keeping, too.
            let draft = match self.draft.take() {
                Some(draft) => draft,
                None if self.room.grow(self.head.len() as u64).is_ok() => {
                    spool.writer(std::mem::take(&mut self.head), self.inline)
                }
                None => break,
            };
            match draft.finish().await {
                Ok(payload) => return KeptResponse { payload, room: self.room, omitted: self.omitted },
                Err(error) => self.omit(unwritten(&error)),
            }
        }
        self.room.clear();
        KeptResponse { payload: Payload::nothing(), room: self.room, omitted: self.omitted }
    }
}

/// The headers of an answer that was kept.
pub(in crate::queue) fn header_lines(head: &[u8]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    head.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        Some((name, value))
    })
}

/// Why an answer is not kept.
pub(in crate::queue) fn unwritten(error: &io::Error) -> Excerpt {
    format!("it could not be written to the disk: {error}").into()
}
