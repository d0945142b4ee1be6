//! Archives that clients send: each in a file, for as long as it is needed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use super::body;
use crate::gateway::error::{ErrorCode, ErrorResponse, has_no_room};
use host::private_file;

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// The directory that they are kept in. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Archives(Arc<Path>);

impl Archives {
    /// The directory under `state_dir`, emptied: whatever is there was left by a daemon that was killed while it
    /// took an archive in.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let directory = state_dir.join("archives");
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => private_file::make_directory(&directory)?,
        }
        Ok(Self(directory.into()))
    }

    /// Returns the place of an archive that is to be written, and goes when this is dropped.
    pub(super) fn reserve(&self) -> Archive {
        Archive(self.0.join(format!("{}.tar", uuid::Uuid::new_v4())))
    }

    /// Writes a body of at most `limit` bytes to a file, as long as it leaves as much of the disk free as it
    /// takes: what is in the archive will be unpacked.
    pub(super) async fn receive(&self, mut body: Body, limit: u64) -> Result<Archive, ErrorResponse> {
        let directory = &*self.0;
        let room = room(directory).map_err(disk)?.min(limit);
        if http_body::Body::size_hint(&body).lower() > room {
            return Err(too_large(room));
        }
        let path = directory.join(format!("{}.tar", uuid::Uuid::new_v4()));
        let mut file = tokio::fs::File::create_new(&path).await.map_err(disk)?;
        // From here on the file goes when this is dropped.
        let archive = Archive(path);
        let mut size = 0;
        loop {
            let frame =
                tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| body::stalled(SILENCE))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| body::cut(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            size += data.len() as u64;
            if size > room {
                return Err(too_large(room));
            }
            file.write_all(&data).await.map_err(disk)?;
        }
        file.flush().await.map_err(disk)?;
        if size == 0 {
            let text = "the body is empty: send an archive (tar)";
            return Err(ErrorResponse::new(ErrorCode::BadBody, text));
        }
        Ok(archive)
    }
}

/// An archive on disk, for as long as it lives.
pub(super) struct Archive(PathBuf);

impl Archive {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(file = %self.0.display(), %error, "an image archive was not removed");
        }
    }
}

/// How large an archive may be now.
fn room(directory: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(directory)?;
    Ok(disk.blocks_available() * disk.fragment_size() / 2)
}

fn too_large(room: u64) -> ErrorResponse {
    let text = format!(
        "the archive is larger than {room} bytes, which is half of the free disk or the most that is taken"
    );
    ErrorResponse::new(ErrorCode::BodyTooLarge, text)
}

pub(super) fn disk(error: io::Error) -> ErrorResponse {
    let text = format!("the archive could not be written under the state directory: {error}");
    let code = if has_no_room(&error) { ErrorCode::DiskFull } else { ErrorCode::DiskFailed };
    ErrorResponse::new(code, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archives(directory: &tempfile::TempDir) -> Archives {
        Archives(directory.path().into())
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).expect("a directory").count()
    }

    #[tokio::test]
    async fn an_archive_that_is_larger_than_it_may_be_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let chunks = Body::from_stream(futures_util::stream::iter([Ok::<_, io::Error>("half"), Ok("half")]));
        for body in [Body::from("halfhalf"), chunks] {
            let error = archives(&directory).receive(body, 7).await.err().expect("too large");
            assert_eq!((error.status.as_u16(), error.code.as_str()), (413, "body_too_large"));
            assert_eq!(files(directory.path()), 0);
        }
    }

    #[test]
    fn what_a_crash_left_is_gone_after_the_next_start() {
        let directory = tempfile::tempdir().expect("a directory");
        Archives::open(directory.path()).expect("opened");
        let left = directory.path().join("archives/left.tar");
        std::fs::write(&left, "x").expect("written");
        Archives::open(directory.path()).expect("opened again");
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn an_archive_is_on_disk_until_it_is_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let archive = archives(&directory).receive(Body::from("tar"), 3).await.expect("received");
        assert_eq!(std::fs::read(archive.path()).expect("a file"), b"tar");
        drop(archive);
        assert_eq!(files(directory.path()), 0);
    }

    /// Says that it is larger than any disk.
    struct Huge;

    impl http_body::Body for Huge {
        type Data = bytes::Bytes;
        type Error = io::Error;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
            panic!("nobody reads a body that is too large");
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(u64::MAX)
        }
    }

    #[tokio::test]
    async fn an_archive_for_which_there_is_no_room_is_refused_unread() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = archives(&directory).receive(Body::new(Huge), u64::MAX).await.err().expect("too large");
        assert_eq!((error.status.as_u16(), error.code.as_str()), (413, "body_too_large"));
        assert_eq!(files(directory.path()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_ends_badly_leaves_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let chunks = |last: io::Result<&'static str>| {
            Body::from_stream(futures_util::stream::iter([Ok("half"), last]))
        };
        let cut = chunks(Err(io::ErrorKind::ConnectionReset.into()));
        let silent = Body::from_stream(futures_util::stream::pending::<io::Result<&'static str>>());
        for (body, code) in [(cut, "bad_body"), (silent, "body_stalled"), (Body::empty(), "bad_body")] {
            let error = archives(&directory).receive(body, u64::MAX).await.err().expect(code);
            assert_eq!(error.code.as_str(), code);
            assert_eq!(files(directory.path()), 0);
        }
    }
}
