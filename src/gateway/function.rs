//! `/function/{name}`: the data path.
//!
//! The function gets the request as it was sent: method, encoded path, headers but those that
//! concern the connection. The client gets the function's own answer. Bodies stream both ways at the
//! same time; see [`calls::invoke`] for how a replica is found.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::connection::{After, Connection, Facts, push_error};
use super::error::ErrorAnswer;
use calls::invoke::{
    Call, CallTimer, Caller as _, Exchange, Expected, Failure, InvokeError, Outgoing, PIECE,
};
use directory::{Directory, Entry};
use http1::{Alarm, Framing, Header, RequestHead};

/// Where a request goes.
pub(super) enum Route<'b> {
    /// To a function, as a request for `path`.
    Call { entry: Arc<Entry>, path: Path<'b> },
    /// To the queue, to be that later.
    Later { entry: Arc<Entry>, path: Path<'b> },
    /// To the function that its body names.
    Skill { path: Path<'b> },
    /// To a function that is not there.
    Unknown(InvokeError),
    /// Elsewhere.
    NotAFunction,
}

/// A path and query as the function gets them: what follows the name, with a `/` in front if it has
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path<'b> {
    slash: bool,
    rest: &'b str,
}

/// Decides by the target as it was sent: nothing is decoded or resolved, so that no spelling of a
/// path means one thing here and another elsewhere.
pub(super) fn route<'b>(directory: &Directory, head: &RequestHead<'_, 'b>) -> Route<'b> {
    // An answer to it would make a tunnel of the connection, for those who know the method.
    if head.method == "CONNECT" {
        return Route::NotAFunction;
    }
    let path = origin_form(head.target);
    let later = path.strip_prefix("/async-function/");
    let (name, rest) = match path.strip_prefix("/function/").or(later) {
        Some(named) => named.split_at(named.find(['/', '?', '#']).unwrap_or(named.len())),
        // A gateway on a single port can be told the function by a header instead.
        None if path == "/" => match head.header(Header::Function).map(std::str::from_utf8) {
            Some(Ok(name)) => (name, "/"),
            // The services of Alexa send to one address, and no header of ours.
            None if head.method == "POST" => {
                return Route::Skill { path: Path { slash: false, rest: path } };
            }
            _ => return Route::NotAFunction,
        },
        None => return Route::NotAFunction,
    };
    let path = Path { slash: !rest.starts_with('/'), rest };
    match directory.find(name) {
        Some(entry) if later.is_some() => Route::Later { entry, path },
        Some(entry) => Route::Call { entry, path },
        None => Route::Unknown(InvokeError::unknown(name)),
    }
}

/// The path and query of a target that may have a scheme and an authority in front.
fn origin_form(target: &str) -> &str {
    let is_http = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let Some((_, rest)) = target.split_once("://").filter(|(scheme, _)| is_http(scheme)) else {
        return target;
    };
    rest.find(['/', '?', '#']).map_or("/", |at| &rest[at..])
}

/// A call to a function, with the limits that hold for it.
pub(super) struct FunctionCall {
    entry: Arc<Entry>,
    timeout: Duration,
    body_limit: u64,
    idempotent: bool,
    reuse: bool,
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.slash { "/" } else { "" })?;
        f.write_str(self.rest)
    }
}

impl FunctionCall {
    pub(super) fn new(entry: Arc<Entry>, method: &str, framing: Framing) -> Self {
        let view = entry.peek();
        let (timeout, body_limit) = (view.timeout, view.body_limit);
        drop(view);
        let idempotent = matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE");
        // Many servers do not look for a body where none is usual. They would take it for the next
        // request, and what they answer for the answer to the next call.
        let reuse = framing == Framing::None || takes_body(method);
        Self { entry, timeout, body_limit, idempotent, reuse }
    }

    /// Whether a body of this length is more than the function takes.
    pub(super) fn is_too_long(&self, length: u64) -> bool {
        length > self.body_limit
    }

    /// Answers that the body is, which counts as a call.
    pub(super) async fn refuse_body(&self, connection: &mut Connection, facts: &Facts) -> After {
        let mut timer = CallTimer::begin(&self.entry, facts.started);
        let function = self.entry.label.to_string();
        let answer = ErrorAnswer::from(InvokeError::BodyTooLarge { function, limit: self.body_limit });
        timer.record_status(answer.status.as_u16());
        connection.refuse(facts, &answer).await
    }
}

