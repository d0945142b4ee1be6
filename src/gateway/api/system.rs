//! `/system/df` and `/system/prune`: what is on the disk, and what of it nobody uses.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};

use super::to_the_end;
use crate::gateway::error::ErrorResponse;
use control::fleet::Fleet;
use model::wire;

pub(super) fn routes(fleet: Arc<Fleet>) -> Router {
    Router::new().route("/system/df", get(df)).route("/system/prune", post(prune)).with_state(fleet)
}

async fn df(State(fleet): State<Arc<Fleet>>) -> Result<axum::Json<wire::DiskUsage>, ErrorResponse> {
    Ok(axum::Json(fleet.disk().usage().await?))
}

async fn prune(State(fleet): State<Arc<Fleet>>) -> Result<axum::Json<wire::Pruned>, ErrorResponse> {
    to_the_end(async move { Ok(axum::Json(fleet.prune().await?)) }).await
}
