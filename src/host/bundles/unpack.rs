//! Takes an archive that somebody sent apart, without trusting it.

use std::collections::BTreeSet;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use super::HandlerError;

/// Files, directories and links that a handler may have.
const MAX_ENTRIES: usize = 20_000;
/// The longest path in bytes: longer ones cannot be opened inside a container.
const MAX_PATH: usize = 1024;
/// The longest target of a link in bytes, as the kernel has it.
const MAX_TARGET: usize = 4095;

/// Unpacks an archive into a directory that is empty: files and directories that everyone may read, and programs
/// that everyone may run. Of what the archive says of owners, times and modes, no more than that is kept.
pub(super) fn unpack(archive: impl Read, root: &Path, limit: u64) -> Result<(), HandlerError> {
    let mut unpacking =
        Unpacking { root, limit, left: limit, count: 0, directories: BTreeSet::new(), links: Vec::new() };
    let mut archive = Archive::new(archive);
    let entries = archive.entries().map_err(unreadable)?;
    for entry in entries {
        unpacking.take(entry.map_err(unreadable)?)?;
    }
    unpacking.finish()
}

struct Unpacking<'a> {
    root: &'a Path,
    limit: u64,
    /// Bytes that files may still have.
    left: u64,
    /// Files, directories and links so far, also directories that only paths name.
    count: usize,
    /// What was made, so that nothing is written through a link.
    directories: BTreeSet<PathBuf>,
    /// Links and what they point to, which may be anything: only containers follow them, inside.
    links: Vec<(PathBuf, PathBuf)>,
}

impl Unpacking<'_> {
    fn take(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), HandlerError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = inside(&entry.path().map_err(unreadable)?)?;
        match kind {
            EntryType::Directory => self.directory(&path),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mode = entry.header().mode().map_err(unreadable)?;
                self.file(&path, mode & 0o111 != 0, &mut entry)
            }
            EntryType::Symlink => {
                let target = entry.link_name().map_err(unreadable)?;
                let target = target.ok_or_else(|| refuse(&path, "is a link to nothing"))?.into_owned();
                if target.as_os_str().is_empty() || target.as_os_str().len() > MAX_TARGET {
                    return Err(refuse(&path, "is a link to nothing, or has too long a target"));
                }
                self.parent(&path)?;
                self.one_more()?;
                self.links.push((path, target));
                Ok(())
            }
            EntryType::Link => Err(refuse(&path, "is a hard link: pack it as a file, or as a symbolic link")),
            _ => Err(refuse(&path, "is neither a file, a directory nor a symbolic link")),
        }
    }

    fn file(&mut self, path: &Path, is_program: bool, content: &mut impl Read) -> Result<(), HandlerError> {
        if path.as_os_str().is_empty() {
            return Err(refuse(path, "has no name"));
        }
        self.parent(path)?;
        self.one_more()?;
        let full = self.root.join(path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&full)
            .map_err(|error| failed(path, error))?;
        // Not by `open`: the umask would take bits away.
        let mode = if is_program { 0o755 } else { 0o644 };
        file.set_permissions(Permissions::from_mode(mode)).map_err(|error| failed(path, error))?;
        let too_large = HandlerError::TooLarge { limit: self.limit };
        // Of a sparse file, the archive holds less than the disk may be made to.
        let mut content = content.take(self.left + 1);
        let copied = io::copy(&mut content, &mut file).map_err(|error| failed(path, error))?;
        self.left = self.left.checked_sub(copied).ok_or(too_large)?;
        Ok(())
    }

    fn one_more(&mut self) -> Result<(), HandlerError> {
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(HandlerError::Malformed(format!(
                "it has more than {MAX_ENTRIES} files and directories"
            )));
        }
        Ok(())
    }

    fn parent(&mut self, path: &Path) -> Result<(), HandlerError> {
        path.parent().map_or(Ok(()), |parent| self.directory(parent))
    }

    /// Makes a directory, and those above it, unless they were made here.
    fn directory(&mut self, path: &Path) -> Result<(), HandlerError> {
        if path.as_os_str().is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.parent(path)?;
        self.one_more()?;
        let full = self.root.join(path);
        std::fs::create_dir(&full)
            .and_then(|()| std::fs::set_permissions(&full, Permissions::from_mode(0o755)))
            .map_err(|error| failed(path, error))?;
        self.directories.insert(path.to_owned());
        Ok(())
    }

    /// Links last: whatever was written before cannot have gone through one.
    fn finish(self) -> Result<(), HandlerError> {
        for (path, target) in &self.links {
            symlink(target, self.root.join(path)).map_err(|error| failed(path, error))?;
        }
        Ok(())
    }
}

fn failed(path: &Path, error: io::Error) -> HandlerError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => refuse(path, "is there twice"),
        io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => {
            refuse(path, "cannot be a file's name")
        }
        io::ErrorKind::NotADirectory => refuse(path, "is below a file"),
        // What reading an archive that was cut off, or is none, ends with.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::Other | io::ErrorKind::InvalidData => unreadable(error),
        _ => HandlerError::Io { operation: format!("unpacking {}", path.display()), source: error },
    }
}

fn unreadable(error: io::Error) -> HandlerError {
    HandlerError::Malformed(format!("it cannot be read to its end: {error}"))
}

fn refuse(path: &Path, reason: &str) -> HandlerError {
    HandlerError::Malformed(format!("{} {reason}", path.display()))
}

