//! A temporary directory that is gone when its test ends, or fails the test.

use std::ops::Deref;
use std::time::{Duration, Instant};

/// How long others may still write in a directory that is being removed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// A temporary directory. Its removal waits for whoever still writes there: sled's threads do so for a moment after
/// their database was closed, and tempfile's own removal would leave the directory behind without a word.
#[derive(Debug)]
pub struct TemporaryDirectory(tempfile::TempDir);

impl TemporaryDirectory {
    /// Makes a directory where temporary files go.
    #[expect(clippy::new_without_default, reason = "it makes something")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("make a directory"))
    }
}

impl Deref for TemporaryDirectory {
    type Target = tempfile::TempDir;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let begin = Instant::now();
        while let Err(error) = std::fs::remove_dir_all(self.0.path())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            if begin.elapsed() > PATIENCE {
                let left = format!("{} cannot be removed: {error}", self.0.path().display());
                assert!(std::thread::panicking(), "{left}");
                eprintln!("{left}");
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
            std::thread::sleep(PAUSE);
        }
    }
}
