//! The outcome of one attempt, of a call or of a callback.

use std::time::Duration;

/// The outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) enum Outcome {
    /// Answered, and not with a code after which it is made again.
    Success,
    /// Nothing was sent, or nothing was done with it: the function has no room, or no replica. That is no attempt.
    Busy {
        /// How long to leave its lane alone at least.
        pause: Duration,
        /// Why, in words.
        reason: String,
    },
    /// Made, and that failed.
    Retryable {
        /// Status that was answered, if any was.
        code: Option<u16>,
        /// The pause that was asked for.
        pause: Option<Duration>,
        /// Why, in words.
        reason: String,
    },
    /// Fails however often it is tried.
    Permanent {
        /// Why, in words.
        reason: String,
    },
}
