//! `POST /`: the request of an Alexa skill, which calls the function that its intent is named after.
//!
//! The body says which function it is for, so it is taken in first, whole and within bounds. Then head and body
//! lie ready to be sent, and the call is served as any other.

use http::StatusCode;
use tokio::time::timeout_at;

use super::client::{Client, Unread};
use super::connection::{After, Connection, Facts};
use super::error::ErrorAnswer;
use super::function::{Forward, FunctionCall};
use calls::invoke::{InvokeError, Outgoing};
use http1::Framing;
use model::wire::SkillCall;

/// Bytes that the body may have. A skill's state comes back with each request; what a skill answers, that state
/// included, may have 120 KB.
const LIMIT: u64 = 256 << 10;
/// The host that the function is told if the client tells none: ours, as functions know it. Which function it is
/// is not known when this is written.
const HOST: &str = "gateway";

/// Writes what the function gets before the body.
pub(super) fn begin(forward: &Forward<'_, '_, '_>, outgoing: &mut Outgoing) {
    // The body will be there before the call begins.
    outgoing.begin(false);
    forward.write_lines(HOST, &mut outgoing.bytes);
}

/// Takes the body in and finds the function. An error was answered already.
pub(super) async fn take(connection: &mut Connection, facts: &mut Facts) -> Result<FunctionCall, After> {
    if matches!(facts.framing, Framing::Length(length) if length > LIMIT) {
        return Err(connection.refuse(facts, &too_large()).await);
    }
    let body = match read(connection, facts).await {
        Ok(body) => body,
        Err(Unread::Gone) => return Err(After::Close),
        Err(Unread::TooLarge) => return Err(connection.refuse(facts, &too_large()).await),
        Err(Unread::Bad(answer)) => return Err(connection.refuse(facts, &answer).await),
    };
    // What comes next on the connection is another request.
    facts.framing = Framing::None;
    let name = match serde_json::from_slice::<SkillCall>(&body) {
        Ok(skill) => skill.request.intent.name,
        Err(error) => return Err(connection.refuse(facts, &no_intent(&error)).await),
    };
    let Some(entry) = connection.worker.gateway.directory.find(&name) else {
        let error = InvokeError::unknown(&name);
        return Err(connection.refuse(facts, &error.into()).await);
    };
    let length = body.len() as u64;
    let call = FunctionCall::new(entry, "POST", Framing::Length(length));
    if call.is_too_long(length) {
        return Err(call.refuse_body(connection, facts).await);
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
async fn read(connection: &mut Connection, facts: &Facts) -> Result<Vec<u8>, Unread> {
    let Connection { stream, worker, input, out, alarm, .. } = connection;
    out.clear();
    let stall = worker.limits.idle_timeout;
    let mut client = Client::new(stream, input, out, facts, LIMIT, worker);
    client.take_body_plain();
    let mut body = Vec::new();
    let whole = async {
        while client.take_piece(&mut body, alarm).await? {}
        Ok(())
    };
    let taken = timeout_at(facts.started + stall, whole).await.unwrap_or_else(|_| {
        let text = format!("the body did not arrive within {stall:?} (gateway.idle_timeout)");
        Err(Unread::Bad(ErrorAnswer::new(StatusCode::REQUEST_TIMEOUT, "body_stalled", text)))
    });
    // It may have been asked to send the body, and not have read all of that.
    if !client.flush(alarm, stall).await {
        return Err(Unread::Gone);
    }
    taken.map(|()| body)
}

fn too_large() -> ErrorAnswer {
    let text = format!(
        "the body is larger than the {LIMIT} bytes that the request of an Alexa skill may have: \
         call its function at /function/NAME"
    );
    ErrorAnswer::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", text)
}

fn no_intent(error: &serde_json::Error) -> ErrorAnswer {
    let text = format!(
        "POST / takes the request of an Alexa skill, and calls the function that its request.intent.name names: {error}; \
         to call a function by name, use /function/NAME or the header X-Function"
    );
    ErrorAnswer::new(StatusCode::BAD_REQUEST, "no_intent", text)
}
