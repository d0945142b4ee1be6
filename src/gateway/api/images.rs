//! `/system/images`: what is there, taking in an archive without a registry, and removing one.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{delete, get};
use http::StatusCode;
use tokio::sync::Semaphore;

use super::params::{Params, PathName};
use super::upload::{Archive, Archives};
use super::{Answer, Done, to_the_end};
use crate::gateway::error::{ErrorCode, ErrorResponse};
use control::images::Disk;
use host::runtime::{ImageRecord, Runtime, RuntimeError};
use model::function::ImageRef;
use model::wire;

#[derive(Clone)]
struct Handles {
    runtime: Arc<dyn Runtime>,
    disk: Arc<Disk>,
    archives: Archives,
    /// One archive at a time: each may take half of the disk that is free.
    loading: Arc<Semaphore>,
}

pub(super) fn routes(runtime: Arc<dyn Runtime>, disk: Arc<Disk>, archives: Archives) -> Router {
    let loading = Arc::new(Semaphore::new(1));
    let handles = Handles { runtime, disk, archives, loading };
    // Without axum's own limit, which is for bodies that are kept in memory.
    Router::new()
        .route("/system/images", get(list).post(load))
        // A name has slashes.
        .route("/system/images/{*name}", delete(remove))
        .with_state(handles)
}

async fn list(State(handles): State<Handles>) -> Answer<Vec<wire::Image>> {
    let images = handles.runtime.images().await?;
    Ok(axum::Json(images.into_iter().map(image).collect()))
}

async fn remove(State(handles): State<Handles>, PathName(name): PathName) -> Done {
    to_the_end(async move { handles.disk.remove(&name).await }).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn load(
    State(handles): State<Handles>,
    params: Params,
    request: Request,
) -> Answer<wire::LoadedImages> {
    params.check(&["name"])?;
    let name: Option<ImageRef> = params.get("name").map(str::parse).transpose()?;
    let Ok(permit) = handles.loading.clone().try_acquire_owned() else {
        return Err(ErrorResponse::new(
            ErrorCode::Busy,
            "another image archive is being taken in: try again when it is done",
        )
        .retry_after(5));
    };
    let archive = handles.archives.receive(request.into_body(), handles.disk.max_archive()).await?;
    to_the_end(async move {
        let loaded = handles.runtime.load(archive.path().into(), name.as_ref()).await;
        let loaded = loaded.map_err(|error| name_in(&archive, error))?;
        drop((archive, permit));
        Ok::<_, RuntimeError>(axum::Json(wire::LoadedImages {
            images: loaded.images.into_iter().map(image).collect(),
            skipped: loaded
                .skipped
                .into_iter()
                .map(|(name, reason)| wire::SkippedImage { name, reason })
                .collect(),
        }))
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

/// The client knows nothing of the file that its archive was in.
fn name_in(archive: &Archive, error: RuntimeError) -> RuntimeError {
    match error {
        RuntimeError::BadImage { image, reason } if Path::new(&image) == archive.path() => {
            RuntimeError::BadImage { image: "archive".to_owned(), reason }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[tokio::test]
    async fn a_malformed_archive_is_not_called_by_a_path_of_the_daemon() {
        let directory = tempfile::tempdir().expect("a directory");
        let archives = Archives::open(directory.path()).expect("opened");
        let archive = archives.receive(Body::from("tar"), 100).await.expect("received");
        let path = archive.path();
        let bad = |image: String| RuntimeError::BadImage { image, reason: "it is cut".into() };
        let error = name_in(&archive, bad(path.display().to_string()));
        assert_eq!(error.to_string(), "image archive is malformed: it is cut");
        let error = name_in(&archive, bad("a/b:1".into()));
        assert_eq!(error.to_string(), "image a/b:1 is malformed: it is cut");
    }
}
