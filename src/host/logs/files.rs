//! The files of one function: `current.log`, and `previous.log` that came before it.
//!
//! Invariants
//! - Both together never exceed the limit.
//! - A write that fails leaves the file as it was; what a kill left half written is closed off with
//!   a newline before anything is appended.
//! - No file is held open between two writes, so that an idle function costs no descriptor.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::history::Segment;
use crate::private_file::if_there;

const CURRENT: &str = "current.log";
const PREVIOUS: &str = "previous.log";

/// Where one function's lines are kept.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    /// The largest that one of the two files may become.
    limit: u64,
    removed: bool,
}

impl Files {
    /// Files in `directory`, which is made when there is something to write.
    pub(super) fn new(directory: PathBuf, limit: u64) -> Self {
        Self { directory, limit: limit / 2, removed: false }
    }

    /// Appends whole records, in whole or not at all.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.removed {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let (mut file, mut length) = self.current()?;
        if length > 0 && length + records.len() as u64 > self.limit {
            fs::rename(self.directory.join(CURRENT), self.directory.join(PREVIOUS))?;
            (file, length) = self.current()?;
        }
        file.write_all(records).inspect_err(|_| {
            // What the failed write left would be read as lines that were never counted as kept. If
            // this fails too, the next append closes it off.
            let _ = file.set_len(length);
        })
    }

    /// The current file, ending with a newline, and its length.
    fn current(&self) -> io::Result<(File, u64)> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.directory.join(CURRENT))?;
        let length = file.metadata()?.len();
        let mut last = *b"\n";
        if length > 0 {
            file.read_exact_at(&mut last, length - 1)?;
        }
        if last == *b"\n" {
            return Ok((file, length));
        }
        file.write_all(b"\n")?;
        Ok((file, length + 1))
    }

    /// What is there now, oldest first.
    pub(super) fn segments(&self) -> Vec<Segment> {
        [PREVIOUS, CURRENT]
            .iter()
            .filter_map(|name| {
                let file = File::open(self.directory.join(name)).ok()?;
                let length = file.metadata().ok()?.len();
                Some(Segment { file, length })
            })
            .collect()
    }

    /// Deletes everything. Later appends do nothing.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.removed = true;
        if_there(fs::remove_dir_all(&self.directory))?;
        // The namespace's directory goes with its last function.
        if let Some(namespace) = self.directory.parent() {
            let _ = fs::remove_dir(namespace);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn total(directory: &Path) -> u64 {
        fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").metadata().expect("metadata").len())
            .sum()
    }

    #[test]
    fn the_files_stay_within_their_limit_and_keep_the_newest() {
        let dir = temporary::TemporaryDirectory::new();
        let mut files = Files::new(dir.path().join("ns/f"), 1000);
        for n in 0..500 {
            files.append(format!("{n:>9}\n").as_bytes()).expect("written");
            assert!(total(&files.directory) <= 1000);
        }
        let text: String = [PREVIOUS, CURRENT]
            .map(|name| fs::read_to_string(dir.path().join("ns/f").join(name)).expect("a file"))
            .concat();
        let numbers: Vec<u32> = text.lines().map(|line| line.trim().parse().expect("whole lines")).collect();
        assert!(numbers.len() >= 50);
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(numbers.last(), Some(&499));
        files.remove().expect("removed");
        assert!(!dir.path().join("ns").exists());
        files.append(b"late\n").expect("ignored");
        assert!(!dir.path().join("ns").exists());
    }

    #[test]
    fn a_torn_line_is_closed_off() {
        let dir = temporary::TemporaryDirectory::new();
        fs::write(dir.path().join(CURRENT), "whole\nto").expect("written");
        let mut files = Files::new(dir.path().to_owned(), 1000);
        files.append(b"next\n").expect("written");
        assert_eq!(fs::read_to_string(dir.path().join(CURRENT)).expect("a file"), "whole\nto\nnext\n");
    }

    #[test]
    fn a_directory_that_was_deleted_is_made_again() {
        let dir = temporary::TemporaryDirectory::new();
        let mut files = Files::new(dir.path().join("ns/f"), 1000);
        files.append(b"one\n").expect("written");
        fs::remove_dir_all(dir.path().join("ns")).expect("removed");
        files.append(b"two\n").expect("written");
        assert_eq!(files.segments().len(), 1);
    }
}