/// A path of the archive, if it cannot lead out of the directory.
fn inside(path: &Path) -> Result<PathBuf, HandlerError> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(refuse(path, "leads out of the handler")),
        }
    }
    if clean.as_os_str().len() > MAX_PATH {
        return Err(refuse(path, "is too long a path"));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tar::{Builder, Header};

    use super::*;

    const LIMIT: u64 = 1000;

    /// Kind, path as it is, content or target.
    type Item<'i> = (EntryType, &'i str, &'i str);

    fn archive(entries: &[Item<'_>]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, path, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            // Not by `set_path`, which knows what is right.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_mode(0o7755);
            header.set_uid(1234);
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if is_link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            let content = if is_link { "" } else { content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).expect("appended");
        }
        builder.into_inner().expect("an archive")
    }

    /// Unpacks it into a directory that has a neighbour, which must stay as it is.
    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<(), HandlerError>) {
        let outer = tempfile::tempdir().expect("a directory");
        fs::write(outer.path().join("neighbour"), "kept").expect("written");
        let root = outer.path().join("root");
        fs::create_dir(&root).expect("made");
        let done = unpack(bytes, &root, LIMIT);
        assert_eq!(fs::read_to_string(outer.path().join("neighbour")).expect("there"), "kept");
        let all: Vec<_> = fs::read_dir(outer.path()).expect("there").collect();
        assert_eq!(all.len(), 2, "{all:?}");
        (outer, done)
    }

    #[test]
    fn files_directories_and_links_arrive_as_everyone_may_read_them() {
        use EntryType::{Directory, Regular, Symlink};
        let (outer, done) = unpacked(&archive(&[
            (Directory, "./", ""),
            (Regular, "./handler.py", "print(1)"),
            (Regular, "lib/deep/a.py", "a"),
            (Directory, "lib/", ""),
            (Symlink, "lib/link", "../handler.py"),
            (Symlink, "away", "/etc/passwd"),
        ]));
        done.expect("unpacked");
        let root = outer.path().join("root");
        assert_eq!(fs::read_to_string(root.join("lib/link")).expect("there"), "print(1)");
        assert_eq!(fs::read_to_string(root.join("lib/deep/a.py")).expect("there"), "a");
        let mode = |path| fs::metadata(root.join(path)).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode("handler.py"), mode("lib"), mode("lib/deep")), (0o755, 0o755, 0o755), "no set-uid");
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_refused() {
        use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
        let cases: &[(&[Item<'_>], &str)] = &[
            (&[(Regular, "../neighbour", "x")], "leads out"),
            (&[(Regular, "a/../../neighbour", "x")], "leads out"),
            (&[(Regular, "/neighbour", "x")], "leads out"),
            (&[(Symlink, "../link", "x")], "leads out"),
            (&[(Symlink, "up", ".."), (Regular, "up/neighbour", "x")], "is there twice"),
            (&[(Symlink, "up", ".."), (Symlink, "up/neighbour", "x")], "is there twice"),
            (&[(Directory, "d", ""), (Symlink, "d", ".."), (Regular, "d/neighbour", "x")], "is there twice"),
            (&[(Regular, "a", "x"), (Regular, "a", "y")], "is there twice"),
            (&[(Regular, "a", "x"), (Directory, "a", "")], "is there twice"),
            (&[(Regular, "a", "x"), (Regular, "a/b", "y")], "is there twice"),
            (&[(Link, "hard", "../neighbour")], "hard link"),
            (&[(Fifo, "f", "")], "neither"),
            (&[(Char, "c", "")], "neither"),
            (&[(Block, "b", "")], "neither"),
            (&[(Regular, "", "x")], "has no name"),
            (&[(Symlink, "l", "")], "link to nothing"),
        ];
        for (entries, reason) in cases {
            let (_outer, done) = unpacked(&archive(entries));
            let error = done.expect_err(reason).to_string();
            assert!(error.contains(reason), "{entries:?}: {error}");
        }
    }

    #[test]
    fn no_more_is_written_than_may_be() {
        let half = "x".repeat(600);
        let (_outer, done) = unpacked(&archive(&[(EntryType::Regular, "a", &half)]));
        done.expect("it fits");
        let two = archive(&[(EntryType::Regular, "a", &half), (EntryType::Regular, "b", &half)]);
        let (outer, done) = unpacked(&two);
        assert!(matches!(done, Err(HandlerError::TooLarge { limit: LIMIT })), "{done:?}");
        let written: u64 = fs::read_dir(outer.path().join("root"))
            .expect("there")
            .map(|entry| entry.expect("readable").metadata().expect("there").len())
            .sum();
        assert!(written <= LIMIT + 1, "{written}");
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|number| format!("{number}")).collect();
        let many: Vec<_> = many.iter().map(|name| (EntryType::Regular, name.as_str(), "")).collect();
        let (_outer, done) = unpacked(&archive(&many));
        assert!(done.expect_err("too many").to_string().contains("more than"));
    }

    #[test]
    fn directories_that_only_paths_name_count_too() {
        let paths: Vec<String> = (0..1000).map(|number| format!("{number}{}x", "/a".repeat(40))).collect();
        let many: Vec<_> = paths.iter().map(|path| (EntryType::Regular, path.as_str(), "")).collect();
        let (_outer, done) = unpacked(&archive(&many));
        assert!(done.expect_err("too many").to_string().contains("more than"));
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_none() {
        let whole = archive(&[(EntryType::Regular, "a", &"x".repeat(600))]);
        for bytes in [b"no archive at all".as_slice(), &[7; 2000], &whole[..700]] {
            let (_outer, done) = unpacked(bytes);
            assert!(matches!(done, Err(HandlerError::Malformed(_))), "{done:?}");
        }
    }
}
