//! `/system/queues` and `/system/dead`: calls that are made later, and those that were given up.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post, put};
use http::StatusCode;

use super::body::Json;
use super::calls::attempt;
use super::params::Params;
use super::{Answer, Done, to_the_end};
use crate::gateway::error::ErrorResponse;
use ::calls::queue::{self, Queue};
use model::function::{FunctionFilter, Invalid, check_queue_name};
use model::wire;

/// The largest body in bytes.
const BODY: usize = 1 << 10;

pub(super) fn routes(queue: Queue) -> Router {
    Router::new()
        .route("/system/queues", get(queues))
        .route("/system/queues/{name}", put(change))
        .route("/system/dead", get(list).delete(purge_all))
        .route("/system/dead/replay", post(replay_all))
        .route("/system/dead/{number}", get(show).delete(purge))
        .route("/system/dead/{number}/replay", post(replay))
        .with_state(queue)
}

async fn queues(State(queue): State<Queue>) -> axum::Json<Vec<wire::QueueStatus>> {
    let status = |found: queue::QueueStatus| wire::QueueStatus {
        name: found.name.into(),
        paused: found.paused,
        ready: found.counts.ready,
        waiting: found.counts.waiting,
        running: found.counts.running,
    };
    axum::Json(queue.queues().into_iter().map(status).collect())
}

async fn change(
    State(queue): State<Queue>,
    Path(name): Path<String>,
    Json(body): Json<wire::QueueChange, BODY>,
) -> Done {
    check_queue_name(&name).map_err(|reason| Invalid::new("queue", reason))?;
    to_the_end(async move { queue.pause(&name, body.paused).await }).await?;
    Ok(StatusCode::OK)
}

async fn list(State(queue): State<Queue>, params: Params) -> Answer<Vec<wire::DeadCall>> {
    let which = which(&params, &["limit"])?;
    let calls = queue.dead(&which, params.limit()?).await;
    Ok(axum::Json(calls.into_iter().map(dead).collect()))
}

async fn show(State(queue): State<Queue>, Path(text): Path<String>) -> Answer<wire::DeadCall> {
    Ok(axum::Json(dead(queue.dead_call(number(&text)?)?)))
}

async fn replay(
    State(queue): State<Queue>,
    Path(text): Path<String>,
) -> Result<(StatusCode, axum::Json<wire::Replayed>), ErrorResponse> {
    let number = number(&text)?;
    let (number, call_id) = to_the_end(async move { queue.replay(number).await }).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(wire::Replayed { call_id: call_id.into(), number })))
}

type Counted = (StatusCode, axum::Json<wire::DeadCount>);

async fn replay_all(State(queue): State<Queue>, params: Params) -> Result<Counted, ErrorResponse> {
    let which = which(&params, &[])?;
    let count = to_the_end(async move { queue.replay_all(&which).await }).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(wire::DeadCount { count })))
}

async fn purge(State(queue): State<Queue>, Path(text): Path<String>) -> Done {
    let number = number(&text)?;
    to_the_end(async move { queue.purge(number).await }).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn purge_all(State(queue): State<Queue>, params: Params) -> Result<Counted, ErrorResponse> {
    let which = which(&params, &[])?;
    let count = to_the_end(async move { queue.purge_all(&which).await }).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(wire::DeadCount { count })))
}

/// The calls that a query means: all of them, if it says nothing. A name that is mistyped must not mean all.
fn which(params: &Params, others: &[&str]) -> Result<FunctionFilter, Invalid> {
    params.check(&[&["function", "namespace"], others].concat())?;
    params.functions()
}

fn number(text: &str) -> Result<u64, Invalid> {
    text.parse().map_err(|_| Invalid::new("number", format!("{text:?} is not the number of a call")))
}

fn dead(call: queue::DeadCall) -> wire::DeadCall {
    let queue::JobMetadata { function, call_id, method, path, queued_at, tried, tries, callback, .. } =
        call.facts;
    wire::DeadCall {
        number: call.number,
        name: function.name.to_string(),
        namespace: function.namespace.to_string(),
        call_id: call_id.into(),
        method: method.into(),
        path: path.into(),
        size: call.body_size,
        queued_at: queued_at.to_string(),
        answered: callback.as_ref().and_then(|callback| Some(callback.ended.as_ref()?.status)),
        callback_url: callback.map(|callback| callback.url.into()),
        tried,
        tries: tries.into_iter().map(attempt).collect(),
    }
}
