//! Streams of requests and answers, valid and damaged, cut anywhere: what is read must not depend on the
//! cuts, and must end where hyper, which shares only the parser of heads with http1, says so too.
//!
//! `PROPTEST_CASES` sets how many are tried.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use http1::{Decoder, Framing, HeadScan, RequestHead, ResponseHead, slots};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Shown as text when a test fails.
#[derive(Clone)]
struct Stream(Vec<u8>);

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// A message as a reader understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    /// Method and target, or the status.
    line: String,
    body: Vec<u8>,
    end: End,
}

/// What came at the end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// The stream ended too early.
    Cut,
    /// Something that cannot be read.
    Bad,
}

impl Message {
    /// Whether two readers agree. What only one of them takes is no disagreement on where it ends.
    fn agrees(&self, other: &Self) -> bool {
        match (self.end, other.end) {
            (End::Bad, _) | (_, End::Bad) => self.line == other.line,
            (End::Cut, End::Cut) => self.line == other.line,
            _ => self == other,
        }
    }
}

/// The bytes of a stream, as they arrive.
struct Arriving<'a> {
    bytes: &'a [u8],
    ends: Vec<usize>,
    used: usize,
    arrived: usize,
}

impl<'a> Arriving<'a> {
    fn new(bytes: &'a [u8], cuts: &[Index]) -> Self {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable_by(|a, b| b.cmp(a));
        Self { bytes, ends, used: 0, arrived: 0 }
    }

    fn data(&self) -> &'a [u8] {
        &self.bytes[self.used..self.arrived]
    }

    /// `false`: that was all.
    fn more(&mut self) -> bool {
        self.ends.pop().map(|end| self.arrived = end).is_some()
    }

    fn body(&mut self, framing: Framing, body: &mut Vec<u8>) -> End {
        let mut decoder = match framing {
            Framing::None => Decoder::Length(0),
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::chunked(),
            Framing::UntilClose => Decoder::UntilClose,
        };
        loop {
            let Ok(found) = decoder.decode(self.data()) else { return End::Bad };
            body.extend_from_slice(&self.data()[found.skip..found.skip + found.data]);
            self.used += found.skip + found.data;
            if found.end {
                assert!(decoder.is_done());
                return End::Whole;
            }
            if found.data == 0 && !self.more() {
                return if decoder == Decoder::UntilClose { End::Whole } else { End::Cut };
            }
        }
    }
}

/// Requests as a connection reads them, until one that cannot be read or after which none may follow.
fn requests(bytes: &[u8], cuts: &[Index]) -> Vec<Message> {
    let mut arriving = Arriving::new(bytes, cuts);
    let mut messages = Vec::new();
    let mut scan = HeadScan::default();
    loop {
        let data = arriving.data();
        let mut slots = slots();
        let parsed = if scan.is_due(data) { RequestHead::parse(data, &mut slots) } else { Ok(None) };
        match parsed {
            Err(_) => return messages,
            Ok(None) => {
                if !arriving.more() {
                    return messages;
                }
            }
            Ok(Some((head, length))) => {
                arriving.used += length;
                scan = HeadScan::default();
                // hyper gives a target that is a whole URL a path.
                let target = head
                    .target
                    .parse::<http::Uri>()
                    .map_or_else(|_| head.target.to_owned(), |uri| uri.to_string());
                let line = format!("{} {target}", head.method);
                let mut body = Vec::new();
                let end = arriving.body(head.framing, &mut body);
                messages.push(Message { line, body, end });
                if end != End::Whole || !head.persists() || head.method == "CONNECT" {
                    return messages;
                }
            }
        }
    }
}

/// The answer to one request, after those that announce it.
fn answer(bytes: &[u8], cuts: &[Index], to_head: bool) -> Option<Message> {
    let mut arriving = Arriving::new(bytes, cuts);
    let mut scan = HeadScan::default();
    loop {
        let mut slots = slots();
        let parsed = match scan.is_due(arriving.data()) {
            true => ResponseHead::parse(arriving.data(), &mut slots, to_head).ok()?,
            false => None,
        };
        match parsed {
            None if arriving.more() => {}
            None => return None,
            Some((head, length)) => {
                arriving.used += length;
                scan = HeadScan::default();
                if head.code == 101 {
                    return None;
                }
                if head.code >= 200 {
                    let mut body = Vec::new();
                    let end = arriving.body(head.framing, &mut body);
                    return Some(Message { line: head.code.to_string(), body, end });
                }
            }
        }
    }
}

/// Requests as hyper reads them.
async fn requests_of_hyper(bytes: &[u8]) -> Vec<Message> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes).await.expect("room for all");
    client.shutdown().await.expect("open");
    let messages = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: http::Request<Incoming>| {
        let messages = messages.clone();
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let (body, end) = collect(request.into_body()).await;
            messages.lock().expect("no panic").push(Message { line, body, end });
            Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(server), service);
    // An error is how it says that what came is not a request.
    let _ = served.await;
    messages.lock().expect("no panic").clone()
}

/// The answer as hyper reads it. `None`: it is none.
async fn answer_of_hyper(bytes: &[u8], to_head: bool) -> Option<Message> {
    let (client, mut server) = tokio::io::duplex(1 << 20);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(client)).await.expect("open");
    let method = if to_head { http::Method::HEAD } else { http::Method::GET };
    let request =
        http::Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).expect("a request");
    let call = async {
        let answer = sender.send_request(request).await.ok()?;
        let line = answer.status().as_u16().to_string();
        let (body, end) = collect(answer.into_body()).await;
        Some(Message { line, body, end })
    };
    let replica = async {
        let mut head = [0; 256];
        let _ = server.read(&mut head).await;
        let _ = server.write_all(bytes).await;
        drop(server);
    };
    let (answer, (), _) = tokio::join!(call, replica, connection);
    answer
}

