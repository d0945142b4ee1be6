//! Calls that are made again, and those that are given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use host::store::LeftJob;
use model::function::FunctionFilter;

use super::later::{Seen, noting, request};
use super::{Gate, SocketAddr, nowhere, replica};
use crate::support::TemporaryDirectory;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const FAILS: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad";
/// Pauses that a test can wait for.
const SHORT: &str = "retry_min_wait = \"20ms\"\nretry_max_wait = \"50ms\"\n";

async fn gate(replicas: &[SocketAddr], settings: &str) -> Gate {
    let state = Arc::new(TemporaryDirectory::new());
    Gate::over(state, &format!("{SHORT}{settings}"), replicas, |_, _| {}).await
}

/// `X-Call-Id` of what came.
fn ids(seen: &Seen) -> Vec<String> {
    let seen = seen.lock().expect("no panic");
    let id = |head: &str| head.lines().find_map(|line| line.strip_prefix("X-Call-Id: ")).map(str::to_owned);
    seen.iter().map(|(head, _)| id(head).expect("an id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_made_again_with_the_same_id() {
    let seen = Seen::default();
    let gate = gate(&[noting(&seen, &[FAILS, FAILS, OK]).await], "").await;
    let answer = gate.queue("env", &"x".repeat(5000)).await;
    let id = answer.header("x-call-id").expect("an id").to_owned();
    eventually!(gate.queue.summary().made == 1, "{:?}", gate.queue.queues());
    assert_eq!(gate.stored(), 0, "it is still queued");
    assert_eq!(ids(&seen), [id.clone(), id.clone(), id]);
    assert!(seen.lock().expect("no panic").iter().all(|(_, body)| body.len() == 5000));
    let summary = gate.queue.summary();
    assert_eq!((summary.made, summary.retried, summary.given_up), (1, 2, 0));
    assert_eq!(gate.bodies(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_codes_of_the_policy_are_failures() {
    let seen = Seen::default();
    let gate =
        gate(&[noting(&seen, &["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]).await], "").await;
    gate.queue("env", "").await;
    eventually!(gate.queue.summary().made == 1, "{:?}", gate.queue.summary());
    gate.annotate(&[("com.openfaas.retry.codes", "400-404"), ("com.openfaas.retry.attempts", "2")]);
    gate.queue("env", "").await;
    eventually!(gate.queue.summary().given_up == 1, "{:?}", gate.queue.summary());
    assert_eq!(ids(&seen).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_is_kept_and_can_be_made_again() {
    let seen = Seen::default();
    let gate = gate(&[noting(&seen, &[FAILS, FAILS, FAILS, OK]).await], "retry_attempts = 3").await;
    let answer = gate.queue("env/path?a=b", &"x".repeat(5000)).await;
    let id = answer.header("x-call-id").expect("an id");
    eventually!(gate.queue.summary().given_up == 1, "{:?}", gate.queue.queues());
    let dead = gate.queue.dead(&FunctionFilter::default(), 10).await;
    assert_eq!(dead.len(), 1);
    let facts = &dead[0].facts;
    assert_eq!(
        (facts.call_id.as_str(), facts.method.as_str(), facts.path.as_str()),
        (id, "POST", "/path?a=b")
    );
    assert_eq!((dead[0].body_size, facts.tried, facts.tries.len()), (5000, 3, 3));
    assert!(
        facts.tries.iter().all(|one| one.code == Some(500) && one.reason == "the function answered 500"),
        "{facts:?}"
    );
    assert_eq!(gate.bodies(), 1, "its body is kept");

    gate.queue.replay(dead[0].number).await.expect("replayed");
    eventually!(gate.queue.summary().made == 1, "{:?}", gate.queue.summary());
    assert_eq!((gate.queue.dead_count(), gate.stored()), (0, 0));
    eventually!(gate.bodies() == 0, "its body stays");
    assert_eq!(ids(&seen), vec![id; 4]);
    assert!(gate.queue.replay(dead[0].number).await.is_err(), "it is not there any more");
    assert!(gate.queue.purge(dead[0].number).await.is_err(), "it is not there any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_were_given_up_can_be_thrown_away_and_go_by_themselves() {
    let seen = Seen::default();
    let gate = gate(&[noting(&seen, &[FAILS]).await], "retry_attempts = 1\nmax_dead = 2").await;
    for _ in 0..3 {
        gate.queue("env", &"x".repeat(5000)).await;
    }
    eventually!(gate.queue.summary().given_up == 3, "{:?}", gate.queue.summary());
    let name = FunctionFilter::parse(Some("other"), None).expect("a filter");
    let namespace = FunctionFilter::parse(None, "other".parse().ok()).expect("a filter");
    for other in [name, namespace] {
        assert_eq!(gate.queue.purge_all(&other).await.expect("none"), 0);
    }
    let newest = gate.queue.dead(&FunctionFilter::default(), 1).await[0].number;
    assert_eq!(gate.queue.expire().await.expect("expired"), 1, "more than max_dead");
    assert_eq!(gate.queue.dead(&FunctionFilter::default(), 9).await[0].number, newest, "the oldest goes");
    gate.queue.purge(newest).await.expect("purged");
    assert_eq!((gate.queue.dead_count(), gate.bodies()), (1, 1));
    assert_eq!(gate.queue.purge_all(&FunctionFilter::default()).await.expect("purged"), 1);
    assert_eq!((gate.queue.dead_count(), gate.bodies()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_were_given_up_are_kept_by_age_and_size() {
    let seen = Seen::default();
    let settings = "retry_attempts = 1\nkeep_dead = \"1h\"\nmax_dead_size = \"12k\"";
    let gate = gate(&[noting(&seen, &[FAILS]).await], settings).await;
    // When the clock was wrong, and an hour ago.
    for (given_up, year, expired) in [(1, "2196", 0), (2, "2016", 1)] {
        gate.queue("env", "").await;
        eventually!(gate.queue.summary().given_up == given_up, "{:?}", gate.queue.summary());
        let (number, row) = gate.store.dead_jobs().next().expect("one").expect("readable");
        let row = String::from_utf8(row).expect("text");
        let (before, after) = row.split_once("\"at\":\"").expect("a try");
        let row = format!("{before}\"at\":\"{year}{}", &after[4..]);
        gate.store
            .end_job(number, LeftJob { dead: Some(row.into_bytes()), ..LeftJob::default() })
            .await
            .expect("kept");
        assert_eq!(gate.queue.expire().await.expect("looked at"), expired, "{year}");
        gate.queue.purge_all(&FunctionFilter::default()).await.expect("purged");
    }
    assert_eq!((gate.queue.dead_count(), gate.queue.dead_size()), (0, 0));
    // By size, without being asked to.
    for _ in 0..3 {
        gate.queue("env", &"x".repeat(5000)).await;
    }
    eventually!(gate.queue.summary().given_up == 5, "{:?}", gate.queue.summary());
    eventually!(gate.bodies() == 2 && gate.queue.dead_size() < 12_000, "{}", gate.queue.dead_size());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_has_no_room_or_is_not_there_yet_costs_no_try() {
    let busy = "HTTP/1.1 429 Too Many Requests\r\nX-OpenFaaS-Internal: faas-middleware\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
    let seen = Seen::default();
    let of_its_own = gate(&[noting(&seen, &[busy, busy, busy, OK]).await], "retry_attempts = 1").await;
    of_its_own.queue("env", "").await;
    eventually!(of_its_own.queue.summary().made == 1, "{:?}", of_its_own.queue.summary());
    assert_eq!(of_its_own.queue.summary().retried, 0);
    // Whatever the function thinks of that code: it has not seen the call.
    of_its_own.annotate(&[("com.openfaas.retry.codes", "500")]);
    seen.lock().expect("no panic").clear();
    of_its_own.queue("env", "").await;
    eventually!(of_its_own.queue.summary().made == 2, "{:?}", of_its_own.queue.summary());
    assert_eq!(ids(&seen).len(), 4, "it was not made");

    // Nothing listens, longer than a call waits for that.
    let address = nowhere().await;
    let refusing = gate(&[address], "retry_attempts = 1").await;
    refusing.queue("env", "late").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(refusing.stored(), 1, "{:?}", refusing.queue.dead(&FunctionFilter::default(), 1).await);
    let listener = tokio::net::TcpListener::bind(address).await.expect("still free");
    let (stream, _) = listener.accept().await.expect("a call");
    let mut connection = super::Client { stream, left: Vec::new() };
    assert_eq!(request(&mut connection).await.expect("a request").1, b"late");
    connection.send(OK).await;
    eventually!(refusing.queue.summary().made == 1, "{:?}", refusing.queue.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_its_function_each_time_does_not_do_so_for_ever() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let replica = replica(move |mut connection, _| {
        let tries = counted.clone();
        async move {
            connection.until("\r\n\r\n").await;
            tries.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let gate = gate(&[replica], "retry_attempts = 3").await;
    gate.queue("env", "").await;
    eventually!(gate.queue.summary().given_up == 1, "{:?}", gate.queue.summary());
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    let dead = gate.queue.dead(&FunctionFilter::default(), 1).await;
    assert!(dead[0].facts.tries[2].reason.contains("could not be reached"), "{dead:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_some_replica_was_sent_costs_a_try_whatever_the_others_do() {
    let listener = tokio::net::TcpListener::bind(nowhere().await).await.expect("still free");
    let gate = gate(&[listener.local_addr().expect("bound")], "retry_attempts = 1").await;
    // It may be sent again, so it is tried on another connection.
    let accepted = gate.call("GET /async-function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(accepted.code, 202);
    let (stream, _) = listener.accept().await.expect("a call");
    let mut connection = super::Client { stream, left: Vec::new() };
    assert!(request(&mut connection).await.is_some());
    // Nobody listens any more.
    drop((listener, connection));
    eventually!(gate.queue.summary().given_up == 1, "{:?}", gate.queue.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for() {
    let later = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n";
    let seen = Seen::default();
    let gate = gate(&[noting(&seen, &[later, OK]).await], "").await;
    let began = Instant::now();
    gate.queue("env", "").await;
    eventually!(gate.queue.summary().made == 1, "{:?}", gate.queue.summary());
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_function_that_was_removed_are_given_up_with_the_reason() {
    let gate = gate(&[nowhere().await], "").await;
    gate.queue.pause("default", true).await.expect("paused");
    gate.queue("env", "").await;
    gate.remove();
    gate.queue.pause("default", false).await.expect("resumed");
    eventually!(gate.queue.summary().given_up == 1, "{:?}", gate.queue.summary());
    let dead = gate.queue.dead(&FunctionFilter::default(), 1).await;
    assert_eq!(dead[0].facts.tries[0].reason, "there is no function env.openfaas-fn any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_calls_are_made_at_once_than_a_function_takes() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (now.clone(), most.clone());
    let slow = replica(move |mut connection, _| {
        let (now, most) = counts.clone();
        async move {
            while request(&mut connection).await.is_some() {
                let running = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(running, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                connection.send(OK).await;
            }
        }
    })
    .await;
    let gate = gate(&[slow], "parallel_calls_per_function = 5").await;
    for (annotations, limit) in [(&[][..], 5), (&[("ingle.parallel-calls", "2")], 2)] {
        gate.annotate(annotations);
        most.store(0, Ordering::SeqCst);
        // All of them are there before the first is made.
        gate.queue.pause("default", true).await.expect("paused");
        for _ in 0..12 {
            assert_eq!(gate.queue("env", "").await.code, 202);
        }
        gate.queue.pause("default", false).await.expect("resumed");
        eventually!(gate.stored() == 0, "{:?}", gate.queue.queues());
        assert_eq!(most.load(Ordering::SeqCst), limit);
    }
}
