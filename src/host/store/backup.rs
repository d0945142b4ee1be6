//! Backups of the state directory: taken while the daemon runs, and put in its place at a start.
//!
//! ```text
//! backup    the writer waits: files are linked and sled's log is copied; the copy is packed without anybody waiting
//! restore   unpacked into restore.partial, opened as a store, renamed to restore.new; the next start puts each part of
//!           it in the place of that of the state directory, which is then in replaced/
//! ```
//!
//! A cut at any point leaves the old state or goes on with the new one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use super::functions::Functions;
use super::{Store, StoreError};
use crate::private_file::{self, if_there};

/// Parts whose files are never written in place: a link is a copy.
const LINKED: [&str; 4] = ["functions", "namespaces", "large", "queue"];
/// Other parts of a backup. Output of functions is none.
const COPIED: [&str; 5] = ["db", "identity", "secrets", "function-secrets", "handlers"];
/// Notes of the first boot, if there are any.
const NOTES: [&str; 2] = ["first-boot.done", "first-boot.progress"];
/// The last member of an archive: one that was cut off has none.
const END: &str = "ingle-backup";
/// Content of [`END`].
const FORMAT: &str = "1\n";
/// A restore that is being unpacked, one that is to be put in place, and what it has replaced.
const PARTIAL: &str = "restore.partial";
const NEW: &str = "restore.new";
const REPLACED: &str = "replaced";

/// Takes a copy of the parts that change together. Runs on the writing thread, which has flushed.
pub(super) fn freeze(state_dir: &Path, functions: &Functions, to: &Path) -> io::Result<()> {
    private_file::make_directory(to)?;
    functions.frozen(|| LINKED.iter().try_for_each(|part| link(&state_dir.join(part), &to.join(part))))?;
    let (from, to) = (state_dir.join("db"), to.join("db"));
    private_file::make_directory(&to)?;
    for name in ["conf", "db"] {
        fs::copy(from.join(name), to.join(name))?;
    }
    if from.join("blobs").is_dir() {
        private_file::copy(&from.join("blobs"), &to.join("blobs"))?;
    }
    Ok(())
}

/// Packs a copy of the state directory.
pub(super) fn pack(directory: &Path, archive: &Path) -> io::Result<()> {
    let mut builder = tar::Builder::new(io::BufWriter::new(File::create_new(archive)?));
    builder.follow_symlinks(false);
    builder.append_dir_all("", directory)?;
    let mut head = tar::Header::new_gnu();
    head.set_size(FORMAT.len() as u64);
    head.set_mode(0o600);
    builder.append_data(&mut head, END, FORMAT.as_bytes())?;
    builder.into_inner()?.flush()
}

impl Store {
    /// Writes a backup of the state directory as it is at one moment to `archive`. `secrets` copies the functions'
    /// secrets to where it is told.
    pub async fn back_up(
        &self,
        archive: PathBuf,
        secrets: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let copy_at = archive.with_extension("copy");
        let state_dir = self.state_dir.clone();
        let frozen = self.sled.writer.freeze(state_dir.clone(), copy_at.clone()).await;
        tokio::task::spawn_blocking(move || {
            let packed = frozen.and_then(|()| {
                for part in ["identity", "secrets", "handlers"] {
                    private_file::copy(&state_dir.join(part), &copy_at.join(part))
                        .map_err(|error| failed(&copy_at, error))?;
                }
                for note in NOTES {
                    if_there(fs::copy(state_dir.join(note), copy_at.join(note)))
                        .map_err(|error| failed(&copy_at, error))?;
                }
                secrets(&copy_at.join("function-secrets")).map_err(|error| failed(&copy_at, error))?;
                pack(&copy_at, &archive).map_err(|error| failed(&archive, error))
            });
            // The error to tell is that of the backup; the next start removes what is left.
            let _ = fs::remove_dir_all(&copy_at);
            packed
        })
        .await
        .unwrap_or(Err(StoreError::Closed))
    }

    /// Takes in a backup, which the next start puts in the place of the state directory. Functions that are there now
    /// and not in it are removed then. Returns the number of functions in it. Blocks.
    pub fn restore(&self, archive: &Path) -> Result<u64, StoreError> {
        let partial = self.state_dir.join(PARTIAL);
        self.take_in(archive, &partial).inspect_err(|_| {
            // The error to tell is the one above; the next start removes what is left.
            let _ = fs::remove_dir_all(&partial);
        })
    }

