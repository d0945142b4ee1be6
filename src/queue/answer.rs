//! What is kept of a function's answer for its callback: collected while it is read, and written to the spool piece
//! by piece, so that a long one is never held in memory.

use std::io;

use http::{HeaderName, HeaderValue};

use super::job::Content;
use super::spool::{Draft, Spool};
use http1::ResponseHead;

/// An answer that is being kept.
#[derive(Debug)]
pub(super) struct Answer {
    /// The largest body.
    limit: u64,
    head: Vec<u8>,
    /// Bytes of the body so far, also those that are not kept.
    size: u64,
    /// What came and is not written yet.
    pending: Vec<u8>,
    draft: Option<Draft>,
    /// Why its body is not kept, if it is not.
    omitted: Option<String>,
}

impl Answer {
    /// Keeps an answer whose body has at most so many bytes.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, head: Vec::new(), size: 0, pending: Vec::new(), draft: None, omitted: None }
    }

    /// Its head has come.
    pub(super) fn head(&mut self, head: &ResponseHead<'_, '_>) {
        self.head.clear();
        for header in head.headers {
            // What the connection has named belongs to it alone.
            if head.connection.names(head.headers, header.name) {
                continue;
            }
            for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
                self.head.extend_from_slice(part);
            }
        }
    }

    /// A piece of its body has come.
    pub(super) fn data(&mut self, piece: &[u8]) {
        self.size += piece.len() as u64;
        if self.size <= self.limit && self.omitted.is_none() {
            self.pending.extend_from_slice(piece);
        }
    }

    /// Writes what has come. What cannot be written is left out: the call is not to be made again for that.
    pub(super) async fn write(&mut self, spool: &Spool) {
        if self.omitted.is_some() {
            return;
        }
        if self.size > self.limit {
            self.omit(format!("it is larger than {} bytes (queue.answer_limit)", self.limit));
            return;
        }
        let draft = self.draft.get_or_insert_with(|| spool.draft(self.head.clone()));
        let written = draft.push(&self.pending).await;
        self.pending.clear();
        if let Err(error) = written {
            self.omit(unwritten(&error));
        }
    }

    /// Leaves the body out; what was kept of it goes.
    fn omit(&mut self, reason: String) {
        (self.draft, self.pending) = (None, Vec::new());
        self.omitted = Some(reason);
    }

    /// Head and body, on disk if they have a file, and why the body is not among them.
    pub(super) async fn finish(mut self, spool: &Spool) -> (Content, Option<String>) {
        self.write(spool).await;
        if let Some(draft) = self.draft.take() {
            match draft.finish().await {
                Ok(content) => return (content, None),
                Err(error) => self.omit(unwritten(&error)),
            }
        }
        (Content::Inline { head: self.head, body: Vec::new() }, self.omitted)
    }
}

/// The headers of an answer that was kept.
pub(super) fn header_lines(head: &[u8]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    head.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?;
        Some((name, value))
    })
}

/// Why an answer is not kept.
pub(super) fn unwritten(error: &io::Error) -> String {
    format!("it could not be written to the disk: {error}")
}
