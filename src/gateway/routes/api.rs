//! Hands a request to the API's `axum::Router` and its answer back.
//!
//! The router runs on the runtime of the daemon, never on a thread that carries calls: its handlers
//! may start tasks of their own and take their time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::Version;
use http::header::HOST;
use http::request::Parts;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;
use tower::ServiceExt as _;

use forward::{BodyError, Caller as _, Client as _, PIECE};
use http1::{Alarm, Header, RequestHead};

use crate::gateway::access::client::Client;
use crate::gateway::connection::Connection;
use crate::gateway::connection::downstream::Downstream;
use crate::gateway::connection::places::Collected;
use crate::gateway::connection::request::RequestInfo;
use crate::gateway::connection::response::Disposition;
use crate::gateway::error::ErrorResponse;

/// Pieces of a body that wait for the handler.
const WAITING_PIECES: usize = 2;

type Sender = PollSender<Result<Bytes, io::Error>>;

/// Converts the head to the `http` crate's, with the client as an extension.
pub(super) fn parts(head: &RequestHead<'_, '_>, client: Client) -> Result<Parts, ErrorResponse> {
    if head.method == "CONNECT" {
        return Err(ErrorResponse::not_a_proxy());
    }
    let version = if head.http10 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request =
        http::Request::builder().method(head.method).uri(head.target).version(version).extension(client);
    if let Some(host) = head.host {
        request = request.header(HOST, host);
    }
    for header in head.headers.iter().filter(|header| Header::of(header.name) != Header::Host) {
        request = request.header(header.name, header.value);
    }
    let (parts, ()) = request.body(()).map_err(|_| ErrorResponse::bad_target())?.into_parts();
    Ok(parts)
}

/// Serves one request of the API.
pub(super) async fn serve(
    connection: &mut Connection,
    request: &RequestInfo,
    mut parts: Parts,
) -> Disposition {
    let worker = connection.worker.clone();
    // The API has its own limits, by route.
    let (mut client, _, alarm) = connection.downstream(request, u64::MAX);
    client.take_body_plain();
    let collected = Collected::default();
    let (body, sender) = if request.has_body() {
        let (sender, receiver) = mpsc::channel(WAITING_PIECES);
        let taken = collected.clone();
        let pieces = ReceiverStream::new(receiver).map(move |piece: Result<Bytes, io::Error>| {
            piece.iter().for_each(|bytes| taken.remove(bytes.len()));
            piece
        });
        (Body::from_stream(pieces), Some(PollSender::new(sender)))
    } else {
        (Body::empty(), None)
    };
    parts.extensions.insert(collected.clone());
    let router = worker.gateway.api.clone();
    let routed = http::Request::from_parts(parts, body);
    let handler = worker.runtime.spawn(async move {
        let Ok(answer) = router.oneshot(routed).await;
        answer
    });
    let mut upload = Upload { sender, piece: Vec::new(), head: client.kept, collected };
    let Some(response) = wait(handler, &mut upload, &mut client, alarm).await else {
        return Disposition::Close;
    };
    match response {
        Ok(response) => answer(response, &mut upload, client, request, alarm).await,
        Err(error) => client.respond_error(&error, alarm).await,
    }
}

/// The request's body on its way to the handler.
struct Upload {
    sender: Option<Sender>,
    piece: Vec<u8>,
    /// Bytes that the request's head takes.
    head: usize,
    /// Bytes of the body that the handler has in memory.
    collected: Collected,
}

