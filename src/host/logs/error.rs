//! What can go wrong with function output.

use std::io;
use std::path::PathBuf;

/// An error of the log room. Reading and writing lines never fails: lines that cannot be kept are
/// dropped and counted.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A directory could not be made.
    #[error("directory {path} for function output could not be made: check its owner and the disk")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A FIFO could not be made or opened.
    #[error("FIFO {path} for function output could not be opened: check that its file system takes FIFOs")]
    Fifo {
        /// The FIFO.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
