//! Why something was not removed, or does not fit.

use std::path::PathBuf;

use host::bundles::HandlerError;
use host::runtime::RuntimeError;
use host::store::StoreError;

/// Users of an image that are named; a machine may have hundreds.
const SHOWN: usize = 10;

/// An error about what is on the disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no such image on this machine.
    #[error("image {0} is not on this machine: see 'ingle image list'")]
    ImageNotFound(String),
    /// Somebody needs it.
    #[error("image {image} cannot be removed while it is used by {}", list(.users))]
    ImageInUse {
        /// The image.
        image: String,
        /// Who uses it, in words.
        users: Vec<String>,
    },
    /// An image is too large for what is free.
    #[error(
        "image {image} needs about {need} of disk, and of {free} that are free at {path} {reserve} are kept for logs and \
         data{coming}: see 'ingle system df', make room with 'ingle system prune', or use a larger disk",
        need = bytes(*.need), free = bytes(*.free), reserve = bytes(*.reserve), path = .path.display(),
        coming = others(*.coming)
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
        /// Bytes that images will take which were accepted before.
        coming: u64,
        /// Where.
        path: PathBuf,
    },
    /// What is there could not be listed or changed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Handlers could not be listed or removed.
    #[error(transparent)]
    Handlers(#[from] HandlerError),
    /// What is in use could not be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The first few of them.
fn list(users: &[String]) -> String {
    let shown = users[..users.len().min(SHOWN)].join("; ");
    match users.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

fn others(coming: u64) -> String {
    match coming {
        0 => String::new(),
        coming => format!(" and {} for images that are being fetched", bytes(coming)),
    }
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
