//! Handlers: directories with the code of functions whose image has none of its own.
//!
//! ```text
//! ingle deploy NAME --handler DIR    the archive of a directory -> handlers/<digest>/archive.tar and files/
//! its deployment                     names it: the annotation ingle.handler
//! its replicas                       see it at /home/app/function, read-only
//! ```
//!
//! The digest is that of the archive, and nothing is changed in a directory once it is there. So a revision that
//! is gone back to finds the code that it had, and functions with the same code share it. The archive is kept for
//! those who take the functions elsewhere: from the files another one would be made, with another digest.
//!
//! Invariants
//! - A directory under a digest holds all that the archive held, also after a crash.
//! - A handler that a stored revision or a replica names is not removed, nor one that was handed over or asked for
//!   within [`GRACE`]: its deployment may be on its way.

mod error;
mod unpack;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

pub use error::HandlerError;

use crate::private_file::{self, if_there};
use crate::runtime::Mount;
use model::function::HandlerDigest;
use model::sync::lock;
use model::wire::Share;

/// Where replicas see the handler.
pub const TARGET: &str = "/home/app/function";
/// What a handler's directory has: the archive, and what was in it.
const ARCHIVE: &str = "archive.tar";
const FILES: &str = "files";
/// How long a handler stays that no function names.
pub const GRACE: Duration = Duration::from_secs(3600);

/// The handlers of this machine. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Handlers(Arc<Directory>);

#[derive(Debug)]
struct Directory {
    root: PathBuf,
    /// Bytes that the files of one handler may have.
    limit: u64,
    /// Held while one becomes visible, is found to be there, or is removed.
    changing: Mutex<()>,
}

impl Handlers {
    /// Those under `state_dir`. What a crash left of others is removed.
    pub fn open(state_dir: &Path, limit: u64) -> Result<Self, HandlerError> {
        let directory = Directory { root: state_dir.join("handlers"), limit, changing: Mutex::new(()) };
        directory.recover().map_err(HandlerError::io(format!("opening {}", directory.root.display())))?;
        Ok(Self(Arc::new(directory)))
    }

    /// Bytes that the files of one handler may have.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Unpacks an archive, if it is the one that the digest is of. Says whether it was not here yet.
    pub async fn keep(&self, digest: HandlerDigest, archive: PathBuf) -> Result<bool, HandlerError> {
        self.blocking(move |directory| directory.keep(&digest, &archive)).await
    }

    /// What a replica mounts to see the handler, which is then kept for a while.
    pub fn mount(&self, digest: &HandlerDigest) -> Result<Mount, HandlerError> {
        self.0.touch(digest)?;
        Ok(Mount { source: self.0.path(digest).join(FILES), target: TARGET.into(), holds_programs: true })
    }

    /// The archive that it was handed over as; it is then kept for a while.
    pub fn archive(&self, digest: &HandlerDigest) -> Result<File, HandlerError> {
        self.0.touch(digest)?;
        let path = self.0.path(digest).join(ARCHIVE);
        File::open(&path).map_err(HandlerError::io(format!("opening {}", path.display())))
    }

    /// Removes those that are not in `used` and were not asked for within [`GRACE`]; how many.
    pub async fn collect(&self, used: BTreeSet<String>) -> Result<usize, HandlerError> {
        self.blocking(move |directory| directory.collect(&used, GRACE)).await
    }

    /// How many there are, and how much of the disk they take.
    pub async fn stored(&self, used: BTreeSet<String>) -> Result<Share, HandlerError> {
        self.blocking(move |directory| directory.stored(&used)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, HandlerError> + Send + 'static,
    ) -> Result<T, HandlerError> {
        let directory = self.0.clone();
        tokio::task::spawn_blocking(move || work(&directory))
            .await
            .unwrap_or_else(|error| Err(HandlerError::io("working on handlers")(io::Error::other(error))))
    }
}

impl Directory {
    fn path(&self, digest: &HandlerDigest) -> PathBuf {
        self.root.join(digest.hex())
    }

    fn recover(&self) -> io::Result<()> {
        private_file::make_directory(&self.root)?;
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            if is_unfinished(&entry.file_name()) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Notes that the handler is wanted now.
    fn touch(&self, digest: &HandlerDigest) -> Result<(), HandlerError> {
        let _one = lock(&self.changing);
        let path = self.path(digest);
        match File::open(&path).and_then(|directory| directory.set_modified(SystemTime::now())) {
            // Without a note it is younger than it could be, which only matters on a disk that takes no changes:
            // nothing is removed from one either.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(HandlerError::NotFound(digest.clone()))
            }
            touched => touched.map_err(HandlerError::io(format!("looking at {}", path.display()))),
        }
    }

