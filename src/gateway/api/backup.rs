//! `/system/backup` and `/system/restore`: the state directory as one archive.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::upload::{Archives, disk};
use super::{Answer, to_the_end};
use crate::gateway::error::{ErrorCode, ErrorResponse};
use host::secrets::Secrets;
use host::store::Store;
use model::wire;

#[derive(Clone)]
pub(super) struct Handles {
    pub(super) store: Arc<Store>,
    pub(super) secrets: Secrets,
    pub(super) archives: Archives,
    /// One at a time: each takes as much of the disk as there is.
    pub(super) one: Arc<Semaphore>,
    /// Has the daemon begin anew.
    pub(super) restart: CancellationToken,
}

pub(super) fn routes(handles: Handles) -> Router {
    Router::new()
        .route("/system/backup", get(back_up))
        .route("/system/restore", post(restore))
        .with_state(handles)
}

fn busy() -> ErrorResponse {
    ErrorResponse::new(ErrorCode::Busy, "another backup is being made or taken in: try again when it is done")
        .retry_after(5)
}

async fn back_up(State(handles): State<Handles>) -> Result<impl IntoResponse, ErrorResponse> {
    let permit = handles.one.clone().try_acquire_owned().map_err(|_| busy())?;
    let archive = handles.archives.reserve();
    let (store, secrets, path) = (handles.store, handles.secrets, PathBuf::from(archive.path()));
    let file = to_the_end(async move {
        store.back_up(path, move |to| secrets.copy(to)).await?;
        let file = std::fs::File::open(archive.path()).map_err(disk)?;
        // Open, it can be read to its end.
        drop((archive, permit));
        Ok::<_, ErrorResponse>(file)
    })
    .await?;
    let size = file.metadata().map_err(disk)?.len();
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    Ok(([(CONTENT_TYPE, "application/x-tar".to_owned()), (CONTENT_LENGTH, size.to_string())], body))
}

async fn restore(State(handles): State<Handles>, request: Request) -> Answer<wire::Restored> {
    let permit = handles.one.clone().try_acquire_owned().map_err(|_| busy())?;
    let archive = handles.archives.receive(request.into_body(), u64::MAX).await?;
    let store = handles.store;
    let functions = to_the_end(async move {
        let restored = tokio::task::spawn_blocking(move || {
            let restored = store.restore(archive.path());
            drop((archive, permit));
            restored
        });
        restored
            .await
            .map_err(|_| ErrorResponse::new(ErrorCode::Internal, "the daemon failed; its log says more"))?
            .map_err(ErrorResponse::from)
    })
    .await?;
    handles.restart.cancel();
    Ok(axum::Json(wire::Restored { functions }))
}
