//! A directory as an archive that is the same whenever its files are.

use std::fs::{self, DirEntry, FileType};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tar::{Builder, EntryType, Header};

use super::MAX_ARCHIVE;
use crate::cli::error::CliError;

/// What belongs to a version control system, not to the function.
const LEFT_OUT: [&str; 3] = [".git", ".hg", ".svn"];

/// The archive of a directory. Owners, times, and of modes all but whether a file is a program, are left out, so that
/// the same code is the same archive on every machine.
pub(super) fn pack(directory: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = || directory.display().to_string();
    let data = fs::metadata(directory).map_err(|error| CliError::Usage(format!("{}: {error}", shown())))?;
    if !data.is_dir() {
        let text = format!("{} is not a directory: --handler takes the one that has the code", shown());
        return Err(CliError::Usage(text).into());
    }
    let mut builder = Builder::new(Vec::new());
    append(&mut builder, directory, Path::new(""))?;
    let archive = builder.into_inner().with_context(shown)?;
    if archive.is_empty() || archive.iter().all(|byte| *byte == 0) {
        return Err(CliError::Usage(format!("{} is empty", shown())).into());
    }
    Ok(archive)
}

/// Adds what is in a directory, in the order of names; `below` is its path in the archive.
fn append(builder: &mut Builder<Vec<u8>>, directory: &Path, below: &Path) -> anyhow::Result<()> {
    let listed = || -> io::Result<Vec<DirEntry>> {
        let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(DirEntry::file_name);
        Ok(entries)
    };
    for entry in listed().with_context(|| directory.display().to_string())? {
        let name = entry.file_name();
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let path = entry.path();
        append_one(builder, &path, entry.file_type()?, below.join(name))
            .with_context(|| path.display().to_string())?;
        if builder.get_ref().len() > MAX_ARCHIVE {
            return Err(CliError::Usage(format!("the handler is larger than {MAX_ARCHIVE} bytes")).into());
        }
    }
    Ok(())
}

fn append_one(
    builder: &mut Builder<Vec<u8>>,
    path: &Path,
    kind: FileType,
    below: PathBuf,
) -> anyhow::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        builder.append_data(&mut header, &below, io::empty())?;
        return append(builder, path, &below);
    }
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        builder.append_link(&mut header, &below, fs::read_link(path)?)?;
        return Ok(());
    }
    if !kind.is_file() {
        return Err(CliError::usage("is neither a file, a directory nor a symbolic link").into());
    }
    // Read whole first: its length is written before it, and it may be growing.
    let content = fs::read(path)?;
    let is_program = fs::metadata(path)?.permissions().mode() & 0o111 != 0;
    header.set_mode(if is_program { 0o755 } else { 0o644 });
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, &below, content.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, content) in [("b.py", "b"), ("a.sh", "a"), ("lib/c.py", "c"), (".git/HEAD", "ref")] {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        fs::set_permissions(directory.path().join("a.sh"), Permissions::from_mode(0o700)).expect("set");
        symlink("lib/c.py", directory.path().join("link")).expect("linked");
        directory
    }

    #[test]
    fn the_same_code_is_the_same_archive() {
        let (one, other) = (directory(), directory());
        let read = |directory: &tempfile::TempDir| pack(directory.path()).expect("packed");
        assert!(read(&one) == read(&other));
        fs::set_permissions(other.path().join("b.py"), Permissions::from_mode(0o600)).expect("set");
        assert!(read(&one) == read(&other), "who may read it is not packed");
        fs::write(other.path().join("b.py"), "B").expect("written");
        assert!(read(&one) != read(&other));
        let archive = read(&one);
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .expect("readable")
            .map(|entry| {
                let entry = entry.expect("readable");
                let path = entry.path().expect("a path").display().to_string();
                (path, entry.header().mode().expect("a mode"))
            })
            .collect();
        let wanted = [("a.sh", 0o755), ("b.py", 0o644), ("lib", 0o755), ("lib/c.py", 0o644), ("link", 0o777)];
        assert_eq!(entries, wanted.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn what_is_no_directory_of_files_is_refused() {
        let empty = tempfile::tempdir().expect("a directory");
        let error = pack(empty.path()).expect_err("nothing is in it").to_string();
        assert!(error.ends_with("is empty"), "{error}");
        let error = pack(&empty.path().join("none")).expect_err("it is not there").to_string();
        assert!(error.contains("No such file"), "{error}");
        let file = empty.path().join("file");
        fs::write(&file, "x").expect("written");
        let error = pack(&file).expect_err("it is a file").to_string();
        assert!(error.contains("is not a directory"), "{error}");
        nix::unistd::mkfifo(&empty.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).expect("made");
        let error = format!("{:#}", pack(empty.path()).expect_err("it has a pipe"));
        assert!(error.contains("pipe") && error.contains("neither"), "{error}");
    }
}
