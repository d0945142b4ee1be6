//! Why a handler was not taken in, or is not there.

use std::io;

use model::function::HandlerDigest;

/// An error of a handler.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// Nobody has handed it over, or no function has used it for an hour.
    #[error(
        "handler {0} is not here: hand it over with 'ingle deploy NAME --handler DIR', 'ingle apply --handlers DIR' or PUT /system/handlers/{0}"
    )]
    NotFound(HandlerDigest),
    /// The archive is another one, or was changed on its way.
    #[error("the archive is {found}, and was announced as {named}: send the archive that the digest is of")]
    Digest {
        /// What was announced.
        named: HandlerDigest,
        /// What came.
        found: HandlerDigest,
    },
    /// The archive holds what no handler may hold, or is none.
    #[error("the archive cannot be used: {0}")]
    Malformed(String),
    /// What is in it takes more room than it may.
    #[error("the handler's files take more than the {limit} bytes of functions.handler_limit")]
    TooLarge {
        /// Bytes at most.
        limit: u64,
    },
    /// The disk did not do as it should.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: String,
        /// What went wrong.
        source: io::Error,
    },
}

impl HandlerError {
    pub fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }
}
