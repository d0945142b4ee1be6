//! The calls that a replica is answering, and whether it takes more.
//!
//! Atomics come from the parent module, so that a model checker can put its own in their place
//! (`tests/interleavings`).

use super::atomic::{AtomicU32, Ordering};

/// Set once no more calls are taken.
const CLOSED: u32 = 1 << 31;

/// Counts the calls that a replica is answering, until no more are taken.
///
/// Count and mark are one word: a call is counted by the same access that tells it whether it is taken. So after
/// [`close`](Self::close) the count is of all calls that were taken, and once it is zero none follows.
#[derive(Debug, Default)]
pub(crate) struct InFlight(AtomicU32);

impl InFlight {
    /// Counts one more call. Returns `false` if it is not taken; it is to leave all the same.
    pub(crate) fn enter(&self) -> bool {
        self.0.fetch_add(1, Ordering::Acquire) & CLOSED == 0
    }

    /// Counts one call less, also one that was not taken. Returns whether that was the last one of a closed replica.
    pub(crate) fn leave(&self) -> bool {
        // What the call did comes before the replica is stopped.
        self.0.fetch_sub(1, Ordering::Release) == CLOSED | 1
    }

    /// Takes no more calls from now on.
    pub(crate) fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Returns the number of calls in flight. Zero after a close stays zero, but for calls that are just turned away.
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire) & !CLOSED
    }

    /// Returns whether calls are taken.
    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) & CLOSED == 0
    }
}
