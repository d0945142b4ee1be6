//! What came of one try, of a call or of a callback.

use std::time::Duration;

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) enum Outcome {
    /// It was answered, and not with a code after which it is made again.
    Success,
    /// Nothing was sent, or nothing was done with it: the function has no room, or no replica. That is no try.
    Busy {
        /// How long to leave its lane alone at least.
        pause: Duration,
        /// Why, in words.
        reason: String,
    },
    /// It was made, and that failed.
    Retryable {
        /// What was answered, if anything was.
        code: Option<u16>,
        /// The pause that was asked for.
        pause: Option<Duration>,
        /// Why, in words.
        reason: String,
    },
    /// It fails however often it is tried.
    Permanent {
        /// Why, in words.
        reason: String,
    },
}
