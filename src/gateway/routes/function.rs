//! `/function/{name}`: the data path.
//!
//! The function gets the request as it was sent: method, encoded path, headers but those that
//! concern the connection. The client gets the function's own answer. Bodies stream both ways at the
//! same time; see [`calls::invoke`] for how a replica is found.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use calls::invoke::{Call, CallTimer, InvokeError, OUTWAIT};
use directory::Entry;
use forward::{Expected, Failure, relay};
use http1::{Alarm, Framing, method};

use crate::gateway::connection::Connection;
use crate::gateway::connection::downstream::Downstream;
use crate::gateway::connection::request::RequestInfo;
use crate::gateway::connection::response::Disposition;
use crate::gateway::error::ErrorResponse;

/// A call to a function, with the limits that hold for it.
pub(super) struct FunctionRequest {
    entry: Arc<Entry>,
    timeout: Duration,
    body_limit: u64,
    idempotent: bool,
    reuse: bool,
}

impl FunctionRequest {
    pub(super) fn new(entry: Arc<Entry>, method: &str, framing: Framing) -> Self {
        let view = entry.peek();
        let (timeout, body_limit) = (view.timeout, view.body_limit);
        drop(view);
        let idempotent = method::is_idempotent(method);
        // What a server answers to a body that it took for a request would be the answer to the next call.
        let reuse = framing == Framing::None || method::takes_body(method);
        Self { entry, timeout, body_limit, idempotent, reuse }
    }

    /// Whether a body of this length is more than the function takes.
    pub(super) fn is_too_long(&self, length: u64) -> bool {
        length > self.body_limit
    }

    /// Refuses the body as too long; this counts as a call.
    pub(super) async fn refuse_body(
        &self,
        connection: &mut Connection,
        request: &RequestInfo,
    ) -> Disposition {
        let mut timer = CallTimer::begin(&self.entry, request.started);
        let function = self.entry.label.to_string();
        let error = ErrorResponse::from(InvokeError::BodyTooLarge { function, limit: self.body_limit });
        timer.record_status(error.status.as_u16());
        connection.refuse(request, &error).await
    }
}

/// Carries out a call whose head is in `connection.outgoing`.
pub(super) async fn serve(
    connection: &mut Connection,
    request: &RequestInfo,
    call: &FunctionRequest,
) -> Disposition {
    if matches!(request.framing, Framing::Length(length) if call.is_too_long(length)) {
        return call.refuse_body(connection, request).await;
    }
    let mut timer = CallTimer::begin(&call.entry, request.started);
    let invoke = Call {
        entry: &call.entry,
        expected: Expected {
            to_head: request.to_head,
            upgrade: request.upgrade,
            reuse: call.reuse,
            deadline: request.started + call.timeout + OUTWAIT,
        },
        limit: call.timeout,
        body_limit: call.body_limit,
        idempotent: call.idempotent,
        max_waiting: connection.worker.limits.max_waiting,
        has_waited: AtomicBool::new(false),
    };
    let (mut client, outgoing, alarm) = connection.downstream(request, call.body_limit);
    if request.framing == Framing::Chunked
        && let Err(error) = client.gather_body(outgoing, alarm).await
    {
        let error = invoke.failed(Failure::Body(error));
        return fail(&mut client, &mut timer, error, alarm).await;
    }
    let error = match invoke.begin(outgoing, &mut client, alarm).await {
        Ok(exchange) => {
            timer.record_status(client.code);
            match relay(exchange, outgoing, &mut client, alarm, call.timeout + OUTWAIT).await {
                Ok(()) => return client.disposition(),
                // Nothing of the answer has left yet, so the client can still be told.
                Err(failure) if client.discard_response() => invoke.failed(failure),
                // The status was sent: a cut connection is the only sign that the answer is not whole.
                Err(_) => return Disposition::Close,
            }
        }
        Err(error) => error,
    };
    fail(&mut client, &mut timer, error, alarm).await
}

async fn fail(
    client: &mut Downstream<'_>,
    timer: &mut CallTimer<'_>,
    error: InvokeError,
    alarm: &mut Alarm,
) -> Disposition {
    let error = match client.evicted() {
        Some(evicted) => evicted,
        None if matches!(error, InvokeError::CallerGone { .. }) => return Disposition::Close,
        None => ErrorResponse::from(error),
    };
    timer.record_status(error.status.as_u16());
    client.respond_error(&error, alarm).await
}
