//! Clients that are slow, malformed, impatient, or gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::{Client, Gate, PATIENCE, answering, endpoint, mirror, replica};
use crate::support::view::view;

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
async fn connections_over_the_limit_wait_until_a_call_ends() {
    let (address, mut begins, _ends) = watching("").await;
    let gate = Gate::with(&[address], |_, limits| limits.max_connections = 2).await;
    let mut first = gate.connect().await;
    let mut second = gate.connect().await;
    for client in [&mut first, &mut second] {
        client.send(GET).await;
        soon(&mut begins, "the call did not arrive").await;
    }
    let mut third = gate.connect().await;
    third.send(GET).await;
    assert!(tokio::time::timeout(SOON, begins.recv()).await.is_err(), "a third connection is served");
    drop(first);
    soon(&mut begins, "the third call did not arrive").await;
    // The second has not noticed anything.
    assert!(tokio::time::timeout(SOON, second.stream.readable()).await.is_err(), "a call in flight was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_waits_longest_for_its_client_gives_way_to_a_new_one() {
    let gate = Gate::with(&[answering(OK).await], |_, limits| limits.max_connections = 2).await;
    let mut idle = gate.connect().await;
    idle.send(GET).await;
    assert_eq!(idle.answer().await.code, 200);
    tokio::time::sleep(SOON / 10).await;
    let mut unfinished = gate.connect().await;
    unfinished.send("GET /function/env HTTP/1.1\r\nHo").await;
    tokio::time::sleep(SOON).await;
    let mut third = gate.connect().await;
    third.send(GET).await;
    assert_eq!(third.answer().await.code, 200);
    assert_eq!(idle.rest().await, b"", "an idle connection is closed without a word");
    // The next in the row is told why.
    tokio::time::sleep(SOON / 10).await;
    let mut fourth = gate.connect().await;
    fourth.send(GET).await;
    assert_eq!(fourth.answer().await.code, 200);
    let answer = unfinished.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (408, Some("close")));
    assert!(answer.body.contains("gateway.max_connections"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_being_answered_gives_way_to_nobody_though_its_body_is_not_here() {
    let (address, mut begins, mut ends) =
        watching("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
    let replicas = [address];
    let gate = Gate::with(&replicas, |_, limits| {
        (limits.max_connections, limits.request_memory, limits.threads) = (9, 128 << 10, 1);
    });
    let gate = gate.await;
    let filler = "x".repeat(20_000);
    let mut answered = Vec::new();
    for _ in 0..9 {
        let mut client = gate.connect().await;
        let head = "POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 10";
        client.send(format!("{head}\r\nX: {filler}\r\n\r\nabc")).await;
        assert_eq!(client.head().await.code, 200);
        soon(&mut begins, "the call did not arrive").await;
        answered.push(client);
    }
    let mut next = gate.connect().await;
    next.send(GET).await;
    assert!(tokio::time::timeout(SOON, begins.recv()).await.is_err(), "one call more is made");
    assert!(ends.try_recv().is_err(), "a call that is being answered has ended");
    answered.pop();
    assert_eq!(next.head().await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_client_that_holds_the_most_gives_way() {
    let replicas = [mirror().await];
    let gate = Gate::with(&replicas, |_, limits| {
        (limits.request_memory, limits.threads) = (256 << 10, 1);
        limits.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")].into();
    });
    let gate = gate.await;
    let unfinished = |client: &str| {
        let filler = "x".repeat(10_000);
        let head =
            format!("POST /function/env HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\nX: {filler}");
        format!("{head}\r\nContent-Length: 10\r\n\r\nx")
    };
    let mut honest = gate.connect().await;
    honest.send(unfinished("192.0.2.1")).await;
    tokio::time::sleep(SOON / 10).await;
    let mut flood = Vec::new();
    for _ in 0..20 {
        let mut client = gate.connect().await;
        client.send(unfinished("203.0.113.9, 192.0.2.2")).await;
        flood.push(client);
    }
    assert_eq!(flood[0].answer().await.code, 408);
    let readable = tokio::time::timeout(SOON, honest.stream.readable()).await;
    assert!(readable.is_err(), "another client of the proxy was closed");
    honest.send("xxxxxxxxx").await;
    assert_eq!(honest.answer().await.code, 200);
}

/// A gateway for few unfinished requests: 16 KiB each, if they are short.
async fn with_little_memory(replica: std::net::SocketAddr) -> Gate {
    Gate::with(&[replica], |_, limits| (limits.request_memory, limits.threads) = (128 << 10, 1)).await
}

/// Returns how many of the first of 20 clients were told to give way: some, and not all.
async fn evicted(clients: &mut [Client], what: &str) -> usize {
    let mut closed = 0;
    for client in clients {
        if tokio::time::timeout(SOON, client.stream.readable()).await.is_err() {
            break;
        }
        let answer = client.answer().await;
        assert_eq!((answer.code, answer.header("connection")), (408, Some("close")), "{what}");
        assert!(answer.body.contains("gateway.request_memory"), "{what}: {}", answer.body);
        closed += 1;
    }
    assert!((1..20).contains(&closed), "{what}: {closed} were closed");
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_its_function_gives_way_until_its_body_is_here() {
    let unread = replica(|connection, _| async move {
        std::future::pending::<()>().await;
        drop(connection);
    });
    let cases = [("no replica", vec![], 1), ("a replica that does not read", vec![unread.await], 16 << 20)];
    for (what, replicas, size) in cases {
        let gate = Gate::with(&replicas, |view, limits| {
            (limits.request_memory, limits.threads) = (128 << 10, 1);
            view.body_limit = u64::MAX;
        });
        let gate = gate.await;
        let head = "POST /function/env HTTP/1.1\r\nHost: a\r\n";
        let mut whole = Vec::new();
        let small = "Content-Length: 3\r\n\r\nabc";
        let chunks = "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n";
        for body in [small, chunks] {
            let mut client = gate.connect().await;
            client.send(format!("{head}{body}")).await;
            whole.push(client);
        }
        let mut unfinished = Vec::new();
        for _ in 0..20 {
            let mut client = gate.connect().await;
            let filler = "x".repeat(10_000);
            client.send(format!("{head}Content-Length: 99999999\r\nX: {filler}\r\n\r\n")).await;
            // As much as is taken.
            let body = vec![b'x'; size];
            let _ = tokio::time::timeout(SOON, client.stream.write_all(&body)).await;
            unfinished.push(client);
        }
        evicted(&mut unfinished, what).await;
        for client in &whole {
            let readable = tokio::time::timeout(SOON, client.stream.readable()).await;
            assert!(readable.is_err(), "{what}: a call that has arrived whole was closed");
        }
        if replicas.is_empty() {
            gate.publish(view("env", vec![endpoint(mirror().await)]));
            for client in &mut whole {
                assert_eq!(client.answer().await.code, 200, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unfinished_request_that_waits_longest_gives_its_memory_to_the_next() {
    let headers = format!("Host: a\r\nContent-Length: 262144\r\nX: {}\r\n\r\n", "x".repeat(10_000));
    let cases = [
        ("head", "GET /function/env HTTP/1.1\r\nHo".to_owned()),
        ("body of a call", format!("POST /function/env HTTP/1.1\r\n{headers}x")),
        ("body of an async call", format!("POST /async-function/env HTTP/1.1\r\n{headers}x")),
        ("body of a skill", format!("POST / HTTP/1.1\r\n{headers}{}", "x".repeat(20_000))),
        ("body of the API", format!("POST /echo HTTP/1.1\r\n{headers}x")),
    ];
    for (what, text) in cases {
        let gate = with_little_memory(mirror().await).await;
        let mut served = gate.connect().await;
        served.send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(served.answer().await.code, 200);
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = gate.connect().await;
            client.send(&text).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            clients.push(client);
        }
        let closed = evicted(&mut clients, what).await;
        for client in &mut clients[closed..] {
            let readable = tokio::time::timeout(Duration::from_millis(1), client.stream.readable()).await;
            assert!(readable.is_err(), "{what}: one that waits less was closed");
        }
        // What is idle holds nothing, and the last one is served when the rest of it comes.
        served.send(GET).await;
        assert_eq!(served.answer().await.code, 200, "{what}");
        if what == "head" {
            let last = clients.last_mut().expect("the last");
            last.send("st: a\r\n\r\n").await;
            assert_eq!(last.answer().await.code, 200);
        }
    }
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
