//! `/system/store`: whether all that is kept can be used, and the ways out where it cannot.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use http::StatusCode;

use super::functions::{Deployed, REVISION};
use super::params::Params;
use super::{Answer, Done, to_the_end};
use crate::gateway::error::ErrorResponse;
use control::fleet::{Fleet, FleetError};
use model::function::Invalid;
use model::wire;

pub(super) fn routes(fleet: Arc<Fleet>) -> Router {
    Router::new()
        .route("/system/store", get(status))
        .route("/system/store/accept", post(accept))
        .route("/system/store/adopt", post(adopt))
        .route("/system/store/repair", post(repair))
        .with_state(fleet)
}

async fn status(State(fleet): State<Arc<Fleet>>) -> axum::Json<wire::StoreStatus> {
    axum::Json(fleet.store_status())
}

/// Deploys what a file says that was set aside.
async fn accept(State(fleet): State<Arc<Fleet>>, params: Params) -> Result<Deployed, ErrorResponse> {
    let functions = params.functions()?;
    let accept = async move {
        let mut accepted = None;
        for key in functions.named() {
            match (fleet.accept(key).await, accepted) {
                // Nothing is set aside of the first that the name may stand for, nor of the second.
                (Err(FleetError::NothingSetAside(_)), Some(first)) => accepted = Some(first),
                (Err(error @ FleetError::NothingSetAside(_)), None) => accepted = Some(Err(error)),
                (done, _) => return Some(done),
            }
        }
        accepted
    };
    let Some(revision) = to_the_end(async move { accept.await.transpose() }).await? else {
        return Err(
            Invalid::new("function", "is missing: name the function whose file is to be accepted").into()
        );
    };
    Ok((StatusCode::ACCEPTED, [(REVISION, revision.into())]))
}

/// Has an empty state directory go on with the functions that run.
async fn adopt(State(fleet): State<Arc<Fleet>>) -> Done {
    to_the_end(async move { fleet.adopt_store().await }).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Begins with an empty store of queued calls, beside one that cannot be opened.
async fn repair(State(fleet): State<Arc<Fleet>>) -> Answer<wire::Repaired> {
    let damaged = to_the_end(async move { fleet.repair_store().await }).await?;
    Ok(axum::Json(wire::Repaired { damaged: damaged.display().to_string() }))
}
