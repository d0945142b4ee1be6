//! Bodies: streamed both ways, delimited once, within their limits.

use std::time::Duration;

use super::{Gate, answering, mirror, replica};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_stream_at_the_same_time() {
    // Answers each chunk as it comes, before the request has ended.
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for word in ["one", "two"] {
            connection.until(&format!("3\r\n{word}\r\n")).await;
            connection.send(format!("4\r\n<{}>\r\n", &word[..2])).await;
        }
        connection.until("0\r\n\r\n").await;
        connection.send("0\r\n\r\n").await;
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    client.send("POST /function/env HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.code, 200);
    for (word, echo) in [("one", "<on>"), ("two", "<tw>")] {
        client.send(format!("3\r\n{word}\r\n")).await;
        client.until(&format!("4\r\n{echo}\r\n")).await;
    }
    client.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_not_held_back() {
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").await;
        // Only once the client has seen the first event, which it says by closing.
        connection.rest().await;
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    client.send("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.head().await.header("transfer-encoding"), Some("chunked"));
    client.until("data: 1\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_and_chunks_arrive_as_such_in_any_pieces() {
    let gate = Gate::new(&[mirror().await]).await;
    for (header, body) in [
        ("Content-Length: 11", "hello world"),
        ("Transfer-Encoding: chunked", "5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nT: x\r\n\r\n"),
    ] {
        let request = format!("POST /function/env HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n{body}");
        let mut client = gate.connect().await;
        for size in [1, 7, request.len()] {
            for piece in request.as_bytes().chunks(size) {
                client.send(piece).await;
                tokio::task::yield_now().await;
            }
            let answer = client.answer().await;
            assert!(answer.body.ends_with("\r\n\r\nhello world"), "{}", answer.body);
            let seen = answer.body.to_ascii_lowercase();
            let count = |header: &str| seen.matches(&header.to_ascii_lowercase()).count();
            // Chunks that come together have a length from then on.
            assert_eq!(count("Content-Length: 11") + count("Transfer-Encoding: chunked"), 1, "{seen}");
            assert!(count(header) == 1 || header.starts_with("Transfer"), "{seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_unchanged() {
    let gate = Gate::new(&[mirror().await]).await;
    let body: String =
        (0..300_000).map(|n| char::from(b'a' + u8::try_from(n % 23).expect("small"))).collect();
    for request in [
        format!("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        format!(
            "POST /function/env HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
    ] {
        let answer = gate.call(&request).await;
        assert_eq!(answer.body.split_once("\r\n\r\n").map(|(_, got)| got == body), Some(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_before_anything_is_sent() {
    let gate = Gate::with(&[super::nowhere().await], |view, _| view.body_limit = 10).await;
    let mut client = gate.connect().await;
    client
        .send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (413, Some("close")));
    assert!(answer.body.contains("10 bytes") && answer.body.contains("ingle.body-limit"), "{}", answer.body);
}

/// Many clients look for an answer only when they have sent everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_on_sending_gets_its_refusal() {
    let gate = Gate::with(&[super::nowhere().await], |view, _| view.body_limit = 10).await;
    let mut client = gate.connect().await;
    client.send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n").await;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
    for _ in 0..40 {
        tick.tick().await;
        client.send([b'x'; 100]).await;
    }
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (413, Some("close")));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_over_the_limit_are_cut_and_refused() {
    let (cut, was_cut) = tokio::sync::oneshot::channel();
    let cut = std::sync::Arc::new(std::sync::Mutex::new(Some(cut)));
    let replica = replica(move |mut connection, _| {
        let cut = cut.clone();
        async move {
            let got = connection.rest().await;
            if let Some(cut) = cut.lock().expect("no panic").take() {
                cut.send(got).expect("the test waits");
            }
        }
    })
    .await;
    let gate = Gate::with(&[replica], |view, _| view.body_limit = 10).await;
    let mut client = gate.connect().await;
    client
        .send("POST /function/env HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n")
        .await;
    // Once the function has the beginning.
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send("6\r\nabcdef\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (413, Some("close")), "{}", answer.body);
    let got = was_cut.await.expect("the connection ended");
    assert!(!got.ends_with(b"0\r\n\r\n"), "the function took the body for whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_continue_is_told_to() {
    let gate = Gate::new(&[mirror().await]).await;
    let mut client = gate.connect().await;
    client
        .send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hi").await;
    let answer = client.answer().await;
    assert!(
        answer.body.ends_with("hi") && !answer.body.to_ascii_lowercase().contains("expect"),
        "{}",
        answer.body
    );
    // One that does not wait is not told.
    client
        .send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi")
        .await;
    assert_eq!(client.answer().await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_could_be_read_in_two_ways_are_refused() {
    let gate = Gate::new(&[answering(OK).await]).await;
    for (headers, code) in [
        ("Content-Length: x", 400),
        ("Content-Length: -1", 400),
        ("Content-Length: 2\r\nContent-Length: 2", 400),
        ("Content-Length: 2\r\nContent-Length: 3", 400),
        ("Content-Length: 2\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: gzip", 501),
        ("Transfer-Encoding: chunked, identity", 501),
        ("Host: b", 400),
    ] {
        let answer = gate
            .call(&format!(
                "POST /function/env HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
            ))
            .await;
        assert_eq!((answer.code, answer.header("connection")), (code, Some("close")), "{headers}");
    }
    assert_eq!(gate.entry.stats.calls_started(), 0, "something reached the function");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_malformed_are_refused() {
    let gate = Gate::new(&[mirror().await]).await;
    for body in ["x\r\n", "5\nhello", "5\r\nhello!\r\n", "ffffffffffffffffff\r\n"] {
        let answer = gate
            .call(&format!(
                "POST /function/env HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            ))
            .await;
        assert_eq!((answer.code, answer.header("connection")), (400, Some("close")), "{body:?}");
        assert!(answer.body.contains("malformed"), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_in_order_are_refused() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Header: 1\r\n\r\n",
        "HTTP/3 200 OK\r\n\r\n",
        "hello\r\n\r\n",
    ] {
        let gate = Gate::new(&[answering(answer).await]).await;
        let got = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(got.code, 502, "{answer:?} gave {got:?}");
        assert!(got.body.contains("function env.openfaas-fn sent an answer"), "{}", got.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_a_huge_head_is_refused() {
    let head = format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(100_000));
    let gate = Gate::new(&[answering(head).await]).await;
    assert_eq!(gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await.code, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_does_not_look_whole() {
    for (head, rest) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "hi"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nhi\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\nhi\r\nzzz"),
    ] {
        let seen = std::sync::Arc::new(tokio::sync::Notify::new());
        let replica = {
            let seen = seen.clone();
            replica(move |mut connection, _| {
                let seen = seen.clone();
                async move {
                    connection.until("\r\n\r\n").await;
                    connection.send(head).await;
                    seen.notified().await;
                    connection.send(rest).await;
                }
            })
            .await
        };
        let gate = Gate::new(&[replica]).await;
        let mut client = gate.connect().await;
        client.send("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.head().await.code, 200);
        seen.notify_one();
        let rest = client.rest().await;
        assert!(rest.len() < 9 && !rest.ends_with(b"0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&rest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_at_once_is_an_error() {
    let gate =
        Gate::new(&[answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz").await])
            .await;
    let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.code, 502);
    assert!(answer.body.contains("its chunks are malformed"), "{}", answer.body);
    assert_eq!(answer.head.matches("http/1.1").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_body_is_passed_on() {
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    client.send("POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome").await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.body.as_str()), (401, "no"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_without_a_length_gets_one_and_others_stay_in_chunks() {
    let gate = Gate::new(&[mirror().await]).await;
    let head = "POST /function/env HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |body: &str| format!("{:x}\r\n{body}\r\n", body.len());
    let large = "x".repeat(100_000);
    for (name, pieces, body, has_length) in [
        ("none", vec!["0\r\n\r\n".to_owned()], String::new(), true),
        ("at once", vec![chunk("abc") + &chunk("def") + "0\r\n\r\n"], "abcdef".to_owned(), true),
        ("large", vec![chunk(&large) + "0\r\n\r\n"], large.clone(), false),
        ("slow", vec![chunk("abc"), chunk("def") + "0\r\n\r\n"], "abcdef".to_owned(), false),
    ] {
        let mut client = gate.connect().await;
        let mut rest = pieces.into_iter();
        client.send(head.to_owned() + &rest.next().expect("a piece")).await;
        for piece in rest {
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.send(piece).await;
        }
        let seen = client.answer().await.body;
        let (head, found) = seen.split_once("\r\n\r\n").expect("a head");
        let head = head.to_ascii_lowercase();
        assert!(found == body, "{name}: {head}");
        assert_eq!(head.contains(&format!("content-length: {}", body.len())), has_length, "{name}: {head}");
        assert_eq!(head.contains("transfer-encoding: chunked"), !has_length, "{name}: {head}");
    }
}
