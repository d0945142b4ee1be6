//! Counters of what the queue has done.

/// Counts of calls since the daemon began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Calls that were accepted.
    pub accepted: u64,
    /// Calls that were answered as they should be.
    pub made: u64,
    /// Tries that failed, and were followed by another.
    pub retried: u64,
    /// Calls that were given up.
    pub given_up: u64,
    /// Calls that somebody cancelled.
    pub cancelled: u64,
    /// Callbacks that were taken by their receivers.
    pub told: u64,
    /// Callbacks that were given up.
    pub untold: u64,
}
