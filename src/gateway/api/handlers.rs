//! `/system/handlers`: code of functions that is not in their images.

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::put;
use http::StatusCode;

use super::params::PathName;
use super::to_the_end;
use super::upload::Archives;
use crate::function::{HandlerDigest, Invalid};
use crate::gateway::error::ErrorAnswer;
use crate::handlers::Handlers;

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
        .route("/system/handlers/{digest}", put(keep).get(look))
        .with_state(Handles { handlers, archives })
}

fn digest(text: &str) -> Result<HandlerDigest, Invalid> {
    text.parse()
}

async fn keep(
    State(handles): State<Handles>,
    PathName(name): PathName,
    request: Request,
) -> Result<StatusCode, ErrorAnswer> {
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

/// Whether it is here; if so, it is kept for a while.
async fn look(State(handles): State<Handles>, PathName(name): PathName) -> Result<StatusCode, ErrorAnswer> {
    handles.handlers.mount(&digest(&name)?)?;
    Ok(StatusCode::OK)
}
