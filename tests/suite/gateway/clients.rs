//! Clients that are slow, malformed, impatient, or gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::{Gate, PATIENCE, answering, mirror, replica};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n";
const SOON: Duration = Duration::from_millis(200);

/// A replica that tells when a connection to it ends.
async fn watching(
    answer: &'static str,
) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<()>, mpsc::UnboundedReceiver<()>) {
    let (begun, begins) = mpsc::unbounded_channel();
    let (ended, ends) = mpsc::unbounded_channel();
    let address = replica(move |mut connection, _| {
        let (begun, ended) = (begun.clone(), ended.clone());
        async move {
            connection.until("\r\n\r\n").await;
            connection.send(answer).await;
            begun.send(()).expect("the test waits");
            connection.rest().await;
            ended.send(()).expect("the test waits");
        }
    })
    .await;
    (address, begins, ends)
}

async fn soon(events: &mut mpsc::UnboundedReceiver<()>, what: &str) {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect(what).expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_call() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome"] {
        let (address, mut begins, mut ends) = watching(answer).await;
        let gate = Gate::new(&[address]).await;
        let mut client = gate.connect().await;
        client.send(GET).await;
        soon(&mut begins, "the call did not arrive").await;
        drop(client);
        soon(&mut ends, "the call goes on").await;
        eventually!(gate.entry.stats.in_flight() == 0, "the call is still counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_the_middle_of_its_body_cancels_its_call() {
    let (address, mut begins, mut ends) = watching("").await;
    let gate = Gate::new(&[address]).await;
    let mut client = gate.connect().await;
    client.send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    soon(&mut begins, "the call did not arrive").await;
    drop(client);
    soon(&mut ends, "the call goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_closed_and_a_slow_head_is_refused() {
    let gate = Gate::with(&[answering(OK).await], |_, limits| limits.idle_timeout = SOON).await;
    let mut silent = gate.connect().await;
    let mut slow = gate.connect().await;
    slow.send("GET /function/env HTTP/1.1\r\nHo").await;
    let answer = slow.answer().await;
    assert_eq!(answer.code, 408);
    assert!(answer.body.contains("gateway.idle_timeout"), "{}", answer.body);
    assert_eq!(silent.rest().await, b"");
    let mut between = gate.connect().await;
    between.send(GET).await;
    assert_eq!(between.answer().await.code, 200);
    assert_eq!(between.rest().await, b"", "an idle connection is closed without a word");
}

#[tokio::test(flavor = "multi_thread")]
async fn dripping_does_not_keep_a_head_alive() {
    let gate = Gate::with(&[answering(OK).await], |_, limits| limits.idle_timeout = SOON).await;
    let mut client = gate.connect().await;
    client.send("GET /function/env HTTP/1.1\r\nHost: a\r\n").await;
    let begin = std::time::Instant::now();
    let mut tick = tokio::time::interval(SOON / 10);
    while client.stream.write_all(b"X: y\r\n").await.is_ok() {
        tick.tick().await;
        assert!(begin.elapsed() < PATIENCE, "still open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_refused() {
    let (address, _begins, mut ends) = watching("").await;
    let gate = Gate::with(&[address], |_, limits| limits.idle_timeout = SOON).await;
    let mut client = gate.connect().await;
    client.send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    let answer = client.answer().await;
    assert_eq!(answer.code, 408);
    assert!(answer.body.contains("did not arrive in time"), "{}", answer.body);
    soon(&mut ends, "the replica still waits for the body").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let replica = replica(move |mut connection, _| {
        let ended = ended.clone();
        async move {
            connection.until("\r\n\r\n").await;
            connection.send("HTTP/1.1 200 OK\r\n\r\n").await;
            let piece = vec![b'x'; 1 << 16];
            while connection.stream.write_all(&piece).await.is_ok() {}
            ended.send(()).expect("the test waits");
        }
    })
    .await;
    let gate = Gate::with(&[replica], |_, limits| limits.idle_timeout = SOON).await;
    let mut client = gate.connect().await;
    client.send(GET).await;
    soon(&mut ends, "the function is still read from").await;
    eventually!(gate.entry.stats.in_flight() == 0, "the call is still counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_heads_are_refused() {
    let gate = Gate::with(&[mirror().await], |_, limits| limits.header_limit = 20_000).await;
    let with =
        |size: usize| format!("GET /function/env HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(size));
    let answer = gate.call(&with(19_000)).await;
    assert_eq!(answer.code, 200, "{answer:?}");
    for request in [
        with(20_000),
        with(200_000),
        format!("GET /function/env HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)),
    ] {
        let answer = gate.call(&request).await;
        assert_eq!((answer.code, answer.header("connection")), (431, Some("close")), "{}", request.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused() {
    let gate = Gate::new(&[mirror().await]).await;
    for (text, code) in [
        ("hello\r\n\r\n", 400),
        ("GET /function/env HTTP/1.1\r\n\r\n", 400),
        ("GET /function/env HTTP/1.1\r\nHost: a\r\nB c: d\r\n\r\n", 400),
        ("GET /function/env HTTP/1.1\r\nHost: a\r\nB: \0\r\n\r\n", 400),
        ("GET /function/env HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET /function/env HTTP/1.1\nHost: a\n\n", 400),
        ("CONNECT /function/env HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", 405),
    ] {
        assert_eq!(gate.call(text).await.code, code, "{text:?}");
    }
    let long = "M".repeat(33);
    for target in ["/function/env", "/async-function/env", "/hello"] {
        let answer = gate.call(&format!("{long} {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!((answer.code, answer.body.as_str()), (400, "the method has more than 32 bytes\n"));
    }
    let tokens = "a,".repeat(33);
    let text = format!("GET /function/env HTTP/1.1\r\nHost: a\r\nConnection: {tokens}\r\n\r\n");
    assert_eq!(gate.call(&text).await.code, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_wait() {
    let gate = Gate::with(&[answering(OK).await], |_, limits| limits.max_connections = 2).await;
    let mut first = gate.connect().await;
    let mut second = gate.connect().await;
    for client in [&mut first, &mut second] {
        client.send(GET).await;
        assert_eq!(client.answer().await.code, 200);
    }
    let mut third = gate.connect().await;
    third.send(GET).await;
    let early = tokio::time::timeout(SOON, third.stream.readable()).await;
    assert!(early.is_err(), "a third connection is served");
    drop(first);
    assert_eq!(third.answer().await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_get_their_own_answers() {
    let gate = Arc::new(Gate::new(&[mirror().await, mirror().await]).await);
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..32 {
        let gate = gate.clone();
        clients.spawn(async move {
            let mut client = gate.connect().await;
            for m in 0..50 {
                let body = format!("{n}-{m}");
                let length = body.len();
                client
                    .send(format!(
                        "POST /function/env/{n}/{m} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
                    ))
                    .await;
                let answer = client.answer().await;
                assert!(answer.body.starts_with(&format!("POST /{n}/{m} ")), "{}", answer.body);
                assert!(answer.body.ends_with(&format!("\r\n\r\n{body}")), "{}", answer.body);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.expect("no client failed");
    }
    // The last bytes of an answer are with the client before its call is counted.
    let stats = &gate.entry.stats;
    eventually!(stats.invocations() == 32 * 50, "{} calls were counted", stats.invocations());
}