    fn keep(&self, digest: &HandlerDigest, archive: &Path) -> Result<bool, HandlerError> {
        let unfinished = self.root.join(format!(".{}.{}", digest.hex(), uuid::Uuid::new_v4()));
        let kept = self.unpack(digest, archive, &unfinished);
        if !matches!(kept, Ok(true)) {
            // The next start would remove it too.
            let _ = std::fs::remove_dir_all(&unfinished);
        }
        kept
    }

    fn unpack(
        &self,
        digest: &HandlerDigest,
        archive: &Path,
        unfinished: &Path,
    ) -> Result<bool, HandlerError> {
        let failed = |operation: &str| HandlerError::io(format!("{operation} {}", unfinished.display()));
        let file = File::open(archive).map_err(failed("reading the archive for"))?;
        let mut hashed = Hashed { from: file, hash: Sha256::new() };
        let files = unfinished.join(FILES);
        private_file::make_directory(unfinished).map_err(failed("making"))?;
        private_file::make_directory(&files).map_err(failed("making"))?;
        // A directory has what it says, or is not used: the first mistake of the archive need not be the answer
        // where it is not the one that was meant.
        let unpacked = unpack::unpack(BufReader::new(&mut hashed), &files, self.limit);
        io::copy(&mut hashed, &mut io::sink()).map_err(failed("reading the archive for"))?;
        let found = HandlerDigest::of(&hashed.hash.finalize().into());
        if found != *digest {
            return Err(HandlerError::Digest { named: digest.clone(), found });
        }
        unpacked?;
        std::fs::hard_link(archive, unfinished.join(ARCHIVE)).map_err(failed("keeping the archive in"))?;
        sync(&files).map_err(failed("writing"))?;
        let _one = lock(&self.changing);
        let path = self.path(digest);
        if path.is_dir() {
            let touched = File::open(&path).and_then(|known| known.set_modified(SystemTime::now()));
            touched.map_err(failed("taking what is here instead of"))?;
            return Ok(false);
        }
        std::fs::rename(unfinished, &path).map_err(failed("naming"))?;
        private_file::sync_directory(&self.root).map_err(failed("naming"))?;
        Ok(true)
    }

    fn collect(&self, used: &BTreeSet<String>, grace: Duration) -> Result<usize, HandlerError> {
        let mut removed = 0;
        for (digest, path) in self.all()? {
            if used.contains(digest.as_str()) || !self.set_aside(&path, grace)? {
                continue;
            }
            let aside = aside(&path);
            std::fs::remove_dir_all(&aside)
                .map_err(HandlerError::io(format!("removing {}", aside.display())))?;
            tracing::info!(handler = digest.as_str(), "removed, as no function names it");
            removed += 1;
        }
        Ok(removed)
    }

    /// Takes a handler out of sight, unless it was asked for lately. From then on it is not here, whole or not.
    fn set_aside(&self, path: &Path, grace: Duration) -> Result<bool, HandlerError> {
        let _one = lock(&self.changing);
        let failed = || HandlerError::io(format!("looking at {}", path.display()));
        let modified = path.metadata().and_then(|data| data.modified()).map_err(failed())?;
        // A clock that went back makes it young again.
        if modified.elapsed().unwrap_or_default() < grace {
            return Ok(false);
        }
        std::fs::rename(path, aside(path)).map_err(failed())?;
        Ok(true)
    }

    fn all(&self) -> Result<Vec<(HandlerDigest, PathBuf)>, HandlerError> {
        let listed =
            std::fs::read_dir(&self.root).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let listed = listed.map_err(HandlerError::io(format!("listing {}", self.root.display())))?;
        let named = listed.into_iter().filter_map(|entry| {
            let digest = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
            Some((digest, entry.path()))
        });
        Ok(named.collect())
    }

    fn stored(&self, used: &BTreeSet<String>) -> Result<Share, HandlerError> {
        let mut share = Share::default();
        for (digest, path) in self.all()? {
            let measured = if_there(size(&path));
            // It may have been removed just now.
            if let Some(size) = measured.map_err(HandlerError::io(format!("measuring {}", path.display())))? {
                share.add(size, used.contains(digest.as_str()));
            }
        }
        Ok(share)
    }
}

/// The name of a handler that is being removed.
fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.removed"))
}

/// Whether a crash has left it: it was being unpacked, or removed.
fn is_unfinished(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with('.')
}

/// Bytes on the disk.
fn size(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let data = path.symlink_metadata()?;
    let mut sum = data.blocks() * 512;
    if data.is_dir() {
        for entry in std::fs::read_dir(path)? {
            sum += size(&entry?.path())?;
        }
    }
    Ok(sum)
}

