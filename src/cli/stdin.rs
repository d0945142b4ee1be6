//! Stdin, and files, as streams that do not hold up anything else.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Stdin for reading.
///
/// This is its descriptor, without the buffer of [`std::io::stdin`]: who uses one must not use the other.
pub(crate) fn open() -> io::Result<File> {
    Ok(File::from_std(std::fs::File::from(io::stdin().as_fd().try_clone_to_owned()?)))
}

/// Whether a person sits there, rather than a pipe or a file.
pub(crate) fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Reads to the end, or until there is more than `limit` bytes.
pub(crate) async fn read_at_most(from: impl AsyncRead + Unpin, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}
