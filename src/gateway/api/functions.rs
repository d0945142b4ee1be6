//! `/system/functions`, `/system/function/{name}`, `/system/function/{name}/rollback`,
//! `/system/scale-function/{name}`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, StatusCode};

use super::body::{Json, MaybeJson};
use super::params::{self, Params, PathName};
use super::{Answer, Done, to_the_end};
use crate::gateway::error::ErrorResponse;
use ::calls::triggers::cron::Cron;
use control::fleet::Fleet;
use model::wire;

pub(super) fn routes(fleet: Arc<Fleet>, cron: Cron) -> Router {
    let describing =
        Router::new().route("/system/function/{name}", get(describe)).with_state((fleet.clone(), cron));
    Router::new()
        .route(
            "/system/functions",
            get(list)
                .post(|fleet, params, body| put(fleet, params, body, false))
                .put(|fleet, params, body| put(fleet, params, body, true))
                .delete(remove),
        )
        .route("/system/function/{name}/rollback", post(rollback))
        .route("/system/scale-function/{name}", post(scale))
        .with_state(fleet)
        .merge(describing)
}

async fn list(State(fleet): State<Arc<Fleet>>, params: Params) -> Answer<Vec<wire::FunctionStatus>> {
    let namespace = params.namespace_or_default(None)?;
    Ok(axum::Json(fleet.list(&namespace)?))
}

async fn describe(
    State((fleet, cron)): State<(Arc<Fleet>, Cron)>,
    PathName(name): PathName,
    params: Params,
) -> Answer<wire::FunctionStatus> {
    let key = params::function(&fleet, &name, params.namespace(None)?)?;
    let with_usage = params.switch("usage")?;
    let mut status = fleet.describe(&key)?;
    status.cron = cron.timer(&key).map(super::cron::status);
    if with_usage {
        // How the function is matters more than what it uses: an engine that does not answer takes
        // only the latter away.
        match fleet.usage(&key).await {
            Ok(usage) => status.usage = Some(usage),
            Err(error) => tracing::warn!(function = %key, %error, "no usage for an answer"),
        }
    }
    Ok(axum::Json(status))
}

/// Says which revision the deploy became, so that a client can follow that one.
pub(super) const REVISION: HeaderName = HeaderName::from_static("x-revision");

pub(super) type Deployed = (StatusCode, [(HeaderName, HeaderValue); 1]);

async fn put(
    State(fleet): State<Arc<Fleet>>,
    params: Params,
    Json(mut body): Json<wire::Deployment>,
    only_update: bool,
) -> Result<Deployed, ErrorResponse> {
    body.namespace = params.namespace(body.namespace.as_deref())?.map(String::from);
    let revision = to_the_end(async move { fleet.deploy(body, only_update).await }).await?;
    Ok((StatusCode::ACCEPTED, [(REVISION, revision.into())]))
}

async fn rollback(
    State(fleet): State<Arc<Fleet>>,
    PathName(name): PathName,
    params: Params,
    MaybeJson(body): MaybeJson<wire::Rollback>,
) -> Result<Deployed, ErrorResponse> {
    let body = body.unwrap_or_default();
    let key = params::function(&fleet, &name, params.namespace(body.namespace.as_deref())?)?;
    let revision = to_the_end(async move { fleet.rollback(&key, body.revision).await }).await?;
    Ok((StatusCode::ACCEPTED, [(REVISION, revision.into())]))
}

async fn remove(State(fleet): State<Arc<Fleet>>, params: Params, Json(body): Json<wire::Deletion>) -> Done {
    let namespace = params.namespace(body.namespace.as_deref())?;
    let key = params::function(&fleet, &body.function_name, namespace)?;
    to_the_end(async move { fleet.remove(&key).await }).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn scale(
    State(fleet): State<Arc<Fleet>>,
    PathName(name): PathName,
    params: Params,
    Json(body): Json<wire::ScaleRequest>,
) -> Done {
    let namespace = params.namespace(body.namespace.as_deref())?;
    let key = params::function(&fleet, &name, namespace)?;
    to_the_end(async move { fleet.scale(&key, body.replicas).await }).await?;
    Ok(StatusCode::ACCEPTED)
}
