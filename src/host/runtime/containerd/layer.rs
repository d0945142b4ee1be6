//! Measures the files of a replica: those in its writable layer, and deleted files that its processes hold.
//!
//! A replica chooses the names, the depth and the number of its files, and may change them at any time. So
//! directories are opened one below the other, which no length of a path stops, and what goes away meanwhile is
//! passed over.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};

use crate::private_file::names_in;
use crate::runtime::Footprint;

/// Deepest directory that is measured: each level takes an open file.
const MAX_DEPTH: usize = 256;
/// Descriptors and mappings of a replica's processes that are examined in one measurement.
const MAX_HELD: usize = 300_000;
/// Unit of `st_blocks`, whatever the file system.
const BLOCK: u64 = 512;
/// How a directory is opened: never through a symlink that took its place.
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A sum of files, each of which counts once.
#[derive(Debug, Default)]
pub(super) struct Files {
    sum: Footprint,
    /// Inodes that may be met again.
    met: HashSet<u64>,
}

impl Files {
    /// Adds the deleted files that these processes hold, by a descriptor or a mapping.
    ///
    /// To be called before [`Self::add_layer`]: a file that is deleted in between is missed once instead of being
    /// counted twice.
    pub(super) fn add_deleted(&mut self, processes: &[u32]) -> io::Result<()> {
        let mut left = MAX_HELD;
        for process in processes {
            let mut mappings_read = false;
            let threads = Path::new("/proc").join(process.to_string()).join("task");
            // A thread may have descriptors of its own, and the first one may have ended before the others.
            for thread in seen(names_in(&threads))?.unwrap_or_default() {
                let thread = threads.join(thread);
                for name in seen(names_in(&thread.join("fd")))?.unwrap_or_default() {
                    self.add_held(&thread.join("fd").join(name), &mut left)?;
                }
                if !mappings_read {
                    let text = seen(fs::read(thread.join("maps")))?.unwrap_or_default();
                    mappings_read = !text.is_empty();
                    for name in deleted_mappings(&String::from_utf8_lossy(&text)) {
                        self.add_held(&threads.with_file_name("map_files").join(name), &mut left)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_held(&mut self, link: &Path, left: &mut usize) -> io::Result<()> {
        *left = left.checked_sub(1).ok_or_else(|| {
            io::Error::other(format!("its processes have more than {MAX_HELD} descriptors and mappings"))
        })?;
        // A link that leads nowhere any more was closed meanwhile.
        let Ok(file) = fs::metadata(link) else { return Ok(()) };
        if !file.is_file() || file.nlink() > 0 {
            return Ok(());
        }
        // Files in memory count towards the memory limit.
        let in_memory = [TMPFS_MAGIC, HUGETLBFS_MAGIC];
        if statfs(link).is_ok_and(|found| !in_memory.contains(&found.filesystem_type())) {
            self.add(&file);
        }
        Ok(())
    }

    /// Adds the files in the writable layer at `root`.
    pub(super) fn add_layer(&mut self, root: &Path) -> io::Result<()> {
        let directory = nix::fcntl::open(root, DIRECTORY, Mode::empty())?;
        self.add_directory(&File::from(directory), 0)
    }

    fn add_directory(&mut self, directory: &File, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other(format!(
                "directories are nested more than {MAX_DEPTH} levels deep"
            )));
        }
        let mut below = Vec::new();
        for entry in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
            let entry = entry?;
            let Some(file) = passing(entry.metadata())? else { continue };
            self.add(&file);
            if file.is_dir() {
                below.push(entry.file_name());
            }
        }
        for name in below {
            match openat(directory, name.as_os_str(), DIRECTORY, Mode::empty()) {
                Ok(opened) => self.add_directory(&File::from(opened), depth + 1)?,
                // Removed, or replaced by another kind of file.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn add(&mut self, file: &Metadata) {
        let is_met_once = file.is_dir() || file.nlink() == 1;
        // Also a file that was held without a name, and has been given one since.
        let is_new = if is_met_once { !self.met.contains(&file.ino()) } else { self.met.insert(file.ino()) };
        if is_new {
            self.sum.bytes += file.blocks() * BLOCK;
            self.sum.files += 1;
        }
    }

    /// Returns the sum.
    pub(super) fn sum(self) -> Footprint {
        self.sum
    }
}

/// Returns the names in `map_files` of mappings whose file was deleted, from the text of `maps`.
fn deleted_mappings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.ends_with(" (deleted)")).filter_map(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        // Without the zeros that `maps` puts in front.
        Some(format!("{:x}-{:x}", number(start)?, number(end)?))
    })
}

/// Returns `None` for what has gone away, and for what the daemon may not see, such as processes of others where it has
/// no CAP_SYS_PTRACE: that is no fault of a replica, which cannot take the right away.
fn seen<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        outcome => passing(outcome),
    }
}