impl Upload {
    /// Passes on what has arrived, and returns whether more of it is wanted now. A handler that does not want it
    /// drops its end.
    fn run(&mut self, cx: &mut Context<'_>, client: &mut Downstream<'_>) -> bool {
        while let Some(sender) = &mut self.sender {
            match sender.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.sender = None,
                Poll::Pending => return false,
            }
            let Some(sender) = &mut self.sender else { return false };
            client.kept = self.head + self.collected.bytes();
            match client.poll_body(cx, &mut self.piece) {
                Poll::Ready(Ok(more)) => {
                    let piece = Bytes::from(std::mem::take(&mut self.piece));
                    let sent = piece.is_empty() || {
                        self.collected.add(piece.len());
                        sender.send_item(Ok(piece)).is_ok()
                    };
                    if !more || !sent {
                        self.sender = None;
                    }
                }
                Poll::Ready(Err(error)) => self.fail(&error),
                Poll::Pending => {
                    // The place is given back, or the handler could never see the end.
                    sender.abort_send();
                    return true;
                }
            }
        }
        false
    }

    /// Ends a body that is waited for: what has come is not all of it.
    fn cut(&mut self, cx: &mut Context<'_>) {
        match self.sender.as_mut().map(|sender| sender.poll_reserve(cx)) {
            Some(Poll::Ready(Ok(()))) => self.fail(&BodyError::Gone),
            _ => self.sender = None,
        }
    }

    fn fail(&mut self, error: &BodyError) {
        if let Some(mut sender) = self.sender.take() {
            let text = match error {
                BodyError::TooLarge => "the body is too large".to_owned(),
                BodyError::Bad(reason) => format!("the body is malformed: {reason}"),
                BodyError::Gone => "the client closed the connection in the middle of the body".to_owned(),
            };
            // A place was reserved; if not, the handler has gone.
            let _ = sender.send_item(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
    }
}

/// Waits for the handler. `None` when the client went away; the handler then runs to its end, as a
/// deploy that was begun must.
async fn wait(
    mut handler: JoinHandle<Response>,
    upload: &mut Upload,
    client: &mut Downstream<'_>,
    alarm: &mut Alarm,
) -> Option<Result<Response, ErrorResponse>> {
    poll_fn(|cx| {
        let wants_more = upload.run(cx, client);
        if let Some(evicted) = client.evicted() {
            return Poll::Ready(Some(Err(evicted)));
        }
        match Pin::new(&mut handler).poll(cx) {
            Poll::Ready(Ok(response)) => return Poll::Ready(Some(Ok(response))),
            Poll::Ready(Err(error)) => {
                tracing::error!(%error, "a handler of the API did not end");
                return Poll::Ready(Some(Err(ErrorResponse::internal())));
            }
            Poll::Pending => {}
        }
        if !wants_more {
            return client.poll_gone(cx).map(|()| {
                upload.cut(cx);
                client.evicted().map(Err)
            });
        }
        match client.body_deadline() {
            Some(deadline) => alarm.poll(cx, deadline).map(|()| {
                upload.cut(cx);
                None
            }),
            None => Poll::Pending,
        }
    })
    .await
}

/// Streams the answer to the client.
async fn answer(
    response: Response,
    upload: &mut Upload,
    mut client: Downstream<'_>,
    request: &RequestInfo,
    alarm: &mut Alarm,
) -> Disposition {
    let (parts, mut body) = response.into_parts();
    let bodiless = request.to_head || parts.status.as_u16() == 204 || parts.status.as_u16() == 304;
    client.plain_head(&parts, bodiless, body.size_hint().exact());
    let mut running = !bodiless;
    let (mut seen, mut deadline) = (u64::MAX, Instant::now());
    let whole = poll_fn(|cx| {
        loop {
            upload.run(cx, &mut client);
            let mut waits = false;
            while running && client.out.len() < PIECE {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Some(data) = frame.data_ref() {
                            client.data(data);
                        }
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                    Poll::Ready(None) => {
                        running = false;
                        client.end();
                    }
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            match client.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(())) if !running => return Poll::Ready(true),
                Poll::Ready(Ok(())) if !waits => continue,
                // Logs that are followed may be silent for hours.
                Poll::Ready(Ok(())) => {
                    let watch = upload.sender.is_none();
                    return if watch { client.poll_gone(cx).map(|()| false) } else { Poll::Pending };
                }
                Poll::Pending => {}
            }
            if seen != client.bytes_moved {
                seen = client.bytes_moved;
                deadline = Instant::now() + client.stall;
            }
            return alarm.poll(cx, deadline).map(|()| false);
        }
    })
    .await;
    if whole { client.disposition() } else { Disposition::Close }
}
