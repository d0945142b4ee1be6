//! Replicas that say what nobody asked for, and callers that must not hear it: an answer goes to the one
//! who asked, or to nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Client, Gate, PATIENCE, mirror, replica};

/// As much as the gateway reads at once, so that what follows is still with the kernel when the answer
/// has been read.
const READ_SIZE: usize = 16 << 10;
const CALLERS: usize = 32;
const CALLS: usize = 120;

/// What a replica does with one request, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    Honest,
    Chunks,
    UntilClose,
    /// Another answer with the first.
    Twice,
    /// The same, where the first fills what is read at once.
    TwiceInPieces,
    /// What is no HTTP at all.
    Garbage,
    /// A body where none may be.
    BodyAfter204,
    CutHead,
    CutBody,
    CutChunks,
    CloseUnanswered,
    Silence,
    Interim,
    /// An answer before the request has been read, and another one for it.
    TooEarly,
}

use Trick::*;

const TRICKS: [Trick; 18] = [
    Honest,
    Chunks,
    Honest,
    Twice,
    TwiceInPieces,
    UntilClose,
    Honest,
    Garbage,
    BodyAfter204,
    CutHead,
    CutBody,
    Honest,
    CutChunks,
    CloseUnanswered,
    Interim,
    TooEarly,
    Silence,
    Honest,
];

impl Trick {
    fn of(number: usize) -> Self {
        // The callers' numbers come in turns; this mixes them.
        TRICKS[(number.wrapping_mul(2_654_435_761) >> 7) % TRICKS.len()]
    }
}

fn answer_of(id: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{id}", id.len())
}

/// An answer that is `size` bytes long with its head, of which the body begins with `id`.
fn answer_of_size(id: &str, size: usize) -> String {
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length:08}\r\n\r\n");
    let length = size - head(0).len();
    format!("{}{id:.<length$}", head(length))
}

/// The number in the target of a request, and the request taken from what has come. `None`: closed.
async fn next_request(connection: &mut Client) -> Option<(usize, String)> {
    let end = loop {
        if let Some(at) = connection.left.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        if !connection.more().await {
            return None;
        }
    };
    let rest = connection.left.split_off(end);
    let head = String::from_utf8(std::mem::replace(&mut connection.left, rest)).expect("text");
    let id = head.split(' ').nth(1).expect("a target").trim_start_matches('/').to_owned();
    let number = id.split('-').next_back().and_then(|number| number.parse().ok()).expect("a number");
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if Trick::of(number) != TooEarly {
        connection.exactly(length.unwrap_or(0)).await;
    }
    Some((number, id))
}

async fn tricky() -> SocketAddr {
    replica(|mut connection, _| async move {
        while let Some((number, id)) = next_request(&mut connection).await {
            let own = answer_of(&id);
            let text = match Trick::of(number) {
                Honest => own,
                Chunks => format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x};x\r\n{id}\r\n0\r\nT: x\r\n\r\n",
                    id.len()
                ),
                UntilClose => format!("HTTP/1.1 200 OK\r\n\r\n{id}"),
                Twice => format!("{own}{own}"),
                TwiceInPieces => format!("{}{own}", answer_of_size(&id, READ_SIZE)),
                Garbage => format!("{own}\r\n{id}"),
                BodyAfter204 => format!("HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{own}", own.len()),
                CutHead => format!("HTTP/1.1 200 OK\r\nX-Id: {id}"),
                CutBody => format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{id}"),
                CutChunks => format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{id}"),
                CloseUnanswered => return,
                Silence => {
                    connection.rest().await;
                    return;
                }
                Interim => format!("HTTP/1.1 103 Early Hints\r\nX-Id: {id}\r\n\r\n{own}"),
                TooEarly => format!("{own}{own}"),
            };
            // The gateway may have closed meanwhile.
            let sent = tokio::io::AsyncWriteExt::write_all(&mut connection.stream, text.as_bytes()).await;
            if sent.is_err() || matches!(Trick::of(number), UntilClose | CutHead | CutBody | CutChunks) {
                return;
            }
        }
    })
    .await
}