/// A request on its way to a function.
pub(super) struct Forward<'a, 'h, 'b> {
    pub(super) head: &'a RequestHead<'h, 'b>,
    pub(super) path: Path<'b>,
    pub(super) facts: &'a Facts,
    pub(super) peer: SocketAddr,
}

impl Forward<'_, '_, '_> {
    /// Writes the head that the function gets.
    pub(super) fn write(&self, entry: &Entry, out: &mut Vec<u8>) {
        self.write_lines(&entry.label, out);
        match self.head.framing {
            Framing::Length(length) => {
                out.extend_from_slice(b"Content-Length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            // Said, because some servers wait for a body that is not announced either way.
            Framing::None | Framing::UntilClose if takes_body(self.head.method) => {
                out.extend_from_slice(b"Content-Length: 0\r\n");
            }
            Framing::None | Framing::UntilClose => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The same without what says how long the body is, and without the empty line at the end.
    /// `host_if_none` is for a request that has none, as those of HTTP/1.0.
    pub(super) fn write_lines(&self, host_if_none: &str, out: &mut Vec<u8>) {
        let head = self.head;
        let mut push = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
        let slash: &[u8] = if self.path.slash { b"/" } else { b"" };
        push(&[head.method.as_bytes(), b" ", slash, self.path.rest.as_bytes(), b" HTTP/1.1\r\n"]);
        let (mut host, mut forwarded_host, mut proto) = (None, false, false);
        for header in head.headers {
            let kind = Header::of(header.name);
            // Every request has a Host, whatever the client says of it.
            if kind != Header::Host && head.connection.names(head.headers, header.name) {
                continue;
            }
            match kind {
                Header::Hop | Header::Connection | Header::TransferEncoding | Header::Ours => continue,
                // Sent again below, once and as we understood it.
                Header::ContentLength | Header::CallId | Header::Expect | Header::ForwardedFor => continue,
                Header::Upgrade if !head.upgrade => continue,
                Header::Host => host = Some(header.value),
                Header::ForwardedHost => forwarded_host = true,
                Header::ForwardedProto => proto = true,
                Header::Upgrade | Header::Accept | Header::Function | Header::Prefer | Header::Other => {}
            }
            push(&[header.name.as_bytes(), b": ", header.value, b"\r\n"]);
        }
        if host.is_none() {
            push(&[b"Host: ", host_if_none.as_bytes(), b"\r\n"]);
        }
        if head.upgrade {
            push(&[b"Connection: Upgrade\r\n"]);
        }
        push(&[b"X-Call-Id: ", self.facts.call_id.as_bytes()]);
        push(&[b"\r\nX-Start-Time: ", itoa::Buffer::new().format(self.facts.started_at).as_bytes()]);
        if let Some(host) = host.filter(|_| !forwarded_host) {
            push(&[b"\r\nX-Forwarded-Host: ", host]);
        }
        push(&[b"\r\nX-Forwarded-For: "]);
        for earlier in head.headers.iter().filter(|header| Header::of(header.name) == Header::ForwardedFor) {
            push(&[earlier.value, b", "]);
        }
        push_address(out, self.peer);
        if !proto {
            out.extend_from_slice(b"\r\nX-Forwarded-Proto: http");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a body is usual with this method.
pub(super) fn takes_body(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}

/// The client's address, without going through `fmt` for the common kind.
fn push_address(out: &mut Vec<u8>, peer: SocketAddr) {
    match peer.ip().to_canonical() {
        std::net::IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        address @ std::net::IpAddr::V6(_) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

/// Carries out a call whose head is in `connection.outgoing`.
pub(super) async fn serve(connection: &mut Connection, facts: &Facts, call: &FunctionCall) -> After {
    if matches!(facts.framing, Framing::Length(length) if call.is_too_long(length)) {
        return call.refuse_body(connection, facts).await;
    }
    let mut timer = CallTimer::begin(&call.entry, facts.started);
    let invoke = Call {
        entry: &call.entry,
        expected: Expected {
            to_head: facts.to_head,
            upgrade: facts.upgrade,
            reuse: call.reuse,
            deadline: facts.started + call.timeout,
        },
        limit: call.timeout,
        body_limit: call.body_limit,
        idempotent: call.idempotent,
        max_waiting: connection.worker.limits.max_waiting,
        has_waited: AtomicBool::new(false),
    };
    let Connection { stream, worker, input, out, outgoing, alarm, .. } = connection;
    out.clear();
    let mut client = Client::new(stream, input, out, facts, call.body_limit, worker);
    let error = match invoke.begin(outgoing, &mut client, alarm).await {
        Ok(exchange) => {
            timer.record_status(client.code());
            match answer(exchange, outgoing, &mut client, alarm, call.timeout).await {
                Ok(()) if client.persists() => return After::Next,
                // Closed in order, for a body that ends with the connection.
                Ok(()) => return After::Linger,
                // Nothing of the answer has left yet, so the client can still be told.
                Err(failure) if client.take_back() => invoke.failed(failure),
                // The status was sent: a cut connection is the only sign that the answer is not whole.
                Err(_) => return After::Close,
            }
        }
        Err(error) => error,
    };
    if matches!(error, InvokeError::CallerGone { .. }) {
        return After::Close;
    }
    let answer = ErrorAnswer::from(error);
    timer.record_status(answer.status.as_u16());
    let persists = client.may_persist();
    push_error(client.out, Some(facts), &answer, persists);
    let stall = worker.limits.idle_timeout;
    match client.flush(alarm, stall).await {
        true if persists => After::Next,
        true => After::Linger,
        false => After::Close,
    }
}

/// Streams the body of the answer to the client, and what is left of the request to the function.
async fn answer(
    exchange: Exchange,
    outgoing: &mut Outgoing,
    client: &mut Client<'_>,
    alarm: &mut Alarm,
    limit: Duration,
) -> Result<(), Failure> {
    let tunnel = exchange.is_tunnel();
    let _unawaited = tunnel.then(|| {
        outgoing.reopen();
        client.become_tunnel()
    });
    let mut running = Some(exchange);
    let mut seen = u64::MAX;
    let mut deadline = Instant::now();
    poll_fn(|cx| {
        loop {
            let mut waits = false;
            while let Some(exchange) = running.as_mut().filter(|_| client.out.len() < PIECE) {
                match exchange.poll_data(cx, outgoing, client) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => {
                        client.end();
                        if let Some(exchange) = running.take() {
                            exchange.finish(outgoing);
                        }
                    }
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            match client.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::Gone)),
                Poll::Ready(Ok(())) if running.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if !waits => continue,
                Poll::Ready(Ok(())) => {}
                // The client does not read. It may be sending, and not read before it has done so.
                Poll::Pending => {
                    if let Some(exchange) = &mut running {
                        exchange.send(cx, outgoing, client)?;
                    }
                }
            }
            if !tunnel && outgoing.is_complete() && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Failure::Gone));
            }
            // Both sides wait for something: that may take as long as the first byte may.
            if seen != client.moved {
                seen = client.moved;
                deadline = Instant::now() + client.patience(limit);
            }
            return alarm.poll(cx, deadline).map(|()| Err(Failure::Timeout));
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use http1::slots;

    fn path_of(target: &str) -> Option<(String, String)> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut slots = slots();
        let (head, _) = RequestHead::parse(text.as_bytes(), &mut slots).expect("valid").expect("whole");
        match route(&Directory::default(), &head) {
            Route::Unknown(InvokeError::NotFound { function }) => Some((function, head.target.to_owned())),
            _ => None,
        }
    }

    #[test]
    fn only_the_target_as_sent_decides() {
        for (target, name) in [
            ("/function/env", "env"),
            ("/function/env.dev/a%2fb?c=1", "env.dev"),
            ("/function/env?x=/function/b", "env"),
            ("http://host/function/env", "env"),
            ("http://user@host:1/function/env/..", "env"),
            ("/function/../system/functions", ".."),
            ("/function/..%2fsystem", "..%2fsystem"),
            ("/function/", ""),
        ] {
            assert_eq!(path_of(target).map(|(name, _)| name).as_deref(), Some(name), "{target}");
        }
        for target in [
            "/function",
            "//function/env",
            "/%66unction/env",
            "/./function/env",
            "/x://y/function/env",
            "*",
            "x://y/function/env",
            "a/b://y/function/env",
            "http://host?/function/env",
            "http://host#/function/env",
        ] {
            assert_eq!(path_of(target), None, "{target}");
        }
    }

    #[test]
    fn addresses_are_written_as_clients_know_them() {
        for (peer, text) in [
            ("10.0.255.1:80", "10.0.255.1"),
            ("[::ffff:1.2.3.4]:80", "1.2.3.4"),
            ("[2001:db8::1]:80", "2001:db8::1"),
        ] {
            let mut out = Vec::new();
            push_address(&mut out, peer.parse().expect("an address"));
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
