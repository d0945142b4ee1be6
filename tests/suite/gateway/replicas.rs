//! Replicas that close, refuse, are late, or are not there yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use directory::Phase;

use super::{Gate, answering, endpoint, nowhere, replica, view};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST /function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

/// Answers one request on each connection, and closes the connection when the next one comes: what
/// a call sees when a replica closes a kept connection at the wrong moment.
async fn closing(counter: Arc<AtomicUsize>) -> std::net::SocketAddr {
    replica(move |mut connection, _| {
        let counter = counter.clone();
        async move {
            connection.until("\r\n\r\n").await;
            counter.fetch_add(1, Ordering::Relaxed);
            connection.send(OK).await;
            connection.more().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_closes_is_replaced_unseen() {
    let counter = Arc::new(AtomicUsize::new(0));
    let gate = Gate::new(&[closing(counter.clone()).await]).await;
    let mut client = gate.connect().await;
    for _ in 0..5 {
        client.send(GET).await;
        let answer = client.answer().await;
        assert_eq!((answer.code, answer.body.as_str()), (200, "ok"));
    }
    assert_eq!(counter.load(Ordering::Relaxed), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_must_not_be_repeated_is_not() {
    let gate = Gate::new(&[closing(Arc::default()).await]).await;
    let mut client = gate.connect().await;
    client.send(GET).await;
    assert_eq!(client.answer().await.code, 200);
    client.send(POST).await;
    let answer = client.answer().await;
    assert_eq!(answer.code, 502);
    assert!(answer.body.starts_with("function env.openfaas-fn could not be reached: "), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_beforehand_is_not_used_even_for_that() {
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        connection.send(OK).await;
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    for _ in 0..20 {
        client.send(POST).await;
        assert_eq!(client.answer().await.code, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_refuses_is_passed_over() {
    let gate = Gate::new(&[nowhere().await, answering(OK).await]).await;
    for _ in 0..3 {
        let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.code, 200);
    }
    assert!(gate.entry.view().endpoints.iter().all(|endpoint| endpoint.load() == 0), "a count is left over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_refuses_for_a_moment_is_tried_again() {
    let address = nowhere().await;
    let gate = Gate::new(&[address]).await;
    let mut client = gate.connect().await;
    client.send(GET).await;
    eventually!(gate.entry.stats.in_flight() == 1, "the call has not begun");
    let listener = tokio::net::TcpListener::bind(address).await.expect("still free");
    let (mut stream, _) = listener.accept().await.expect("a call");
    tokio::io::AsyncWriteExt::write_all(&mut stream, OK.as_bytes()).await.expect("open");
    assert_eq!(client.answer().await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_refuses_to_the_end_is_unreachable() {
    let gate = Gate::with(&[nowhere().await], |view, _| view.timeout = Duration::from_secs(1)).await;
    let answer = gate.call(GET).await;
    assert_eq!(answer.code, 502);
    assert!(
        answer.body.contains("env.openfaas-fn could not be reached: Connection refused"),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_replicas_does_not_end_them_all() {
    let calls = Arc::new(AtomicUsize::new(0));
    let mut replicas = Vec::new();
    for _ in 0..5 {
        let calls = calls.clone();
        replicas.push(
            replica(move |mut connection, _| {
                let calls = calls.clone();
                async move {
                    connection.until("\r\n\r\n").await;
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
            .await,
        );
    }
    let gate = Gate::new(&replicas).await;
    assert_eq!(gate.call(GET).await.code, 502);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_busy_replica_is_called() {
    let silent = || replica(|mut connection, _| async move { drop(connection.rest().await) });
    let gate = Gate::new(&[silent().await, silent().await, silent().await]).await;
    let mut clients = Vec::new();
    for n in 1..=6 {
        let mut client = gate.connect().await;
        client.send(GET).await;
        clients.push(client);
        let loads = || gate.entry.view().endpoints.iter().map(|endpoint| endpoint.load()).collect::<Vec<_>>();
        eventually!(loads().iter().sum::<u32>() == n, "{:?}", loads());
        let (most, least) = (loads().into_iter().max(), loads().into_iter().min());
        assert!(most <= least.map(|least| least + 1), "{:?}", loads());
    }
    drop(clients);
    eventually!(gate.entry.stats.in_flight() == 0, "calls of clients that went away are not cancelled");
    assert!(gate.entry.view().endpoints.iter().all(|endpoint| endpoint.load() == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wake_a_function_and_wait_for_it() {
    let gate = Gate::with(&[], |view, _| view.phase = Phase::Stopped).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = gate.connect().await;
        client.send(GET).await;
        clients.push(client);
    }
    tokio::time::timeout(super::PATIENCE, gate.entry.wanted.notified()).await.expect("the owner is rung for");
    eventually!(gate.entry.waiting.load(Ordering::Relaxed) == 8, "not all wait");
    gate.publish(view("env", Vec::new()));
    gate.publish(view("env", vec![endpoint(answering(OK).await)]));
    for client in &mut clients {
        assert_eq!(client.answer().await.code, 200);
    }
    assert_eq!(gate.entry.waiting.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_calls_wait() {
    let gate = Gate::with(&[], |_, limits| limits.max_waiting = 2).await;
    let mut waiting = Vec::new();
    for n in 1..=2 {
        let mut client = gate.connect().await;
        client.send(GET).await;
        waiting.push(client);
        eventually!(gate.entry.waiting.load(Ordering::Relaxed) == n, "{n} do not wait");
    }
    let answer = gate.call(GET).await;
    assert_eq!((answer.code, answer.header("retry-after")), (503, Some("1")));
    assert!(answer.body.contains("2 calls wait"), "{}", answer.body);
    drop(waiting);
    eventually!(gate.entry.waiting.load(Ordering::Relaxed) == 0, "those that went away still wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_waited_for_is_said_at_once() {
    for (phase, code, text) in [
        (Phase::Failed, 503, "function env.openfaas-fn is not available\n"),
        (Phase::Removing, 404, "function env.openfaas-fn was not found: see 'ingle list'\n"),
    ] {
        let gate = Gate::with(&[], |view, _| {
            view.phase = phase;
            view.reason = Some("no entrypoint".to_owned());
        })
        .await;
        let answer = gate.call(GET).await;
        assert_eq!((answer.code, answer.body.as_str()), (code, text));
    }
}

/// Covers every reason and every kind of caller, because a reason may contain the function's last output.
#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_learn_why_a_function_does_not_start() {
    let quick = Duration::from_millis(150);
    let in_a_minute = || Some((Instant::now() + Duration::from_secs(60)).into());
    for phase in [Phase::Pulling, Phase::Starting, Phase::BackingOff, Phase::Failed, Phase::Stopped] {
        for crash_looping in [false, true] {
            let gate = Gate::with(&[], |view, _| {
                (view.phase, view.crash_looping, view.timeout) = (phase, crash_looping, quick);
                view.retry_at = in_a_minute().filter(|_| phase == Phase::BackingOff);
                view.reason = Some("its last output: postgres://app:canary@db".to_owned());
            })
            .await;
            for accept in ["text/plain", "application/json"] {
                let get = format!(
                    "GET /function/env HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nX-Call-Id: the-id\r\n\r\n"
                );
                let answer = gate.call(&get).await;
                let shown = format!("{phase:?} {crash_looping}: {answer:?}");
                assert!(matches!(answer.code, 503 | 504), "{shown}");
                assert!(answer.body.contains("function env.openfaas-fn is not available"), "{shown}");
                assert!(!shown.contains("canary") && !shown.contains("output"), "{shown}");
                assert_eq!(answer.header("x-call-id"), Some("the-id"), "{shown}");
                assert!(answer.header("retry-after").is_some(), "{shown}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_does_not_wait_for_a_function_whose_starts_fail_in_a_row() {
    for phase in [Phase::BackingOff, Phase::Pulling, Phase::Starting] {
        let gate = Gate::with(&[], |view, _| {
            (view.phase, view.timeout, view.crash_looping) = (phase, Duration::from_secs(60), true);
            view.retry_at =
                Some((Instant::now() + Duration::from_secs(5)).into()).filter(|_| phase == Phase::BackingOff);
        })
        .await;
        let begin = Instant::now();
        let answer = gate.call(GET).await;
        assert!(begin.elapsed() < Duration::from_secs(3), "{phase:?}: it waited {:?}", begin.elapsed());
        let retry_after = if phase == Phase::BackingOff { "5" } else { "1" };
        assert_eq!((answer.code, answer.header("retry-after")), (503, Some(retry_after)), "{phase:?}");
    }
    // A call does not wait for a start that is far off, either.
    let gate = Gate::with(&[], |view, _| {
        (view.phase, view.timeout) = (Phase::BackingOff, Duration::from_secs(60));
        view.retry_at = Some((Instant::now() + Duration::from_secs(30)).into());
    })
    .await;
    let begin = Instant::now();
    assert_eq!(gate.call(GET).await.code, 503);
    assert!(begin.elapsed() < Duration::from_secs(3), "it waited {:?}", begin.elapsed());
    // Calls that already wait end as soon as the crash loop is detected.
    let gate = Gate::with(&[], |view, _| view.phase = Phase::Starting).await;
    let later = async {
        eventually!(gate.entry.waiting.load(Ordering::Relaxed) == 1, "it does not wait");
        gate.publish(directory::View { crash_looping: true, ..(*gate.entry.view()).clone() });
    };
    let (answer, ()) = tokio::join!(gate.call(GET), later);
    assert_eq!(answer.code, 503, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_says_which_limit_it_was() {
    let silent = replica(|mut connection, _| async move { drop(connection.rest().await) }).await;
    let quick = Duration::from_millis(150);
    let gate = Gate::with(&[silent], |view, _| view.timeout = quick).await;
    let begin = Instant::now();
    let answer = gate.call(GET).await;
    assert_eq!(answer.code, 504);
    let text = "function env.openfaas-fn did not answer within its timeout of 150ms (ingle.timeout)\n";
    assert_eq!(answer.body, text);
    assert!(begin.elapsed() >= quick);

    let gate = Gate::with(&[], |view, _| {
        view.timeout = quick;
        view.phase = Phase::BackingOff;
        view.reason = Some("it ended with code 1".to_owned());
    })
    .await;
    let answer = gate.call(GET).await;
    assert_eq!(answer.code, 504);
    assert_eq!(answer.body, "function env.openfaas-fn is not available\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_the_next_start_only_if_that_comes_in_time() {
    let gate = |retry_at: Instant| {
        Gate::with(&[], move |view, _| {
            view.timeout = Duration::from_secs(5);
            view.phase = Phase::BackingOff;
            view.retry_at = Some(retry_at.into());
            view.reason = Some("it ended with code 1".to_owned());
        })
    };
    let retry_at = Instant::now() + Duration::from_millis(30_500);
    let late = gate(retry_at).await;
    let begin = Instant::now();
    let answer = late.call(GET).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "it waited {:?}", begin.elapsed());
    // Whole seconds, of which as many may have gone by as this took.
    let least = retry_at.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000);
    let seconds = answer.header("retry-after").and_then(|text| text.parse().ok()).unwrap_or_default();
    assert!(answer.code == 503 && (least..=31).contains(&seconds), "at least {least}: {answer:?}");
    assert_eq!(answer.body, "function env.openfaas-fn is not available\n");

    // A start that comes in time is waited for, and told of when it is not to come after all.
    let gate = gate(Instant::now() + Duration::from_secs(1)).await;
    let call = gate.call(GET);
    let later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut view = (*gate.entry.view()).clone();
        view.retry_at = Some((Instant::now() + Duration::from_secs(60)).into());
        gate.publish(view);
    };
    let (answer, ()) = tokio::join!(call, later);
    assert_eq!((answer.code, answer.header("retry-after")), (503, Some("60")), "{answer:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_closes_the_connection_to_the_replica() {
    let (closed, was_closed) = tokio::sync::mpsc::unbounded_channel();
    let silent = replica(move |mut connection, _| {
        let closed = closed.clone();
        async move {
            connection.rest().await;
            closed.send(()).expect("the test waits");
        }
    })
    .await;
    let gate = Gate::with(&[silent], |view, _| view.timeout = Duration::from_millis(100)).await;
    let mut was_closed = was_closed;
    let mut client = gate.connect().await;
    for _ in 0..2 {
        client.send(GET).await;
        assert_eq!(client.answer().await.code, 504, "the client's connection goes on");
        tokio::time::timeout(super::PATIENCE, was_closed.recv()).await.expect("closed").expect("once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stops_moving_is_cut() {
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
        connection.rest().await;
    })
    .await;
    let gate = Gate::with(&[replica], |view, _| view.timeout = Duration::from_millis(150)).await;
    let mut client = gate.connect().await;
    client.send(GET).await;
    assert_eq!(client.head().await.code, 200);
    assert_eq!(client.rest().await, b"some");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_moves_may_take_longer_than_the_timeout() {
    let replica = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..8 {
            tick.tick().await;
            connection.send("x").await;
        }
        connection.rest().await;
    })
    .await;
    let gate = Gate::with(&[replica], |view, _| view.timeout = Duration::from_millis(400)).await;
    assert_eq!(gate.call(GET).await.body, "xxxxxxxx");
}
