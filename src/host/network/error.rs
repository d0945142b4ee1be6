//! What can go wrong with the network.

use std::path::PathBuf;

/// An error of the network; the text names the thing and the way out.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The conflist cannot be used.
    #[error("network configuration {path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// All addresses are given out.
    #[error("no address is free in {subnet}: {used} are in use; use a larger subnet in {path}")]
    NoAddress {
        /// The range.
        subnet: String,
        /// How many are in use.
        used: usize,
        /// The conflist.
        path: PathBuf,
    },
    /// The kernel, or a plugin, refused.
    #[error("{operation} failed")]
    Failed {
        /// What was being done, with which thing.
        operation: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl NetworkError {
    /// An error of `operation` with its cause.
    pub fn failed(
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { operation: operation.into(), source: source.into() }
    }
}
