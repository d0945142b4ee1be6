//! Streams of requests, valid and damaged, through the gateway to a function that hyper serves. The
//! function must never see a request that the gateway did not know of, nor one that hyper, given the
//! client's own bytes, reads in another way.
//!
//! `PROPTEST_CASES` sets how many are tried.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{Gate, replica};

/// Gateways that are tried at the same time.
const GATES: u32 = 8;

/// Method, path and body of a request that came whole.
type Request = (String, String, Vec<u8>);

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Request>>>);

impl Seen {
    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }

    /// Serves a connection and notes its requests.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request: http::Request<Incoming>| {
            let seen = self.clone();
            async move {
                let (method, path) = (request.method().to_string(), request.uri().to_string());
                if let Ok(body) = request.into_body().collect().await {
                    seen.0.lock().expect("no panic").push((method, path, body.to_bytes().to_vec()));
                }
                Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
            }
        });
        // An error is how it says that what came is not a request.
        let _ = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service).await;
    }
}

const HEADERS: [&str; 20] = [
    "Content-Length: 5",
    "Content-Length: 05",
    "Content-Length: 5, 5",
    "Content-Length : 5",
    "Content_Length: 3",
    "Transfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "transfer-encoding:\tChunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    " Transfer-Encoding: chunked",
    "Connection: keep-alive, Content-Length, Host",
    "Connection: Transfer-Encoding",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Connection: close",
    "Expect: 100-continue",
    "X: a\nContent-Length: 3",
    "X: GET /function/env/hidden HTTP/1.1",
    "X:\r\n Y",
    "Host: b",
];

/// Hidden requests, for whoever ends a body too early.
const BODIES: [&str; 10] = [
    "",
    "hello",
    "helloGET /function/env/hidden HTTP/1.1\r\nHost: a\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n",
    "0\r\n\r\nGET /function/env/hidden HTTP/1.1\r\nHost: a\r\n\r\n",
    "5\nhello\n0\n\nGET /function/env/hidden HTTP/1.1\r\nHost: a\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\r\nhello!0\r\n\r\n",
    "ffffffffffffffff\r\nhello",
];

fn stream() -> impl Strategy<Value = (Vec<u8>, Vec<Index>)> {
    let line = (
        select(vec!["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]),
        select(vec!["", "/a", "/b%2f..%0d%0a?c=d", "//a", "?e"]),
        select(vec!["HTTP/1.1\r\nHost: a", "HTTP/1.1\r\nHost: a", "HTTP/1.0\r\nConnection: keep-alive"]),
    );
    let fitting = select(vec![
        ("\r\n", ""),
        ("Content-Length: 5\r\n\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ])
    .prop_map(|(headers, body)| format!("{headers}{body}"));
    let unfitting = (prop::collection::vec(select(&HEADERS[..]), 0..4), select(&BODIES[..])).prop_map(
        |(headers, body)| {
            let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            format!("{headers}\r\n{body}")
        },
    );
    let message = (line, prop_oneof![fitting, unfitting]).prop_map(|((method, path, version), rest)| {
        format!("{method} /function/env{path} {version}\r\n{rest}")
    });
    let change = (any::<Index>(), 0..3u8, select(&b"\r\n\t \0:;,05aF\xff"[..]));
    let changes = prop_oneof![2 => Just(0..1), 1 => Just(1..4)]
        .prop_flat_map(move |count| prop::collection::vec(change.clone(), count));
    let bytes = (prop::collection::vec(message, 1..4), changes).prop_map(|(messages, changes)| {
        let mut bytes = messages.concat().into_bytes();
        for (at, kind, byte) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => _ = bytes.remove(at),
            }
        }
        bytes
    });
    (bytes, prop::collection::vec(any::<Index>(), 0..4))
}

/// What hyper makes of a client's bytes, as far as it concerns the function.
async fn reference(bytes: &[u8]) -> Vec<Request> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes).await.expect("room for all");
    client.shutdown().await.expect("open");
    let seen = Seen::default();
    seen.clone().serve(server).await;
    let of_the_function = |(method, path, body): Request| {
        let rest = path.strip_prefix("/function/env")?;
        let slash = if rest.starts_with('/') { "" } else { "/" };
        (rest.is_empty() || rest.starts_with(['/', '?'])).then(|| (method, format!("{slash}{rest}"), body))
    };
    seen.take().into_iter().filter_map(of_the_function).collect()
}

async fn send(gate: &Gate, bytes: &[u8], cuts: &[Index]) {
    let mut client = gate.connect().await;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut from = 0;
    for end in ends {
        // The gateway may have refused and closed.
        if client.stream.write_all(&bytes[from..end]).await.is_err() {
            break;
        }
        from = end;
        tokio::task::yield_now().await;
    }
    // It closes when nothing more comes.
    client.rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_sees_the_requests_that_the_gateway_saw() {
    let cases = ProptestConfig::default().cases.div_ceil(GATES);
    let mut gates = tokio::task::JoinSet::new();
    for _ in 0..GATES {
        gates.spawn(async move {
            let seen = Seen::default();
            let function = {
                let seen = seen.clone();
                replica(move |connection, _| seen.clone().serve(connection.stream)).await
            };
            let gate =
                Gate::with(&[function], |_, limits| limits.idle_timeout = Duration::from_millis(40)).await;
            let mut runner = TestRunner::default();
            let mut agreed = 0;
            for _ in 0..cases {
                let (bytes, cuts) = stream().new_tree(&mut runner).expect("a stream").current();
                let before = gate.entry.stats.calls_started();
                send(&gate, &bytes, &cuts).await;
                eventually!(gate.entry.stats.in_flight() == 0, "a call is still counted");
                let known = gate.entry.stats.calls_started() - before;
                let (seen, theirs) = (seen.take(), reference(&bytes).await);
                let shown = bytes.escape_ascii();
                assert!(seen.len() as u64 <= known, "{known} known, {seen:?} seen: {shown}");
                for (seen, theirs) in seen.iter().zip(&theirs) {
                    assert_eq!(seen, theirs, "{shown}");
                    agreed += 1;
                }
            }
            agreed
        });
    }
    let mut agreed = 0;
    while let Some(done) = gates.join_next().await {
        agreed += done.expect("no stream was read in two ways");
    }
    assert!(agreed > cases, "only {agreed} requests were compared");
}
