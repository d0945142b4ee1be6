//! A call that is being taken in: it has its room in the queue before its body is read.

use super::error::QueueError;
use super::schedule::admission::Reservation;
use super::spool::SpoolWriter;

/// A call that is being taken in. Dropped before it was accepted, it leaves nothing.
#[derive(Debug)]
pub struct Intake {
    pub(super) number: u64,
    pub(super) reservation: Reservation,
    pub(super) writer: SpoolWriter,
}

impl Intake {
    /// Takes in the next piece of the body.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), QueueError> {
        self.reservation.grow(self.writer.size() + piece.len() as u64)?;
        Ok(self.writer.push(piece).await?)
    }
}
