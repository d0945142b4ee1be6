//! `/system/calls`: queued calls as they are and as they were, their answers, and an end to them.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderValue};
use jiff::Timestamp;
use tokio_util::io::ReaderStream;

use super::params::Params;
use super::{Answer, Done, to_the_end};
use crate::gateway::error::{ErrorCode, ErrorResponse};
use ::calls::queue::{AnswerBody, Attempt, CallRecord, CallState, Filter, KeptAnswer, Queue};
use model::function::Invalid;
use model::wire;

/// Bytes of a kept answer that are read at a time.
const PIECE: usize = 64 << 10;
/// Headers of a kept answer that are given with it: what its body is.
const OF_THE_BODY: [&str; 4] = ["content-type", "content-encoding", "content-language", "etag"];
/// Headers that keep a browser from running what a function answered as a page of the API's own origin.
const NO_PAGE: [(&str, &str); 3] = [
    ("content-disposition", "attachment"),
    ("content-security-policy", "sandbox; default-src 'none'"),
    ("x-content-type-options", "nosniff"),
];

pub(super) fn routes(queue: Queue) -> Router {
    Router::new()
        .route("/system/calls", get(list))
        .route("/system/calls/{id}", get(show).delete(cancel))
        .route("/system/calls/{id}/answer", get(answer))
        .with_state(queue)
}

async fn list(State(queue): State<Queue>, params: Params) -> Answer<Vec<wire::Call>> {
    params.check(&["function", "namespace", "status", "limit"])?;
    let functions = params.functions()?;
    let state = params.get("status").map(state).transpose()?;
    let calls = queue.calls(Filter { functions, state }, params.limit()?).await;
    Ok(axum::Json(calls.into_iter().map(call).collect()))
}

fn state(text: &str) -> Result<CallState, Invalid> {
    text.parse().map_err(|reason: String| Invalid::new("status", reason))
}

async fn show(State(queue): State<Queue>, Path(id): Path<String>) -> Answer<wire::Call> {
    Ok(axum::Json(call(queue.call(&id)?)))
}

async fn cancel(State(queue): State<Queue>, Path(id): Path<String>) -> Done {
    to_the_end(async move { queue.cancel(&id).await }).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn answer(State(queue): State<Queue>, Path(id): Path<String>) -> Result<Response, ErrorResponse> {
    let answer = queue.answer(&id).await?;
    // All else that the function said was for whoever called it.
    let headers = answer.headers(|name| OF_THE_BODY.contains(&name));
    let KeptAnswer { code, size, body, omitted, .. } = answer;
    if let Some(reason) = omitted {
        let text = format!("call {id} was answered {code}, and its body was not kept: {reason}");
        return Err(ErrorResponse::new(ErrorCode::AnswerNotFound, text));
    }
    let body = match body {
        AnswerBody::Memory(bytes) => Body::from(bytes),
        AnswerBody::File(file) => Body::from_stream(ReaderStream::with_capacity(file, PIECE)),
    };
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    response.headers_mut().insert("x-function-status", HeaderValue::from(code));
    for (name, value) in NO_PAGE {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// An attempt, as it is answered.
pub(super) fn attempt(one: Attempt) -> wire::Try {
    wire::Try {
        at: one.at.to_string(),
        took_ms: one.took_ms,
        code: one.code,
        reason: one.reason.into(),
        repeats: one.repeats,
    }
}

fn call(call: CallRecord) -> wire::Call {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let wait = call.started_at.map(|at| at.duration_since(call.queued_at).as_millis());
    wire::Call {
        call_id: call.call_id.into(),
        status: call.state.to_string(),
        name: call.function.name.to_string(),
        namespace: call.function.namespace.to_string(),
        method: call.method.into(),
        path: call.path.into(),
        sent: call.sent,
        queued_at: call.queued_at.to_string(),
        started_at: time(call.started_at),
        ended_at: time(call.ended_at),
        // A clock that was set back makes it nothing.
        wait_ms: wait.map(|wait| u64::try_from(wait).unwrap_or(0)),
        tries: call.tries,
        start: call.start.map(|start| start.to_string()),
        code: call.code,
        received: call.received,
        reason: call.reason.map(String::from),
        attempts: call.attempts.into_iter().map(attempt).collect(),
        answer_until: time(call.result_until),
    }
}
