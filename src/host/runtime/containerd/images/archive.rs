//! A tar file with an image in it, read in place: its members are found once and then read where
//! they lie. Nothing is ever unpacked to the file system, so it does not matter what their paths say.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::private_file::blocking;

/// Members that an archive may have; one of the largest images has a few hundred.
const MAX_MEMBERS: usize = 100_000;
/// Bytes that are read to find them. A long name is a member of its own, with the name as its content,
/// which the tar reader holds in memory however long it is.
const MAX_HEADERS: u64 = 64 << 20;
/// Links that lead from one name to a file.
const MAX_LINKS: usize = 16;
/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File(Place),
    Link(String),
}

/// Where the bytes of a file lie in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    offset: u64,
    pub(super) size: u64,
}

/// Why an archive could not be read.
#[derive(Debug)]
pub(super) enum ArchiveError {
    /// It is not what it should be.
    Malformed(String),
    Io(std::io::Error),
}

impl From<std::io::Error> for ArchiveError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Malformed("it is cut off".into()),
            _ => Self::Io(error),
        }
    }
}

impl Archive {
    /// Opens an archive and finds what is in it.
    pub(super) async fn open(path: PathBuf) -> Result<Self, ArchiveError> {
        blocking(move || Ok(Self::scan(&path))).await?
    }

