//! `/system/df` and `/system/prune`: what is on the disk, and what of it nobody uses.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};

use super::params::Params;
use super::{Answer, to_the_end};
use ::calls::queue::Queue;
use control::fleet::Fleet;
use model::wire;

pub(super) fn routes(fleet: Arc<Fleet>, queue: Queue) -> Router {
    Router::new()
        .route("/system/df", get(df))
        .with_state((fleet.clone(), queue))
        .merge(Router::new().route("/system/prune", post(prune)).with_state(fleet))
}

async fn df(State((fleet, queue)): State<(Arc<Fleet>, Queue)>) -> Answer<wire::DiskUsage> {
    let usage = fleet.disk().usage().await?;
    Ok(axum::Json(wire::DiskUsage { queue: queue.disk_usage(), ..usage }))
}

async fn prune(State(fleet): State<Arc<Fleet>>, params: Params) -> Answer<wire::Pruned> {
    let orphans = params.switch("orphans")?;
    Ok(axum::Json(to_the_end(async move { fleet.prune(orphans).await }).await?))
}
