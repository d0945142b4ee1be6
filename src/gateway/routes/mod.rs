//! What a request can be, and which route serves it.
//!
//! [`function`] is the data path and knows nothing of the API; [`async_function`] takes calls in for the queue;
//! [`alexa`] finds its function in the body; all else goes to one `axum::Router`, behind [`api`].

mod alexa;
mod api;
mod async_function;
mod forwarded;
mod function;
mod prefer;
mod target;

use std::future::poll_fn;

use http1::{HeadError, HeadScan, Header, RequestHead, slots};
use tokio::time::Instant;

use self::async_function::AsyncCall;
use self::forwarded::{ForwardedRequest, hops};
use self::function::FunctionRequest;
use self::target::{Route, route};
use super::access::client::{Listener, client_behind};
use super::connection::request::RequestInfo;
use super::connection::response::Disposition;
use super::connection::{Connection, LINGER, More};
use super::error::{ErrorCode, ErrorResponse};

/// Number of passes through the gateway at which a request is refused. Intended chains of functions are much shorter.
const MAX_HOPS: usize = 16;

/// A request's head, taken from the connection.
enum Request {
    Function(FunctionRequest),
    Async(Box<AsyncCall>),
    /// Its body says which function it calls.
    Alexa,
    Api(Box<http::request::Parts>),
    Refused(ErrorResponse),
}

/// Serves one connection to its end.
pub(super) async fn serve(connection: &mut Connection) {
    while let Some((mut info, request)) = next(connection).await {
        let worker = connection.worker.clone();
        let busy = worker.begin();
        let fate = match request {
            Request::Function(call) => function::serve(connection, &info, &call).await,
            Request::Alexa => match alexa::take(connection, &mut info).await {
                Ok(call) => function::serve(connection, &info, &call).await,
                Err(fate) => fate,
            },
            Request::Async(call) => async_function::serve(connection, &info, *call).await,
            Request::Api(parts) => api::serve(connection, &info, *parts).await,
            Request::Refused(error) => connection.refuse(&info, &error).await,
        };
        drop(busy);
        match fate {
            Disposition::KeepAlive => {}
            Disposition::Drain(body) => {
                if !connection.drain(body).await {
                    return;
                }
            }
            Disposition::Close => return,
            Disposition::LingeringClose => return connection.linger(LINGER).await,
        }
    }
}

/// The next request. `None`: there is none, or it was answered here and the connection ends.
async fn next(connection: &mut Connection) -> Option<(RequestInfo, Request)> {
    let idle = connection.worker.limits.idle_timeout;
    let limit = connection.worker.limits.header_limit;
    let begin = Instant::now();
    let deadline = begin + idle;
    connection.place.wait_for_request(begin);
    let mut scan = HeadScan::default();
    loop {
        if scan.is_due(connection.input.data()) {
            match take_head(connection, limit) {
                Ok(Some(request)) => return Some(request),
                Ok(None) => {}
                Err(error) => return refuse_head(connection, error.into()).await,
            }
        }
        if connection.input.data().len() >= limit
            || (connection.input.is_full() && connection.input.capacity() >= limit)
        {
            return refuse_head(connection, HeadError::TooLarge.into()).await;
        }
        match poll_fn(|cx| connection.poll_more(cx, deadline, limit)).await {
            // Until now it was idle.
            More::Read if scan.is_empty() => connection.place.wait(Instant::now()),
            More::Read => {}
            More::End => return None,
            More::Late if scan.is_empty() => return None,
            More::Evicted(evicted) => {
                connection.evict_head(&evicted.response(ErrorCode::HeadTooSlow)).await;
                return None;
            }
            More::Late => return refuse_head(connection, ErrorResponse::head_too_slow(idle)).await,
        }
    }
}

/// Takes a head from the input, if a whole one is there, and decides where it goes.
fn take_head(connection: &mut Connection, limit: usize) -> Result<Option<(RequestInfo, Request)>, HeadError> {
    let mut slots = slots();
    let Some((head, length)) = RequestHead::parse(connection.input.data(), &mut slots)? else {
        return Ok(None);
    };
    if length > limit {
        return Err(HeadError::TooLarge);
    }
    let info = RequestInfo::of(&head);
    let access = &connection.worker.gateway.access;
    let peer = connection.client.address;
    let forward = |path| ForwardedRequest { head: &head, path, request: &info, peer, access };
    let queued = |call: Result<AsyncCall, ErrorResponse>| match call {
        Ok(call) => Request::Async(Box::new(call)),
        Err(answer) => Request::Refused(answer),
    };
    let route = match connection.client.listener {
        // A page of a function must not share an origin with the API.
        Listener::Admin => Route::NotAFunction,
        Listener::Public | Listener::Local => {
            let worker = &connection.worker;
            route(&worker.gateway.directory, &head, worker.limits.alexa)
        }
    };
    let request = match route {
        Route::Call { .. } | Route::Async { .. } | Route::Alexa { .. } if hops(&head) >= MAX_HOPS => {
            Request::Refused(ErrorResponse::loop_detected(MAX_HOPS))
        }
        Route::Call { entry, path } => {
            let forward = forward(path);
            match AsyncCall::preferred(&entry, &forward, &connection.worker.gateway.queue) {
                Some(call) => queued(call),
                None => {
                    connection.outgoing.begin(info.has_body());
                    connection.outgoing.bytes.reserve(length);
                    forward.write_head(&entry, &mut connection.outgoing.bytes);
                    Request::Function(FunctionRequest::new(entry, head.method, head.framing))
                }
            }
        }
        Route::Async { entry, path } => {
            queued(AsyncCall::new(entry, &forward(path), &connection.worker.gateway.queue))
        }
        Route::Alexa { path } => {
            alexa::begin(&forward(path), &mut connection.outgoing);
            Request::Alexa
        }
        Route::Unknown(error) => Request::Refused(error.into()),
        Route::NoAlexa => Request::Refused(alexa::off()),
        Route::NotAFunction => match api::parts(&head, connection.client) {
            Ok(parts) => Request::Api(Box::new(parts)),
            Err(answer) => Request::Refused(answer),
        },
    };
    let proxies = &connection.worker.limits.trusted_proxies;
    if info.has_body() && proxies.contains(peer.ip()) {
        let lines =
            head.headers.iter().rev().filter(|header| Header::of(header.name) == Header::ForwardedFor);
        let lines = lines.map(|header| std::str::from_utf8(header.value).unwrap_or_default());
        connection.place.attribute(client_behind(proxies, peer.ip(), lines));
    }
    connection.input.consume(length);
    connection.place.work();
    // What is held of the head beside the connection's own buffers, should the body be waited for.
    connection.kept = match &request {
        Request::Alexa => connection.outgoing.bytes.capacity(),
        // It has grown by doubling; or its lines, and the table of them.
        Request::Async(_) | Request::Api(_) => 2 * length,
        Request::Function(_) | Request::Refused(_) => 0,
    };
    Ok(Some((info, request)))
}

/// Responds to a head that could not be read; the connection ends.
async fn refuse_head(connection: &mut Connection, error: ErrorResponse) -> Option<(RequestInfo, Request)> {
    connection.refuse_head(&error).await;
    None
}
