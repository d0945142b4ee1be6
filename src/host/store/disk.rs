//! Room on the disk.

use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::StoreError;

/// Bytes that must be free on the disk, or nothing is written. sled takes no more writes after one that
/// failed, and could be opened anew only by a daemon that is started anew: a full disk must never be met.
/// More than is written between two looks.
pub(super) const RESERVE: u64 = 16 << 20;

/// Returns the bytes that are free on the disk of `path`, if it takes writes. `None` if the file system does not
/// answer: it is met by the write.
pub(super) fn check(path: &Path) -> Result<Option<u64>, StoreError> {
    let Ok(stat) = statvfs(path) else { return Ok(None) };
    if stat.flags().contains(FsFlags::ST_RDONLY) {
        return Err(StoreError::ReadOnly { path: path.to_owned(), begun: false });
    }
    let free = stat.blocks_available() * stat.fragment_size();
    if free < RESERVE { Err(full(path, free)) } else { Ok(Some(free)) }
}

/// Returns the error of a disk with so many bytes free.
pub(super) fn full(path: &Path, free: u64) -> StoreError {
    let megabytes = |bytes: u64| bytes / 1_000_000;
    StoreError::Full { path: path.to_owned(), free: megabytes(free), reserve: megabytes(RESERVE) }
}
