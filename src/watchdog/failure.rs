//! Failures to answer a request, and the statuses that say so.

use http::StatusCode;

use super::body::BodyError;
use super::spawn::Given;

/// A request that was not answered as it should have been.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The request did not arrive whole.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// The client does not take the answer any more.
    #[error("the client went away: {0}")]
    Client(std::io::Error),
    /// The process could not be started.
    #[error("the command could not be started: {0}")]
    Start(std::io::Error),
    /// The buffered body of the request cannot be read.
    #[error("the request's body cannot be read from the disk: {0}")]
    Spool(std::io::Error),
    /// There is no room for the request now.
    #[error("{0}")]
    Busy(String),
    /// Failed command, with the output that the caller alone is shown.
    #[error("{0}")]
    Ended(String, Vec<u8>),
    /// Time limit of the process exceeded; the classic watchdog used another status for it.
    #[error("{text}")]
    Timeout {
        /// What is said.
        text: &'static str,
        /// The status that goes with it.
        status: StatusCode,
    },
    /// The process could not be reached, or does not speak as it should.
    #[error("{0}")]
    Upstream(String),
    /// The request is not one that this mode understands.
    #[error("{1}")]
    Request(StatusCode, String),
}

impl Failure {
    /// One of a process that has taken too long, as all but the first of the watchdogs say it.
    pub(super) fn late(text: &'static str) -> Self {
        Self::Timeout { text, status: StatusCode::GATEWAY_TIMEOUT }
    }

    /// A process that could not be started. If the variables of the request exceed the environment of a process, the
    /// request gets this status.
    pub(super) fn start(error: std::io::Error, given: &Given, too_large: StatusCode) -> Self {
        if error.raw_os_error() != Some(nix::libc::E2BIG) || given.variables.is_empty() {
            return Self::Start(error);
        }
        let text = "the request exceeds the environment of a process: at most 128 KiB for one of its headers \
                    or values, and what the stack's limit leaves for all of them";
        Self::Request(too_large, text.into())
    }

    /// What the client is told; nothing if it has gone.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Body(BodyError::Malformed) => Some(StatusCode::BAD_REQUEST),
            Self::Body(BodyError::Late) => Some(StatusCode::REQUEST_TIMEOUT),
            Self::Body(BodyError::Gone) | Self::Client(_) => None,
            Self::Start(_) | Self::Ended(..) | Self::Spool(_) => Some(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Timeout { status, .. } | Self::Request(status, _) => Some(*status),
            Self::Busy(_) => Some(StatusCode::SERVICE_UNAVAILABLE),
            Self::Upstream(_) => Some(StatusCode::BAD_GATEWAY),
        }
    }
}
