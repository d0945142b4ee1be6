//! What a stop waits for, and what it does to those who are connected.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Gate, replica};

#[tokio::test(flavor = "multi_thread")]
async fn stopping_lets_a_running_call_end() {
    let mut gate = Gate::new(&[]).await;
    let mut client = gate.connect().await;
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na").await;
    // The request is under way once its thread has read it: threads serve what has come in order, and
    // new connections go to each in turn, so one of these is answered after it.
    let (mut idle, mut another) = (gate.connect().await, gate.connect().await);
    for _ in 0..8 {
        another = std::mem::replace(&mut idle, gate.connect().await);
        idle.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
        idle.answer().await;
    }
    eventually!(gate.connect().await.stream.peer_addr().is_ok(), "the gateway does not listen");
    gate.begin_to_stop().await;
    another.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = another.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (200, Some("close")), "a kept connection");
    client.send("b").await;
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("ab", Some("close")));
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    gate.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_promised_to_persist_does() {
    let finish = Arc::new(Notify::new());
    let replica = {
        let finish = finish.clone();
        replica(move |mut connection, _| {
            let finish = finish.clone();
            async move {
                for _ in 0..2 {
                    connection.until("\r\n\r\n").await;
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").await;
                    finish.notified().await;
                    connection.send("b").await;
                }
            }
        })
    };
    let mut gate = Gate::new(&[replica.await]).await;
    let mut client = gate.connect().await;
    client.send("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.code, head.header("connection")), (200, None));
    gate.begin_to_stop().await;
    finish.notify_one();
    assert_eq!(client.exactly(2).await, b"ab");
    client.send("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    finish.notify_one();
    let answer = client.answer().await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("ab", Some("close")));
    gate.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_not_waited_for_and_a_call_beside_it_is() {
    let replica = replica(|mut connection, _| async move {
        let head = connection.until("\r\n\r\n").await.to_ascii_lowercase();
        if head.contains("upgrade: websocket") {
            connection
                .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .await;
            connection.rest().await;
        } else {
            let length = head.lines().any(|line| line == "content-length: 2");
            assert!(length, "{head}");
            connection.exactly(2).await;
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
        }
    })
    .await;
    // Longer than the test waits.
    let mut gate = Gate::with(&[replica], |_, limits| limits.drain = Duration::from_secs(3600)).await;
    let mut tunnel = gate.connect().await;
    tunnel
        .send("GET /function/env HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(tunnel.head().await.code, 101);
    let mut client = gate.connect().await;
    client.send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na").await;
    eventually!(gate.entry.peek().endpoints[0].load() == 2, "both are under way");
    gate.begin_to_stop().await;
    // Longer than what is quiet is given.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!gate.served.is_finished(), "the call is cut off");
    client.send("b").await;
    assert_eq!(client.answer().await.body, "done");
    gate.stopped().await;
    assert_eq!(tunnel.rest().await, b"");
}
