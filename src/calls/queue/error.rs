//! Errors of the queue.

use std::io;

use super::keep::record::CallState;
use super::schedule::admission::Full;
use host::store::StoreError;

/// When to come back to a queue that is full, in seconds.
const FULL_PAUSE: u32 = 5;

/// An error of the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A limit of the queue was reached.
    #[error("the queue holds {what} already: try again later")]
    Full {
        /// The limit that was reached.
        what: String,
        /// When to try again, in seconds.
        retry_after: u32,
    },
    /// The function of a call is not there any more.
    #[error("function {function} not found")]
    NoFunction {
        /// Its name.
        function: String,
    },
    /// There is no such call among those that were given up.
    #[error("no call {number} was given up: see 'ingle queue dead'")]
    NotFound {
        /// The number.
        number: u64,
    },
    /// There is no such call, or it is not remembered any more.
    #[error("no call {call_id} is queued or remembered: see 'ingle calls list'")]
    UnknownCall {
        /// Its id.
        call_id: String,
    },
    /// No answer of a call is kept.
    #[error("no answer of call {call_id} is kept, which is {state}: send X-Keep-Result with a call")]
    NoAnswer {
        /// Its id.
        call_id: String,
        /// How it is.
        state: CallState,
    },
    /// A call has ended without an answer that could be given to whoever waits for it.
    #[error("call {call_id} is {state}: {}", .omitted.as_deref().unwrap_or("'ingle calls show' says why"))]
    Unanswered {
        /// Its id.
        call_id: String,
        /// How it is.
        state: CallState,
        /// Status that it was answered, or would have been; 0 if nothing.
        code: u16,
        /// Reason why the answer was not kept, if there was one. Only the API says why there was none.
        omitted: Option<String>,
    },
    /// A call cannot be cancelled any more.
    #[error("call {call_id} has ended: it is {state}")]
    Ended {
        /// Its id.
        call_id: String,
        /// How it is.
        state: CallState,
    },
    /// A call was cancelled, or was about to be, and its end is not on the disk yet.
    #[error(
        "call {call_id} is broken off, but that is not on the disk yet, and the next start may make it again: \
         'ingle calls show {call_id}' says when it has ended, 'journalctl -u ingle' what holds it up"
    )]
    Ending {
        /// Its id.
        call_id: String,
    },
    /// A payload could not be written or read.
    #[error("the directory of queued calls, queue in daemon.state_dir: {0}")]
    Spool(#[from] io::Error),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Full> for QueueError {
    fn from(Full { what }: Full) -> Self {
        Self::Full { what, retry_after: FULL_PAUSE }
    }
}