    fn scan(path: &Path) -> Result<Self, ArchiveError> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ArchiveError::Malformed("it is not a file".into()));
        }
        let mut magic = [0; 6];
        let length = file.read(&mut magic)?;
        if let Some((kind, command)) = compression(&magic[..length]) {
            return Err(ArchiveError::Malformed(format!(
                "it is compressed with {kind}: unpack it on the way, as in '{command} --stdout FILE | ingle image load -'"
            )));
        }
        file.seek(SeekFrom::Start(0))?;
        let mut members = HashMap::new();
        let malformed = |error: std::io::Error| match (error.raw_os_error(), error.kind()) {
            (Some(_), _) => ArchiveError::Io(error),
            (None, ErrorKind::FileTooLarge) => {
                let reason = format!("its headers and names have more than {MAX_HEADERS} bytes");
                ArchiveError::Malformed(reason)
            }
            // Its own text quotes what is in the file.
            (None, _) => ArchiveError::Malformed("it is not a tar file, or is damaged".into()),
        };
        let mut archive = tar::Archive::new(Headers { file: &file, left: MAX_HEADERS });
        for entry in archive.entries_with_seek().map_err(malformed)? {
            let entry = entry.map_err(malformed)?;
            let header = entry.header().entry_type();
            let name = match entry.path() {
                Ok(path) => normal(&path),
                Err(error) => return Err(malformed(error)),
            };
            let member = if header.is_file() || header.is_contiguous() {
                let place = Place { offset: entry.raw_file_position(), size: entry.size() };
                if place.offset.checked_add(place.size).is_none_or(|end| end > metadata.len()) {
                    return Err(ArchiveError::Malformed(format!("it is cut off in {name}")));
                }
                Member::File(place)
            } else if header.is_symlink() || header.is_hard_link() {
                let target = entry.link_name().map_err(malformed)?.unwrap_or_default();
                // A symbolic link is seen from its directory, a hard link from the root.
                let parent = if header.is_symlink() { Path::new(&name).parent() } else { None };
                Member::Link(normal(
                    &parent.map_or_else(|| target.to_path_buf(), |parent| parent.join(&target)),
                ))
            } else {
                continue;
            };
            members.insert(name, member);
            if members.len() > MAX_MEMBERS {
                return Err(ArchiveError::Malformed(format!("it has more than {MAX_MEMBERS} members")));
            }
        }
        Ok(Self { file, members })
    }

    /// Where the file of this name is.
    pub(super) fn find(&self, name: &str) -> Option<Place> {
        let mut name = normal(Path::new(name));
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::File(place) => return Some(*place),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// A file of at most `limit` bytes; `None` if there is none of this name.
    pub(super) async fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>, ArchiveError> {
        let Some(place) = self.find(name) else { return Ok(None) };
        if place.size > limit {
            return Err(ArchiveError::Malformed(format!("{name} has more than {limit} bytes")));
        }
        let mut stream = self.stream(place).await?;
        let mut bytes = BytesMut::new();
        while let Some(part) = stream.next().await {
            bytes.extend_from_slice(&part?);
        }
        Ok(Some(bytes.freeze()))
    }

    /// The first bytes of a file.
    pub(super) async fn start(&self, place: Place) -> Result<Bytes, ArchiveError> {
        let place = Place { size: place.size.min(16), ..place };
        let mut stream = self.stream(place).await?;
        Ok(stream.next().await.transpose()?.unwrap_or_default())
    }

    /// A file's bytes. One stream at a time: all share the place in the archive's file.
    pub(super) async fn stream(
        &self,
        place: Place,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Unpin + use<>, ArchiveError> {
        let mut file = tokio::fs::File::from_std(self.file.try_clone()?);
        file.seek(SeekFrom::Start(place.offset)).await?;
        Ok(ReaderStream::with_capacity(file.take(place.size), CHUNK))
    }
}

/// The archive's file while it is searched: what lies between headers is passed over.
struct Headers<'a> {
    file: &'a File,
    left: u64,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or(ErrorKind::FileTooLarge)?;
        Ok(length)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

/// A member's path as it is looked up: relative, without `.` and `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

/// What these first bytes are compressed with, and the command that undoes it.
pub(super) fn compression(start: &[u8]) -> Option<(&'static str, &'static str)> {
    match start {
        [0x1f, 0x8b, ..] => Some(("gzip", "gunzip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(("zstd", "unzstd")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some(("xz", "unxz")),
        [b'B', b'Z', b'h', ..] => Some(("bzip2", "bunzip2")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> tempfile::NamedTempFile {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), builder.into_inner().unwrap()).unwrap();
        file
    }

    #[tokio::test]
    async fn a_name_without_an_end_is_not_held_in_memory() {
        let long = "x".repeat(usize::try_from(MAX_HEADERS).unwrap() + 1);
        let file = archive(|builder| {
            add(builder, tar::EntryType::GNULongName, "././@LongLink", &long);
            add(builder, tar::EntryType::Regular, "a", "content");
        });
        let Err(ArchiveError::Malformed(reason)) = Archive::open(file.path().to_owned()).await else {
            panic!("it was read")
        };
        assert!(reason.contains("headers and names"), "{reason}");
        // What is in its files does not count.
        let file = archive(|builder| {
            add(builder, tar::EntryType::Regular, "a", &long);
            add(builder, tar::EntryType::Regular, "b", "content");
        });
        assert!(Archive::open(file.path().to_owned()).await.expect("an archive").find("b").is_some());
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, content: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        // Written as raw bytes: the builder refuses names that a hostile archive would have.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if matches!(kind, tar::EntryType::Regular | tar::EntryType::GNULongName) {
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        } else {
            header.set_size(0);
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
        }
    }

    async fn text(archive: &Archive, name: &str) -> Option<String> {
        archive.read(name, 100).await.unwrap().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn files_and_links_are_found() {
        use tar::EntryType::{Link, Regular, Symlink};
        let file = archive(|tar| {
            add(tar, Regular, "./a/layer.tar", "one");
            add(tar, Symlink, "b/layer.tar", "../a/layer.tar");
            add(tar, Link, "c.tar", "a/layer.tar");
            add(tar, Symlink, "loop", "loop");
            add(tar, Symlink, "out", "../../../etc/passwd");
            add(tar, Regular, "../../x", "harmless");
        });
        let archive = Archive::open(file.path().into()).await.unwrap();
        for name in ["a/layer.tar", "b/layer.tar", "c.tar", "/a/../a/layer.tar"] {
            assert_eq!(text(&archive, name).await.as_deref(), Some("one"), "{name}");
        }
        assert_eq!(text(&archive, "x").await.as_deref(), Some("harmless"));
        for name in ["loop", "out", "none"] {
            assert_eq!(text(&archive, name).await, None, "{name}");
        }
        assert!(matches!(archive.read("a/layer.tar", 2).await, Err(ArchiveError::Malformed(_))));
    }

    #[tokio::test]
    async fn what_is_no_archive_is_told() {
        let reason = async |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            match Archive::open(file.path().into()).await {
                Err(ArchiveError::Malformed(reason)) => reason,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            reason(&[0x1f, 0x8b, 8, 0]).await,
            "it is compressed with gzip: unpack it on the way, as in 'gunzip --stdout FILE | ingle image load -'"
        );
        assert!(reason(&[0x28, 0xb5, 0x2f, 0xfd, 0]).await.contains("unzstd"));
        assert_eq!(reason(&[b'x'; 2000]).await, "it is not a tar file, or is damaged");
        let whole = archive(|tar| add(tar, tar::EntryType::Regular, "a", &"x".repeat(5000)));
        let bytes = std::fs::read(whole.path()).unwrap();
        assert!(reason(&bytes[..2048]).await.contains("cut off"));
        let missing = Archive::open("/does/not/exist.tar".into()).await;
        assert!(matches!(missing, Err(ArchiveError::Io(_))));
    }
}