/// Returns `None` for what has gone away: a file that was removed, or a process that has ended.
fn passing<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
        outcome => outcome.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn layer(root: &Path) -> io::Result<Footprint> {
        let mut files = Files::default();
        files.add_layer(root)?;
        Ok(files.sum())
    }

    #[test]
    fn files_of_a_layer_count_once_and_symlinks_lead_nowhere() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(layer(root.path()).expect("measured"), Footprint::default());
        fs::create_dir(root.path().join("below")).expect("made");
        fs::write(root.path().join("below/file"), vec![1; 1 << 20]).expect("written");
        fs::hard_link(root.path().join("below/file"), root.path().join("again")).expect("linked");
        symlink("/usr", root.path().join("elsewhere")).expect("linked");
        let found = layer(root.path()).expect("measured");
        assert_eq!(found.files, 3, "{found:?}");
        assert!((1 << 20..1 << 21).contains(&found.bytes), "{found:?}");
    }

    #[test]
    fn a_layer_is_measured_below_paths_that_are_too_long_and_not_without_end() {
        let root = tempfile::tempdir().expect("a directory");
        // As deep as one level more than is measured, from below upwards.
        let name = "d".repeat(250);
        let mut directory = File::open(root.path()).expect("opened");
        for depth in 0..=MAX_DEPTH {
            let found = layer(root.path()).map(|found| found.files);
            assert_eq!(found.expect("measured"), depth as u64);
            nix::sys::stat::mkdirat(&directory, name.as_str(), Mode::S_IRWXU).expect("made");
            let below = openat(&directory, name.as_str(), DIRECTORY, Mode::empty()).expect("opened");
            directory = File::from(below);
        }
        let error = layer(root.path()).expect_err("too deep").to_string();
        assert!(error.contains("256 levels"), "{error}");
    }

    #[test]
    fn deleted_files_count_while_a_descriptor_or_a_mapping_holds_them() {
        let here = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        let path = here.path().join("file");
        let held = || {
            let mut files = Files::default();
            files.add_deleted(&[std::process::id()]).expect("measured");
            files.sum().bytes
        };
        fs::write(&path, vec![1; 8 << 20]).expect("written");
        let (one, two) = (File::open(&path).expect("opened"), File::open(&path).expect("opened"));
        let before = held();
        fs::remove_file(&path).expect("removed");
        let with = held();
        assert!((8 << 20..9 << 20).contains(&(with - before)), "{before} {with}");
        drop((one, two));
        assert!(held() < with);
    }

    #[test]
    fn processes_that_the_daemon_may_not_see_are_passed_over_and_other_errors_are_not() {
        for (kind, is_passed) in [
            (io::ErrorKind::PermissionDenied, true),
            (io::ErrorKind::NotFound, true),
            (io::ErrorKind::OutOfMemory, false),
        ] {
            assert_eq!(seen::<()>(Err(kind.into())).is_ok_and(|found| found.is_none()), is_passed, "{kind}");
        }
    }

    #[test]
    fn mappings_of_deleted_files_are_named_as_the_kernel_names_them() {
        let text = "00400000-00452000 r-xp 00000000 08:02 173521  /usr/bin/dbus-daemon\n\
            00a00000-00a01000 rw-s 00000000 00:3e 5645104     /tmp/a (deleted)\n\
            7fcd415f9000-7fcd415fb000 rw-s 00000000 00:3e 5645104   /tmp/b c (deleted)\n\
            7ffd-7fff rw-p 00000000 00:00 0  [stack]\n";
        let found: Vec<String> = deleted_mappings(text).collect();
        assert_eq!(found, ["a00000-a01000", "7fcd415f9000-7fcd415fb000"]);
    }
}
