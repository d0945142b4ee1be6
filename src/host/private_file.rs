//! Private files and directories: readable by root alone, written whole or not at all. And what all who work with
//! files ask the standard library for in the same way.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes a directory that only root can look into, and its parents, which are there after a power cut, too. One that
/// is there is closed.
pub fn make_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|directory| !directory.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync_directory)
}

/// Writes `name` in `directory` so that after a crash it holds what it held before, or all of
/// `content`. A file of that name is replaced.
pub fn write(directory: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = unfinished(directory, name);
    let written = write_synced(&unfinished, content, mode)
        .and_then(|()| std::fs::rename(&unfinished, directory.join(name)))
        .and_then(|()| sync_directory(directory));
    if written.is_err() {
        // The error to report is the one above; the next start removes what is left here.
        let _ = std::fs::remove_file(&unfinished);
    }
    written
}

/// Makes renames and removals in `directory` durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    // That of a relative path with one part.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}

/// Whether a file is what a crash during [`write()`] leaves.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

fn unfinished(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{}.tmp", name.trim_start_matches('.')))
}

fn write_synced(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    // Not by `open`: the umask would take bits away.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Writes `name` in `directory` unless it is there: whoever comes first has written it, whole.
/// Says whether this call did.
pub fn create(directory: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<bool> {
    // Another process may be doing the same now.
    let unfinished = unfinished(directory, &format!("{name}.{}", std::process::id()));
    write_synced(&unfinished, content, mode)?;
    let linked = std::fs::hard_link(&unfinished, directory.join(name));
    std::fs::remove_file(&unfinished)?;
    match linked {
        Ok(()) => sync_directory(directory).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what a crash left in `directory`.
pub fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if is_unfinished(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The outcome of a file operation; `None` if there is no such file.
pub(crate) fn if_there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// The names in `directory` that are text; none if there is no such directory.
pub(crate) fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = if_there(std::fs::read_dir(directory))?.into_iter().flatten();
    entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
}

/// Copies a file, or a directory with all that is in it. What is not there is an empty directory.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_file() {
        return std::fs::copy(from, to).map(drop);
    }
    make_directory(to)?;
    for entry in if_there(std::fs::read_dir(from))?.into_iter().flatten() {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(from)?, to)?;
        } else if kind.is_dir() {
            copy(&from, &to)?;
            std::fs::set_permissions(&to, entry.metadata()?.permissions())?;
        } else {
            // One that was removed meanwhile is used by nobody.
            if_there(std::fs::copy(from, to))?;
        }
    }
    Ok(())
}

/// Makes a directory durable with all that is in it.
pub(crate) fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

/// Runs blocking work on a thread meant for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
