//! `POST /`: the request of an Alexa skill, which calls the function that its intent is named after.
//!
//! The body says which function it is for, so it is taken in first, whole and within bounds. Then head and body
//! lie ready to be sent, and the call is served as any other.

use tokio::time::timeout_at;

use calls::invoke::InvokeError;
use forward::Outgoing;
use http1::Framing;
use model::wire::AlexaRequest;

use super::forwarded::ForwardedRequest;
use super::function::FunctionRequest;
use crate::gateway::connection::Connection;
use crate::gateway::connection::downstream::BodyReadError;
use crate::gateway::connection::request::RequestInfo;
use crate::gateway::connection::response::Disposition;
use crate::gateway::error::{ErrorCode, ErrorResponse};

/// Bytes that the body may have. A skill's state comes back with each request; what a skill answers, that state
/// included, may have 120 KB.
const LIMIT: u64 = 256 << 10;
/// The host that the function is told if the client tells none: ours, as functions know it. Which function it is
/// is not known when this is written.
const HOST: &str = "gateway";

/// Writes what the function gets before the body.
pub(super) fn begin(forward: &ForwardedRequest<'_, '_, '_>, outgoing: &mut Outgoing) {
    // The body will be there before the call begins.
    outgoing.begin(false);
    forward.write_head_without_framing(HOST, &mut outgoing.bytes);
}

/// Takes the body in and finds the function. An error was answered already.
pub(super) async fn take(
    connection: &mut Connection,
    request: &mut RequestInfo,
) -> Result<FunctionRequest, Disposition> {
    if matches!(request.framing, Framing::Length(length) if length > LIMIT) {
        return Err(connection.refuse(request, &too_large()).await);
    }
    let body = match read(connection, request).await {
        Ok(body) => body,
        Err(BodyReadError::Gone) => return Err(Disposition::Close),
        Err(BodyReadError::TooLarge) => return Err(connection.refuse(request, &too_large()).await),
        Err(BodyReadError::Bad(error)) => return Err(connection.refuse(request, &error).await),
    };
    // What comes next on the connection is another request.
    request.framing = Framing::None;
    let name = match serde_json::from_slice::<AlexaRequest>(&body) {
        Ok(alexa) => alexa.request.intent.name,
        Err(error) => return Err(connection.refuse(request, &no_intent(&error)).await),
    };
    let Some(entry) = connection.worker.gateway.directory.find(&name) else {
        let error = InvokeError::unknown(&name);
        return Err(connection.refuse(request, &error.into()).await);
    };
    let length = body.len() as u64;
    let call = FunctionRequest::new(entry, "POST", Framing::Length(length));
    if call.is_too_long(length) {
        return Err(call.refuse_body(connection, request).await);
    }
    let out = &mut connection.outgoing.bytes;
    out.extend_from_slice(b"Content-Length: ");
    out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(&body);
    Ok(call)
}

/// The whole body. All of it has the time that a client may be silent, for whoever sends it need not be known
/// here, and it is held in memory.
async fn read(connection: &mut Connection, request: &RequestInfo) -> Result<Vec<u8>, BodyReadError> {
    let (mut client, _, alarm) = connection.downstream(request, LIMIT);
    let stall = client.stall;
    client.take_body_plain();
    client.wait_since(request.started);
    let mut body = Vec::new();
    let whole = async {
        while client.take_piece(&mut body, alarm).await? {}
        Ok(())
    };
    let taken = timeout_at(request.started + stall, whole).await.unwrap_or_else(|_| {
        let text = format!("the body did not arrive within {stall:?} (gateway.idle_timeout)");
        Err(BodyReadError::Bad(ErrorResponse::new(ErrorCode::BodyStalled, text)))
    });
    // It may have been asked to send the body, and not have read all of that.
    if !client.flush(alarm).await {
        return Err(BodyReadError::Gone);
    }
    taken.map(|()| body)
}

/// The response where skills are not served: neither head nor body is kept for them.
pub(super) fn off() -> ErrorResponse {
    let text = "POST / is for Alexa skills, which are not served here unless gateway.alexa is true; \
                to call a function, use /function/NAME or the header X-Function";
    ErrorResponse::new(ErrorCode::RouteNotFound, text)
}

fn too_large() -> ErrorResponse {
    let text = format!(
        "the body is larger than the {LIMIT} bytes that the request of an Alexa skill may have: \
         call its function at /function/NAME"
    );
    ErrorResponse::new(ErrorCode::BodyTooLarge, text)
}

fn no_intent(error: &serde_json::Error) -> ErrorResponse {
    let text = format!(
        "POST / takes the request of an Alexa skill, and calls the function that its request.intent.name names: {error}; \
         to call a function by name, use /function/NAME or the header X-Function"
    );
    ErrorResponse::new(ErrorCode::NoIntent, text)
}
