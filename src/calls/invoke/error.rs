//! Why a call was not answered by its function.
//!
//! The text of an error is for callers, who may be anybody. The last output of a function, or the reason why it
//! cannot start, may contain source lines and connection strings: only [`InvokeError::in_full`] has them.

use std::io;
use std::time::Duration;

use http::StatusCode;

/// `Retry-After` of a function that is not available, unless the time of its next start is known.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(10);

/// A call that the function did not answer. Each text names the function.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There is no such function, or it is being removed.
    #[error("function {function} was not found: see 'ingle list'")]
    NotFound {
        /// The name as it stood in the URL.
        function: String,
    },
    /// It cannot start, and waiting will not help.
    #[error("function {function} is not available")]
    Failed {
        /// Its name.
        function: String,
        /// Why, in words.
        reason: String,
    },
    /// The replicas exit soon after they start: several starts in a row have failed, or the next one is
    /// too far off for the call.
    #[error("function {function} is not available")]
    BackingOff {
        /// Its name.
        function: String,
        /// How long until the next start.
        wait: Duration,
        /// How the last one ended.
        reason: String,
    },
    /// As many calls as may wait for a replica do so already.
    #[error("function {function} has no replica ready and {waiting} calls wait for one already: try again")]
    TooManyWaiting {
        /// Its name.
        function: String,
        /// How many wait.
        waiting: usize,
    },
    /// No replica was ready within the call's time.
    #[error("function {function} is not available")]
    NoReplicaInTime {
        /// Its name.
        function: String,
        /// The limit that was reached.
        limit: Duration,
        /// What the function was doing meanwhile.
        reason: String,
    },
    /// A replica took the call, and did not answer within the function's time.
    #[error("function {function} did not answer within its timeout of {limit:?} (ingle.timeout)")]
    NoAnswerInTime {
        /// Its name.
        function: String,
        /// The limit that was reached.
        limit: Duration,
    },
    /// No replica took the call, or the one that did closed the connection.
    #[error("function {function} could not be reached")]
    Unreachable {
        /// Its name.
        function: String,
        /// What the connection said.
        #[source]
        source: io::Error,
        /// No replica has been sent any of the call, so it can be made again whatever it does.
        unsent: bool,
    },
    /// What came back is not HTTP, or not in order.
    #[error("function {function} sent an answer that is not valid HTTP: {reason}")]
    BadAnswer {
        /// Its name.
        function: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The call's body is over the function's limit.
    #[error("the body is larger than the {limit} bytes that function {function} takes (ingle.body-limit)")]
    BodyTooLarge {
        /// Its name.
        function: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The caller stopped sending in the middle of the body.
    #[error("the body of the call to function {function} did not arrive in time")]
    BodyStalled {
        /// Its name.
        function: String,
    },
    /// The caller's body is malformed or was cut.
    #[error("the body of the call to function {function} is malformed: {reason}")]
    BadBody {
        /// Its name.
        function: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller went away: there is nobody to answer.
    #[error("the caller of function {function} went away")]
    CallerGone {
        /// The function's name.
        function: String,
    },
}

impl InvokeError {
    /// There is no function of this name, which is shown, but only as much of it as a name can have.
    pub fn unknown(name: &str) -> Self {
        Self::NotFound { function: name.chars().filter(|char| !char.is_control()).take(128).collect() }
    }

    /// Returns the text with the full reason, for clients that may use the API.
    pub fn in_full(&self) -> String {
        let text = model::error::chain(self);
        match self {
            Self::Failed { reason, .. } => format!("{text}: it cannot start: {reason}"),
            Self::BackingOff { wait, reason, .. } => {
                format!("{text}: the next start is in {}s: {reason}", wait.as_millis().div_ceil(1000))
            }
            Self::NoReplicaInTime { limit, reason, .. } => {
                format!("{text}: no replica was ready within {limit:?} (ingle.timeout): {reason}")
            }
            _ => text,
        }
    }

    /// Returns how long to wait before another attempt is worthwhile, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::BackingOff { wait, .. } => Some(*wait),
            Self::Failed { .. } | Self::NoReplicaInTime { .. } => Some(UNAVAILABLE_PAUSE),
            Self::TooManyWaiting { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// Returns the status that a caller is answered, and that the call is counted under.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Failed { .. } | Self::BackingOff { .. } | Self::TooManyWaiting { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NoReplicaInTime { .. } | Self::NoAnswerInTime { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable { .. } | Self::BadAnswer { .. } => StatusCode::BAD_GATEWAY,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyStalled { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BadBody { .. } => StatusCode::BAD_REQUEST,
            // Nobody reads this answer; the status is what nginx logs for it, and is counted.
            Self::CallerGone { .. } => StatusCode::from_u16(499).expect("a number of three digits"),
        }
    }
}
