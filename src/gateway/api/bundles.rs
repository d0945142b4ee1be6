//! `/system/handlers`: code of functions that is not in their images.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use axum::routing::put;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio_util::io::ReaderStream;

use super::params::PathName;
use super::to_the_end;
use super::upload::Archives;
use crate::gateway::error::ErrorResponse;
use host::bundles::{HandlerError, Handlers};
use model::function::{HandlerDigest, Invalid};

/// Bytes that the archive itself may add to its files: a head for each, and padding.
const OVERHEAD: u64 = 16 << 20;

#[derive(Clone)]
struct Handles {
    handlers: Handlers,
    archives: Archives,
}

pub(super) fn routes(handlers: Handlers, archives: Archives) -> Router {
    // Without axum's own limit, which is for bodies that are kept in memory.
    Router::new()
        .route("/system/handlers/{digest}", put(keep).get(archive))
        .with_state(Handles { handlers, archives })
}

fn digest(text: &str) -> Result<HandlerDigest, Invalid> {
    text.parse()
}

async fn keep(
    State(handles): State<Handles>,
    PathName(name): PathName,
    request: Request,
) -> Result<StatusCode, ErrorResponse> {
    let digest = digest(&name)?;
    let limit = handles.handlers.limit().saturating_add(OVERHEAD);
    let archive = handles.archives.receive(request.into_body(), limit).await?;
    to_the_end(async move {
        let is_new = handles.handlers.keep(digest, archive.path().into()).await?;
        drop(archive);
        Ok(if is_new { StatusCode::CREATED } else { StatusCode::OK })
    })
    .await
}

/// The archive that it was handed over as; it is then kept for a while.
async fn archive(
    State(handles): State<Handles>,
    PathName(name): PathName,
) -> Result<impl IntoResponse, ErrorResponse> {
    let file = handles.handlers.archive(&digest(&name)?)?;
    let size = file.metadata().map_err(HandlerError::io("looking at the archive"))?.len();
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    Ok(([(CONTENT_TYPE, "application/x-tar".to_owned()), (CONTENT_LENGTH, size.to_string())], body))
}