async fn collect(mut incoming: Incoming) -> (Vec<u8>, End) {
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Err(error) => {
                let cause = std::error::Error::source(&error)
                    .and_then(|cause| cause.downcast_ref::<std::io::Error>());
                let cut = error.is_incomplete_message()
                    || cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof);
                return (body, if cut { End::Cut } else { End::Bad });
            }
        }
    }
    (body, End::Whole)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Headers that mean something for where a body ends, or nearly.
const HEADERS: [&str; 26] = [
    "Content-Length: 5",
    "Content-Length: 0",
    "Content-Length: 05",
    "content-length:5 ",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: 18446744073709551615",
    "Content-Length : 5",
    "Content_Length: 3",
    "Transfer-Encoding: chunked",
    "transfer-encoding:\tChunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: identity",
    "Transfer-Encoding:",
    " Transfer-Encoding: chunked",
    "Connection: close",
    "Connection: keep-alive, Content-Length",
    "Connection: Upgrade\r\nUpgrade: websocket",
    "Expect: 100-continue",
    "Trailer: X",
    "X: a\nContent-Length: 3",
    "X:",
    "X: \u{e9}",
    "Host: b",
];

const BODIES: [&str; 14] = [
    "",
    "hello",
    "hel",
    "5\r\nhello\r\n0\r\n\r\n",
    "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "05\r\nhello\r\n000\r\n\r\n",
    "5\r\nhello\r\n",
    "5\nhello\n0\n\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\r\nhello!\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello",
    "0\r\n\r\n",
    "0\r\nX: y\n\r\n\r\n",
];

/// Bytes that end or join things.
const BYTES: &[u8] = b"\r\n\t \0:;,05aFx+-\x0b\x7f\xff";

/// Usually nothing, sometimes a few headers, usually a body that fits them.
fn rest() -> impl Strategy<Value = String> {
    let fitting = select(vec![
        ("", ""),
        ("Content-Length: 5\r\n", "hello"),
        ("Content-Length: 0\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "2;x=\"y\"\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n"),
        ("Connection: close\r\nContent-Length: 3\r\n", "hel"),
    ])
    .prop_map(|(headers, body)| format!("{headers}\r\n{body}"));
    let any = (prop::collection::vec(select(&HEADERS[..]), 0..4), select(&BODIES[..])).prop_map(
        |(headers, body)| {
            let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            format!("{headers}\r\n{body}")
        },
    );
    prop_oneof![3 => fitting, 2 => any]
}

/// Messages that begin with one of `lines`, one after the other, some of their bytes changed.
fn stream(lines: &'static [&'static str]) -> impl Strategy<Value = Stream> {
    let message = (select(lines), rest()).prop_map(|(line, rest)| format!("{line}\r\n{rest}"));
    let damage = prop_oneof![2 => Just(0..1), 1 => Just(1..4)]
        .prop_flat_map(|count| prop::collection::vec((any::<Index>(), 0..3u8, select(BYTES)), count));
    (prop::collection::vec(message, 1..4), damage).prop_map(|(messages, damage)| {
        let mut bytes = messages.concat().into_bytes();
        for (at, kind, byte) in damage {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => _ = bytes.remove(at),
            }
        }
        Stream(bytes)
    })
}

const REQUESTS: &[&str] = &[
    "GET /a HTTP/1.1\r\nHost: a",
    "POST /b HTTP/1.1\r\nHost: a",
    "PUT /c%0d%0a?x=y HTTP/1.1\r\nHost: a",
    "HEAD /d HTTP/1.1\r\nHost: a",
    "POST http://a/e HTTP/1.1\r\nHost: a",
    "POST /f HTTP/1.0",
    "POST /g HTTP/1.0\r\nConnection: keep-alive",
];

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No",
    "HTTP/1.0 200 OK",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive",
];

proptest! {
    #[test]
    fn requests_are_read_alike_in_any_pieces_and_as_hyper_reads_them(
        Stream(bytes) in stream(REQUESTS),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let whole = requests(&bytes, &[]);
        prop_assert_eq!(&requests(&bytes, &cuts), &whole);
        let theirs = wait(requests_of_hyper(&bytes));
        for (ours, theirs) in whole.iter().zip(&theirs) {
            prop_assert!(ours.agrees(theirs), "{ours:?}, hyper {theirs:?}");
            if ours.end != End::Whole || theirs.end != End::Whole {
                break;
            }
        }
    }

    #[test]
    fn answers_are_read_alike_in_any_pieces_and_as_hyper_reads_them(
        Stream(bytes) in stream(ANSWERS),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        to_head in prop::bool::weighted(0.2),
    ) {
        let whole = answer(&bytes, &[], to_head);
        prop_assert_eq!(&answer(&bytes, &cuts, to_head), &whole);
        let theirs = wait(answer_of_hyper(&bytes, to_head));
        if let (Some(ours), Some(theirs)) = (whole, theirs) {
            prop_assert!(ours.agrees(&theirs), "{ours:?}, hyper {theirs:?}");
        }
    }
}