/// Returns when the disk has all of a directory, and opens it to those who are shown it.
fn sync(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // The directory above it is closed on this machine; inside a container there is none.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    nix::unistd::syncfs(File::open(directory)?).map_err(io::Error::from)
}

/// Reads, and computes the hash of what was read.
struct Hashed<R> {
    from: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(content: &str) -> (tempfile::NamedTempFile, HandlerDigest) {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, "handler.py", content.as_bytes()).expect("appended");
        let bytes = builder.into_inner().expect("an archive");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &bytes).expect("written");
        (file, HandlerDigest::of(&Sha256::digest(&bytes).into()))
    }

    fn names(state: &tempfile::TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(state.path().join("handlers")).expect("there");
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
    }

    #[tokio::test]
    async fn a_handler_is_there_once_it_was_handed_over() {
        let state = tempfile::tempdir().expect("a directory");
        let handlers = Handlers::open(state.path(), 1000).expect("opened");
        let (file, digest) = archive("print(1)");
        assert!(matches!(handlers.mount(&digest), Err(HandlerError::NotFound(_))));
        assert!(matches!(handlers.archive(&digest), Err(HandlerError::NotFound(_))));
        assert!(handlers.keep(digest.clone(), file.path().into()).await.expect("kept"), "new");
        assert!(!handlers.keep(digest.clone(), file.path().into()).await.expect("kept"), "known");
        let mount = handlers.mount(&digest).expect("there");
        assert_eq!(mount.target, Path::new("/home/app/function"));
        assert_eq!(std::fs::read_to_string(mount.source.join("handler.py")).expect("there"), "print(1)");
        let mut archive = Vec::new();
        handlers.archive(&digest).expect("there").read_to_end(&mut archive).expect("readable");
        assert_eq!(archive, std::fs::read(file.path()).expect("readable"), "as it was handed over");
        assert_eq!(names(&state), [digest.hex()], "nothing else is left");
    }

    #[tokio::test]
    async fn what_is_refused_leaves_nothing() {
        let state = tempfile::tempdir().expect("a directory");
        let handlers = Handlers::open(state.path(), 10).expect("opened");
        let (file, digest) = archive("longer than ten bytes");
        let other = HandlerDigest::of(&[0; 32]);
        let refused = handlers.keep(other, file.path().into()).await;
        assert!(matches!(refused, Err(HandlerError::Digest { .. })), "{refused:?}");
        let refused = handlers.keep(digest, file.path().into()).await;
        assert!(matches!(refused, Err(HandlerError::TooLarge { limit: 10 })), "{refused:?}");
        assert_eq!(names(&state), [""; 0]);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_gone_after_the_next_start() {
        let state = tempfile::tempdir().expect("a directory");
        let (file, digest) = archive("x");
        let handlers = Handlers::open(state.path(), 1000).expect("opened");
        handlers.keep(digest.clone(), file.path().into()).await.expect("kept");
        for name in [".aa.some-id", ".bb.removed"] {
            let left = state.path().join("handlers").join(name).join("deep");
            std::fs::create_dir_all(&left).expect("made");
            std::fs::write(left.join("file"), "x").expect("written");
        }
        let handlers = Handlers::open(state.path(), 1000).expect("opened again");
        assert_eq!(names(&state), [digest.hex()]);
        handlers.mount(&digest).expect("there");
    }

    #[tokio::test]
    async fn only_what_nobody_names_or_has_asked_for_lately_goes() {
        let state = tempfile::tempdir().expect("a directory");
        let handlers = Handlers::open(state.path(), 1000).expect("opened");
        let mut digests = Vec::new();
        for content in ["used", "old", "young"] {
            let (file, digest) = archive(content);
            handlers.keep(digest.clone(), file.path().into()).await.expect("kept");
            if content != "young" {
                let directory = File::open(handlers.0.path(&digest)).expect("there");
                directory.set_modified(SystemTime::now() - GRACE * 2).expect("set");
            }
            digests.push(digest);
        }
        let used: BTreeSet<_> = [digests[0].to_string()].into();
        let share = handlers.stored(used.clone()).await.expect("measured");
        assert_eq!(share.count, 3);
        assert!(share.unused > 0 && share.unused < share.size, "{share:?}");
        assert_eq!(handlers.collect(used).await.expect("collected"), 1);
        let there = |digest: &HandlerDigest| handlers.0.path(digest).is_dir();
        assert_eq!(digests.iter().map(there).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(names(&state).len(), 2, "nothing of it is left");
    }
}
