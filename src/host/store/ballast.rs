//! Room that is held on the disk: sled writes when it is opened, and must be able to on a full disk, too.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;

/// How much is held, in bytes: some segments of sled's log.
pub(super) const SIZE: u64 = 8 << 20;

/// The file that holds it.
#[derive(Debug)]
pub(super) struct Ballast(PathBuf);

impl Ballast {
    /// That of the store in `dir`.
    pub(super) fn of(dir: &Path) -> Self {
        Self(dir.join("ballast"))
    }

    /// Holds the room, if it is not held yet.
    pub(super) fn hold(&self) -> io::Result<()> {
        if fs::metadata(&self.0).is_ok_and(|file| file.len() >= SIZE) {
            return Ok(());
        }
        let held = File::create(&self.0)
            .and_then(|file| posix_fallocate(&file, 0, SIZE.cast_signed()).map_err(io::Error::from));
        if held.is_err() {
            // Half of it would only take what others need.
            let _ = fs::remove_file(&self.0);
        }
        held
    }

    /// Lets go of it; whether there was some.
    pub(super) fn release(&self) -> bool {
        fs::remove_file(&self.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn room_is_held_once_and_let_go_once() {
        let dir = temporary::TemporaryDirectory::new();
        let ballast = Ballast::of(dir.path());
        assert!(!ballast.release());
        ballast.hold().expect("held");
        ballast.hold().expect("held already");
        let file = fs::metadata(dir.path().join("ballast")).expect("a file");
        assert!(file.blocks() * 512 >= SIZE, "it takes {} blocks only", file.blocks());
        assert!(ballast.release() && !ballast.release());
    }
}
