//! `/system/images`: what is there, taking in an archive without a registry, and removing one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::{delete, get};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::body;
use super::params::PathName;
use super::to_the_end;
use crate::disk::Disk;
use crate::gateway::error::ErrorAnswer;
use crate::runtime::{ImageRecord, Runtime, RuntimeError};
use crate::secrets::file;
use crate::wire;

/// The largest archive in bytes, however much room there is.
const LIMIT: u64 = 16 << 30;
/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Handles {
    runtime: Arc<dyn Runtime>,
    disk: Arc<Disk>,
    directory: Arc<Path>,
    /// One archive at a time: each may take half of the disk that is free.
    loading: Arc<Semaphore>,
}

pub(super) fn routes(runtime: Arc<dyn Runtime>, disk: Arc<Disk>, state_dir: &Path) -> io::Result<Router> {
    let directory = state_dir.join("archives");
    // Whatever is there was left by a daemon that was killed while it took an archive in.
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => file::private_directory(&directory)?,
    }
    let loading = Arc::new(Semaphore::new(1));
    let handles = Handles { runtime, disk, directory: directory.into(), loading };
    // Without axum's own limit, which is for bodies that are kept in memory.
    Ok(Router::new()
        .route("/system/images", get(list).post(load))
        // A name has slashes.
        .route("/system/images/{*name}", delete(remove))
        .with_state(handles))
}

async fn list(State(handles): State<Handles>) -> Result<axum::Json<Vec<wire::Image>>, ErrorAnswer> {
    let images = handles.runtime.images().await?;
    Ok(axum::Json(images.into_iter().map(image).collect()))
}

async fn remove(State(handles): State<Handles>, PathName(name): PathName) -> Result<StatusCode, ErrorAnswer> {
    to_the_end(async move {
        handles.disk.remove(&name).await?;
        Ok(StatusCode::ACCEPTED)
    })
    .await
}

async fn load(
    State(handles): State<Handles>,
    request: Request,
) -> Result<axum::Json<wire::LoadedImages>, ErrorAnswer> {
    let Ok(permit) = handles.loading.clone().try_acquire_owned() else {
        return Err(ErrorAnswer::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "another image archive is being taken in: try again when it is done",
        )
        .retry_after(5));
    };
    let archive = Archive::receive(request.into_body(), &handles.directory).await?;
    to_the_end(async move {
        let loaded = handles.runtime.load(archive.0.clone()).await;
        let images = loaded.map_err(|error| archive.name_in(error))?;
        drop((archive, permit));
        Ok(axum::Json(wire::LoadedImages { images: images.into_iter().map(image).collect() }))
    })
    .await
}

fn image(record: ImageRecord) -> wire::Image {
    wire::Image {
        name: record.name,
        digest: record.digest,
        platform: record.platform,
        size: record.size,
        created_at: record.created_at.to_string(),
    }
}

/// An archive on disk, for as long as it is needed.
struct Archive(PathBuf);

impl Archive {
    /// Writes a body to a file, as long as it leaves as much of the disk free as it takes: what is in
    /// the archive will be unpacked.
    async fn receive(mut body: Body, directory: &Path) -> Result<Self, ErrorAnswer> {
        let room = room(directory).map_err(disk)?;
        if http_body::Body::size_hint(&body).lower() > room {
            return Err(too_large(room));
        }
        let path = directory.join(format!("{}.tar", uuid::Uuid::new_v4()));
        let mut file = tokio::fs::File::create_new(&path).await.map_err(disk)?;
        // From here on the file goes when this is dropped.
        let archive = Self(path);
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
            let text = "the body is empty: send an archive, as 'ingle image load FILE.tar' does";
            return Err(ErrorAnswer::new(StatusCode::BAD_REQUEST, "bad_body", text));
        }
        Ok(archive)
    }

    /// The client knows nothing of the file that its archive was in.
    fn name_in(&self, error: RuntimeError) -> RuntimeError {
        match error {
            RuntimeError::BadImage { image, reason } if Path::new(&image) == self.0 => {
                RuntimeError::BadImage { image: "archive".to_owned(), reason }
            }
            other => other,
        }
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
    Ok((disk.blocks_available() * disk.fragment_size() / 2).min(LIMIT))
}

fn too_large(room: u64) -> ErrorAnswer {
    ErrorAnswer::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!(
            "the archive is larger than {room} bytes, which is half of the free disk or the most that is taken"
        ),
    )
}

fn disk(error: io::Error) -> ErrorAnswer {
    let text = format!("the archive could not be written under the state directory: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ErrorAnswer::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", text)
        }
        _ => ErrorAnswer::new(StatusCode::INTERNAL_SERVER_ERROR, "disk_failed", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).expect("a directory").count()
    }

    #[tokio::test]
    async fn an_archive_is_on_disk_until_it_is_dropped() {
        let directory = tempfile::tempdir().expect("a directory");
        let archive = Archive::receive(Body::from("tar"), directory.path()).await.expect("received");
        assert_eq!(std::fs::read(&archive.0).expect("a file"), b"tar");
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
        let error = Archive::receive(Body::new(Huge), directory.path()).await.err().expect("too large");
        assert_eq!((error.status.as_u16(), error.code), (413, "body_too_large"));
        assert_eq!(files(directory.path()), 0);
    }

    #[test]
    fn a_malformed_archive_is_not_called_by_a_path_of_the_daemon() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("x.tar");
        std::fs::write(&path, "").expect("a file");
        let archive = Archive(path.clone());
        let bad = |image: String| RuntimeError::BadImage { image, reason: "it is cut".into() };
        let error = archive.name_in(bad(path.display().to_string()));
        assert_eq!(error.to_string(), "image archive is malformed: it is cut");
        let error = archive.name_in(bad("a/b:1".into()));
        assert_eq!(error.to_string(), "image a/b:1 is malformed: it is cut");
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
            let error = Archive::receive(body, directory.path()).await.err().expect(code);
            assert_eq!(error.code, code);
            assert_eq!(files(directory.path()), 0);
        }
    }
}
