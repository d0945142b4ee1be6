//! A call that is being taken in: it has its place in the queue before its body is read.

use super::QueueError;
use super::payload::Payload;
use super::spool;
use super::state::Arriving;

/// A call that is being taken in. Dropped before it was accepted, it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    arriving: Arriving,
    spooled: spool::SpoolWriter,
}

impl Draft {
    pub(super) fn new(arriving: Arriving, spooled: spool::SpoolWriter) -> Self {
        Self { arriving, spooled }
    }

    /// Takes in the next piece of the body.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), QueueError> {
        self.arriving.grow(self.spooled.size() + piece.len() as u64)?;
        Ok(self.spooled.push(piece).await?)
    }

    /// What it sends, on disk if that has a file.
    pub(super) async fn finish(self) -> Result<(Arriving, Payload), QueueError> {
        Ok((self.arriving, self.spooled.finish().await?))
    }
}