    fn take_in(&self, archive: &Path, partial: &Path) -> Result<u64, StoreError> {
        let new = self.state_dir.join(NEW);
        let refuse = |reason: String| StoreError::Unusable { path: PathBuf::from("the backup"), reason };
        if new.exists() {
            return Err(refuse("another one waits to be put in place: restart the daemon".into()));
        }
        if_there(fs::remove_dir_all(partial)).map_err(|error| failed(partial, error))?;
        private_file::make_directory(partial).map_err(|error| failed(partial, error))?;
        unpack(archive, partial).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => failed(partial, error),
            _ => refuse(model::error::chain(&error)),
        })?;
        let other = Store::open(partial)?;
        if let Some(error) = other.absence() {
            return Err(refuse(model::error::chain(&error)));
        }
        if let Some(aside) = other.set_aside().first() {
            return Err(refuse(format!("{}: {}", aside.subject, aside.reason)));
        }
        for record in self.functions()? {
            if other.incarnation(&record.key).as_ref() != Some(&record.incarnation) {
                other.functions.bury(&record.key, &record.incarnation)?;
            }
        }
        let count = other.functions_count();
        drop(other);
        fs::rename(partial, &new)
            .and_then(|()| private_file::sync_directory(&self.state_dir))
            .map_err(|error| failed(&new, error))?;
        Ok(count)
    }
}

/// Puts a backup in place that was taken in. Runs before the state directory is used.
pub fn finish_restore(state_dir: &Path) -> Result<(), StoreError> {
    let (new, partial) = (state_dir.join(NEW), state_dir.join(PARTIAL));
    if_there(fs::remove_dir_all(&partial)).map_err(|error| failed(&partial, error))?;
    if !new.exists() {
        return Ok(());
    }
    let replaced = state_dir.join(REPLACED);
    let put = || -> io::Result<()> {
        let begun = new.join("begun");
        if !begun.exists() {
            if_there(fs::remove_dir_all(&replaced))?;
            private_file::make_directory(&replaced)?;
            private_file::write(&new, "begun", b"", 0o600)?;
        }
        for part in LINKED.into_iter().chain(COPIED).chain(NOTES) {
            let (from, to) = (new.join(part), state_dir.join(part));
            if from.exists() {
                if to.exists() {
                    fs::rename(&to, replaced.join(part))?;
                }
                fs::rename(from, to)?;
            }
        }
        for directory in [&new, &replaced, &state_dir.to_owned()] {
            private_file::sync_directory(directory)?;
        }
        fs::remove_dir_all(&new)?;
        private_file::sync_directory(state_dir)
    };
    put().map_err(|error| failed(&new, error))?;
    tracing::warn!(replaced = %replaced.display(), "a backup was put in the place of the state directory");
    Ok(())
}

fn unpack(archive: &Path, to: &Path) -> io::Result<()> {
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut archive = tar::Archive::new(io::BufReader::new(File::open(archive)?));
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(false);
    let mut whole = false;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let part = path.components().find_map(|component| match component {
            Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        });
        match part.as_deref() {
            None => continue,
            Some(END) => {
                let mut format = String::new();
                io::Read::read_to_string(&mut io::Read::take(&mut entry, 64), &mut format)?;
                if format != FORMAT {
                    return Err(wrong(format!("it has format {format:?}, and {FORMAT:?} is known")));
                }
                whole = true;
            }
            Some(part) if LINKED.into_iter().chain(COPIED).chain(NOTES).any(|known| known == part) => {
                let kind = entry.header().entry_type();
                let is_code = part == "handlers";
                if !(kind.is_file() || kind.is_dir() || kind.is_symlink() && is_code) {
                    return Err(wrong(format!("{} is neither a file nor a directory", path.display())));
                }
                if !entry.unpack_in(to)? {
                    return Err(wrong(format!("{} leads out of it", path.display())));
                }
            }
            Some(_) => return Err(wrong(format!("{} is no part of a backup", path.display()))),
        }
    }
    if !whole {
        return Err(wrong("it is no backup of ingle, or was cut off".into()));
    }
    if !to.join("identity").is_file() || !to.join("db").is_dir() {
        return Err(wrong("it has no state directory in it".into()));
    }
    private_file::sync_tree(to)
}

/// Links the files of a directory, and of those in it. What is not there is an empty directory.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    private_file::make_directory(to)?;
    for entry in if_there(fs::read_dir(from))?.into_iter().flatten() {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link(&entry.path(), &to)?;
        } else {
            // A file of a call that has just ended.
            if_there(fs::hard_link(entry.path(), to))?;
        }
    }
    Ok(())
}

fn failed(path: &Path, error: io::Error) -> StoreError {
    super::functions::failed("writing", path, error)
}
