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
use super::upload::Archives;
use super::{Done, to_the_end};
use crate::gateway::error::ErrorResponse;
use host::bundles::{HandlerError, Handlers};
use model::function::HandlerDigest;

/// Bytes that the archive itself may add to its files: a head for each, and padding.
const OVERHEAD: u64 = 16 << 20;

type Handles = (Handlers, Archives);

pub(super) fn routes(handlers: Handlers, archives: Archives) -> Router {
    // Without axum's own limit, which is for bodies that are kept in memory.
    Router::new().route("/system/handlers/{digest}", put(keep).get(archive)).with_state((handlers, archives))
}

async fn keep(
    State((handlers, archives)): State<Handles>,
    PathName(name): PathName,
    request: Request,
) -> Done {
    let digest = name.parse::<HandlerDigest>()?;
    let limit = handlers.limit().saturating_add(OVERHEAD);
    let archive = archives.receive(request.into_body(), limit).await?;
    // The archive goes with the change, which is then at its end.
    let is_new = to_the_end(async move { handlers.keep(digest, archive.path().into()).await }).await?;
    Ok(if is_new { StatusCode::CREATED } else { StatusCode::OK })
}

/// The archive that it was handed over as; it is then kept for a while.
async fn archive(
    State((handlers, _)): State<Handles>,
    PathName(name): PathName,
) -> Result<impl IntoResponse, ErrorResponse> {
    let file = handlers.archive(&name.parse()?)?;
    let size = file.metadata().map_err(HandlerError::io("looking at the archive"))?.len();
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    Ok(([(CONTENT_TYPE, "application/x-tar".to_owned()), (CONTENT_LENGTH, size.to_string())], body))
}