/// One call with a number of its own. `false`: the connection is at its end.
async fn call(client: &mut Client, number: usize) -> bool {
    let id = format!("id-{number}");
    let request = if number.is_multiple_of(3) {
        format!("POST /function/env/{id} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    } else {
        format!("GET /function/env/{id} HTTP/1.1\r\nHost: a\r\n\r\n")
    };
    let (trick, is_post) = (Trick::of(number), number.is_multiple_of(3));
    if tokio::io::AsyncWriteExt::write_all(&mut client.stream, request.as_bytes()).await.is_err() {
        return false;
    }
    if trick == Silence && !number.is_multiple_of(4) {
        // Leaves without an answer.
        return false;
    }
    let context = format!("{trick:?} for {id}");
    let Some(mut head) = head(client).await else { panic!("closed without an answer: {context}") };
    if head.0 == 103 {
        assert!(head.1.contains(&format!("x-id: {id}\r\n")), "{context}: {}", head.1);
        head = self::head(client).await.expect("an answer after the interim one");
    }
    let (code, head) = head;
    let expected: &[u16] = match trick {
        BodyAfter204 => &[204],
        CloseUnanswered | CutHead => &[502],
        Silence => &[504],
        CutBody | CutChunks => &[200, 502],
        // The body may not have left yet, and then the call is not over.
        _ => &[200],
    };
    assert!(expected.contains(&code), "{context}: {code} {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let body = match length {
        _ if code == 204 => return true,
        Some(length) => match take(client, length).await {
            Some(body) => body,
            None => {
                assert_eq!(trick, CutBody, "{context} was cut");
                return false;
            }
        },
        None => match chunks(client).await {
            Some(body) => body,
            None => {
                assert_eq!(trick, CutChunks, "{context} was cut");
                return false;
            }
        },
    };
    let body = String::from_utf8(body).expect("text");
    if code == 200 {
        assert_eq!(body.trim_end_matches('.'), id, "{context} got what is another's (post: {is_post})");
    } else {
        assert!(body.contains("env.openfaas-fn"), "{context}: {body}");
    }
    !head.contains("connection: close")
}

async fn head(client: &mut Client) -> Option<(u16, String)> {
    let end = loop {
        if let Some(at) = client.left.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        if !client.more().await {
            return None;
        }
    };
    let rest = client.left.split_off(end);
    let head =
        String::from_utf8(std::mem::replace(&mut client.left, rest)).expect("text").to_ascii_lowercase();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Some((code, head))
}

async fn take(client: &mut Client, count: usize) -> Option<Vec<u8>> {
    while client.left.len() < count {
        if !client.more().await {
            return None;
        }
    }
    let rest = client.left.split_off(count);
    Some(std::mem::replace(&mut client.left, rest))
}

async fn chunks(client: &mut Client) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let at = loop {
            match client.left.windows(2).position(|part| part == b"\r\n") {
                Some(at) => break at,
                None if !client.more().await => return None,
                None => {}
            }
        };
        let line = take(client, at + 2).await?;
        let size = usize::from_str_radix(str::from_utf8(&line).expect("text").trim(), 16).expect("a size");
        let chunk = take(client, size + 2).await?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_to_the_one_who_asked_or_to_nobody() {
    let gate =
        Gate::with(&[tricky().await, tricky().await], |view, _| view.timeout = Duration::from_secs(1)).await;
    let gate = Arc::new(gate);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let gate = gate.clone();
        callers.spawn(async move {
            let mut client = gate.connect().await;
            for n in 0..CALLS {
                if !call(&mut client, caller * CALLS + n).await {
                    client = gate.connect().await;
                }
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.expect("every caller got its own");
    }
    eventually!(gate.entry.stats.in_flight() == 0, "a call is still counted");
    assert!(
        gate.entry.view().endpoints.iter().all(|endpoint| endpoint.load() == 0),
        "a replica still has calls"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_answer_behind_a_long_one_is_nobodys() {
    let replica = replica(|mut connection, number| async move {
        let first = answer_of_size(&format!("first-{number}"), READ_SIZE);
        while connection.more().await {
            connection.left.clear();
            connection.send(format!("{first}{}", answer_of("stale"))).await;
        }
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    // One thread serves them one after the other, without a pause in which it could hear of the rest.
    for _ in 0..20 {
        client.send("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10)).await;
        for _ in 0..10 {
            let answer = client.answer().await;
            assert!(answer.body.starts_with("first-"), "{}", answer.body);
        }
    }
}

/// A function whose server does not look for a body where none is usual: it takes it for a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_function_takes_for_a_request_has_no_answer() {
    let replica = replica(|mut connection, _| async move {
        loop {
            let head = match connection.left.windows(4).position(|part| part == b"\r\n\r\n") {
                Some(at) => {
                    let rest = connection.left.split_off(at + 4);
                    String::from_utf8(std::mem::replace(&mut connection.left, rest)).expect("text")
                }
                None if connection.more().await => continue,
                None => return,
            };
            let target = head.split(' ').nth(1).expect("a target").to_owned();
            if target == "/stolen" {
                // Until the next caller's request has come.
                connection.more().await;
            }
            connection.send(answer_of(&target)).await;
        }
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let hidden = "GET /stolen HTTP/1.1\r\nHost: a\r\n\r\n";
    for method in ["GET", "DELETE", "OPTIONS"] {
        let mut attacker = gate.connect().await;
        let length = hidden.len();
        attacker
            .send(format!(
                "{method} /function/env/own HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{hidden}"
            ))
            .await;
        assert_eq!(attacker.answer().await.body, "/own");
        // On the attacker's thread, which keeps the connection to the replica.
        attacker.send("GET /function/env/next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(attacker.answer().await.body, "/next", "after {method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_only_after_an_exchange_without_doubts() {
    for (request, answer, kept) in [
        ("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK\r\nContent-Length: 0", true),
        (
            "GET /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "200 OK\r\nContent-Length: 0",
            false,
        ),
        (
            "POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            "200 OK\r\nContent-Length: 0",
            true,
        ),
        ("HEAD /function/env HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK\r\nContent-Length: 2", false),
        ("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n", "204 No Content", true),
        ("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n", "204 No Content\r\nContent-Length: 2", false),
        (
            "GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n",
            "304 Not Modified\r\nTransfer-Encoding: chunked",
            false,
        ),
    ] {
        let replica = replica(move |mut connection, number| async move {
            while connection.more().await {
                connection.left.clear();
                connection.send(format!("HTTP/1.1 {answer}\r\nX-Connection: {number}\r\n\r\n")).await;
            }
        })
        .await;
        let gate = Gate::new(&[replica]).await;
        let mut client = gate.connect().await;
        for number in 0..2 {
            client.send(request).await;
            let number = if kept { 0 } else { number };
            assert_eq!(
                client.head().await.header("x-connection"),
                Some(&*number.to_string()),
                "{request} {answer}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_without_end_are_an_error() {
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        let many = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
        while tokio::io::AsyncWriteExt::write_all(&mut connection.stream, many.as_bytes()).await.is_ok() {}
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    client.send("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut head = client.head().await;
    while head.code == 103 {
        head = client.head().await;
    }
    assert_eq!(head.code, 502);
    client.until("its interim answers do not end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_takes_no_header_away_that_a_message_needs() {
    let gate = Gate::new(&[mirror().await]).await;
    let answer = gate
        .call(
            "POST /function/env HTTP/1.1\r\nHost: shop\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
             Content-Length: 2\r\nConnection: Host, X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-For, Content-Length\r\n\r\nhi",
        )
        .await;
    let got = answer.body.to_ascii_lowercase();
    for line in [
        "host: shop",
        "x-forwarded-host: shop",
        "x-forwarded-proto: http",
        "x-forwarded-for: 127.0.0.1",
        "content-length: 2",
    ] {
        assert_eq!(got.lines().filter(|got| *got == line).count(), 1, "{line:?} in {got}");
    }

    let replica =
        super::answering("HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 2\r\n\r\nok")
            .await;
    let gate = Gate::new(&[replica]).await;
    let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.header("content-length"), answer.body.as_str()), (Some("2"), "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_websocket_client_sends_early_is_part_of_the_tunnel() {
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").await;
        let got = connection.until("GET / HTTP/1.1\r\n\r\n").await;
        connection.send(got).await;
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    client
        .send(
            "GET /function/env HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
             earlyGET / HTTP/1.1\r\n\r\n",
        )
        .await;
    assert_eq!(client.head().await.code, 101);
    assert_eq!(client.rest().await, b"earlyGET / HTTP/1.1\r\n\r\n");
    tokio::time::timeout(PATIENCE, async {
        while gate.entry.stats.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the tunnel is still counted");
}
