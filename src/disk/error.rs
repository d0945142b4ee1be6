//! Why something was not removed, or does not fit.

use std::path::PathBuf;

use crate::runtime::RuntimeError;
use crate::store::StoreError;

/// An error about what is on the disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no such image on this machine.
    #[error("image {0} is not on this machine: see 'ingle image list'")]
    ImageNotFound(String),
    /// Somebody needs it.
    #[error("image {image} is used by {user}, and cannot be removed before that is")]
    ImageInUse {
        /// The image.
        image: String,
        /// The function that uses it, in words.
        user: String,
    },
    /// An image is too large for what is free.
    #[error(
        "image {image} needs about {need} of disk, and of {free} that are free at {path} {reserve} are kept for others: \
         see 'ingle system df', make room with 'ingle system prune', or use a larger disk",
        need = bytes(*.need), free = bytes(*.free), reserve = bytes(*.reserve), path = .path.display()
    )]
    NoRoom {
        /// The image.
        image: String,
        /// Bytes that it takes, fetched and unpacked.
        need: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes of these that images must leave.
        reserve: u64,
        /// Where.
        path: PathBuf,
    },
    /// What is there could not be listed or changed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// What is in use could not be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A number of bytes for people, in steps of 1000 as disks count.
fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    format!("{:.1} {name}", count as f64 / unit)
}
