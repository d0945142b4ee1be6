//! What is known of queued calls before and after their end, their answers, and how they are cancelled.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::calls::queue::{AnswerBody, CallState, Filter, Queue, QueueError, Start};
use directory::Phase;
use model::function::FunctionFilter;
use tokio::io::AsyncReadExt as _;

use super::later::{Seen, noting};
use super::{Answer, Gate, PATIENCE, SocketAddr, endpoint, mirror, nowhere, replica};
use crate::support::TemporaryDirectory;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 4\r\n\r\nbody";
const FAILS: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad";
/// Pauses that a test can wait for.
const QUICK: &str = "retry_min_wait = \"20ms\"\nretry_max_wait = \"50ms\"\n";
/// Receivers on the loopback.
const HERE: &str = "callback_networks = \"127.0.0.0/8\"\n";

async fn gate(replicas: &[SocketAddr], settings: &str) -> Gate {
    let state = Arc::new(TemporaryDirectory::new());
    let quick = if settings.contains("retry_min_wait") { "" } else { QUICK };
    Gate::over(state, &format!("{HERE}{quick}{settings}"), replicas, |_, _| {}).await
}

impl Gate {
    /// Queues a call with an id and headers of its own.
    async fn queue_as(&self, id: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!(
            "POST /async-function/env/path HTTP/1.1\r\nHost: a\r\nX-Call-Id: {id}\r\n{headers}Content-Length: {length}\r\n"
        );
        let answer = self.call(&format!("{head}\r\n{body}")).await;
        assert!(answer.code == 202 || answer.code == 400, "{answer:?}");
        answer
    }

    /// How a call is; nothing if it is not known.
    fn state_of(&self, id: &str) -> Option<CallState> {
        match self.queue.call(id) {
            Ok(call) => Some(call.state),
            Err(QueueError::UnknownCall { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn ended(&self, id: &str, state: CallState) {
        eventually!(self.state_of(id) == Some(state), "{id} is {:?}", self.state_of(id));
    }
}

/// Code and body of an answer that was kept.
async fn kept(queue: &Queue, id: &str) -> Option<(u16, String)> {
    let answer = match queue.answer(id).await {
        Ok(answer) => answer,
        Err(QueueError::NoAnswer { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let mut bytes = Vec::new();
    match answer.body {
        AnswerBody::Memory(body) => bytes = body,
        AnswerBody::File(mut file) => drop(file.read_to_end(&mut bytes).await.expect("readable")),
    }
    assert_eq!(bytes.len() as u64, answer.size);
    Some((answer.code, String::from_utf8(bytes).expect("text")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_remembered_with_what_happened_to_it() {
    let seen = Seen::default();
    let gate = gate(&[noting(&seen, &[FAILS, OK, FAILS]).await], "retry_attempts = 2").await;
    gate.queue_as("one", "", &"x".repeat(9000)).await;
    gate.ended("one", CallState::Done).await;
    let call = gate.queue.call("one").expect("known");
    assert_eq!((call.method.as_str(), call.path.as_str(), call.sent), ("POST", "/path", 9000));
    assert_eq!(
        (call.tries, call.code, call.received, call.start),
        (2, Some(200), Some(4), Some(Start::Warm))
    );
    let (started, ended) = (call.started_at.expect("started"), call.ended_at.expect("ended"));
    assert!(call.queued_at <= started && started < ended, "{call:?}");
    assert!(ended.duration_since(started).as_millis() >= 20, "the pause is part of it: {call:?}");
    assert_eq!(kept(&gate.queue, "one").await, None, "nobody asked for it");

    gate.queue_as("two", "", "").await;
    gate.ended("two", CallState::Failed).await;
    let call = gate.queue.call("two").expect("known");
    assert_eq!(
        (call.tries, call.code, call.reason.as_deref()),
        (2, Some(500), Some("the function answered 500"))
    );
    // Made again, it is the newer one that is found.
    let dead = gate.queue.dead(&FunctionFilter::default(), 1).await[0].number;
    gate.queue.pause("default", true).await.expect("paused");
    gate.queue.replay(dead).await.expect("replayed");
    assert_eq!(gate.state_of("two"), Some(CallState::Queued));
    assert_eq!(gate.state_of("three"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waited_for_a_replica_was_a_cold_start() {
    let address = mirror().await;
    let state = Arc::new(TemporaryDirectory::new());
    let gate = Gate::over(state, HERE, &[], |view, _| view.phase = Phase::Starting).await;
    gate.queue_as("cold", "", "").await;
    gate.ended("cold", CallState::Running).await;
    eventually!(gate.entry.waiting.load(Ordering::Relaxed) == 1, "it does not wait");
    let mut view = (*gate.entry.view()).clone();
    (view.phase, view.endpoints) = (Phase::Ready, vec![endpoint(address)]);
    gate.publish(view);
    gate.ended("cold", CallState::Done).await;
    gate.queue_as("warm", "", "").await;
    gate.ended("warm", CallState::Done).await;
    let start = |id: &str| gate.queue.call(id).expect("known").start;
    assert_eq!((start("cold"), start("warm")), (Some(Start::Cold), Some(Start::Warm)));
}

/// An answer without a body.
macro_rules! answer {
    ($status:literal) => {
        concat!("HTTP/1.1 ", $status, "\r\nContent-Length: 0\r\n\r\n")
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_function_refuses_tells_the_status_and_the_reason_of_each_attempt() {
    for answer in [answer!("400 Bad Request"), answer!("404 Not Found"), answer!("422 No"), answer!("501 No")]
    {
        let gate = gate(&[noting(&Seen::default(), &[answer]).await], "").await;
        gate.queue_as("refused", "", "").await;
        gate.ended("refused", CallState::Done).await;
        let call = gate.queue.call("refused").expect("known");
        let status = &answer["HTTP/1.1 ".len()..][..3];
        let reason = format!("the function answered {status}, after which a call is not made again");
        let [attempt] = &call.attempts[..] else { panic!("{call:?}") };
        assert_eq!((attempt.code, attempt.reason.as_str()), (status.parse().ok(), reason.as_str()));
        assert_eq!((call.tries, call.code, call.reason.as_deref()), (1, attempt.code, Some(reason.as_str())));
    }
    for (answers, codes) in [
        (&[answer!("500 No"), answer!("429 Slow Down"), answer!("403 No")][..], vec![500, 429, 403]),
        // One that is answered after all has only the attempts that failed.
        (&[answer!("500 No"), answer!("200 OK")], vec![500]),
    ] {
        let gate = gate(&[noting(&Seen::default(), answers).await], "").await;
        gate.queue_as("again", "", "").await;
        gate.ended("again", CallState::Done).await;
        let call = gate.queue.call("again").expect("known");
        let found: Vec<_> = call.attempts.iter().filter_map(|attempt| attempt.code).collect();
        assert_eq!((found, call.tries as usize), (codes, answers.len()), "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_room_tells_why() {
    let full =
        "HTTP/1.1 429 Too Many Requests\r\nX-OpenFaaS-Internal: of-watchdog\r\nContent-Length: 0\r\n\r\n";
    let gate = gate(&[noting(&Seen::default(), &[full; 50]).await], "").await;
    gate.queue_as("waits", "", "").await;
    let call = || gate.queue.call("waits").expect("known");
    eventually!(call().code == Some(429), "{:?}", call());
    let reason = "the function has as many calls as it takes (max_inflight)";
    eventually!(call().reason.as_deref() == Some(reason), "{:?}", call());
    assert_eq!((call().tries, call().attempts.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_for_as_long_as_was_asked_for() {
    let seen = Seen::default();
    let receiver = noting(&seen, &["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    let gate = gate(&[mirror().await], "").await;
    // Kept with the rest, and in a file; and each beside a callback, which has its own.
    for (id, size) in [("short", 10), ("long", 50_000)] {
        let body = "x".repeat(size);
        gate.queue_as(id, "X-Keep-Result: true\r\n", &body).await;
        gate.ended(id, CallState::Done).await;
        let (code, answer) = kept(&gate.queue, id).await.expect("kept");
        assert!(code == 200 && answer.starts_with("POST /path ") && answer.ends_with(&body), "{answer}");
        let told = format!("{id}-told");
        let headers = format!("X-Keep-Result: 10m\r\nX-Callback-Url: http://{receiver}/\r\n");
        gate.queue_as(&told, &headers, &body).await;
        gate.ended(&told, CallState::Done).await;
        eventually!(
            gate.queue.queues().iter().all(|queue| queue.counts.running == 0),
            "{:?}",
            gate.queue.queues()
        );
        assert!(kept(&gate.queue, &told).await.expect("kept").1.ends_with(&body));
        let until = gate.queue.call(&told).expect("known").result_until.expect("kept");
        let left = until.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((590..=600).contains(&left), "{left} s");
    }
    eventually!(gate.queue.summary().told == 2, "{:?}", gate.queue.summary());
    assert_eq!(gate.bodies(), 2, "those that are kept");
    gate.queue_as("brief", "X-Keep-Result: 1s\r\n", &"x".repeat(50_000)).await;
    gate.ended("brief", CallState::Done).await;
    eventually!(kept(&gate.queue, "brief").await.is_none(), "it is kept for longer");
    gate.queue.expire_records().await.expect("looked through");
    assert_eq!((gate.bodies(), gate.state_of("brief")), (2, Some(CallState::Done)));
    for (value, part) in
        [("soon", "neither true nor a duration"), ("0s", "neither true"), ("-1s", "neither true")]
    {
        let answer = gate.queue_as("bad", &format!("X-Keep-Result: {value}\r\n"), "").await;
        assert!(answer.code == 400 && answer.body.contains(part), "{answer:?}");
    }
    assert_eq!(gate.state_of("bad"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_kept_by_number_age_and_size_and_found_by_the_next_process() {
    let settings = "max_records = 3\nmax_results_size = \"120k\"";
    let mut gate = gate(&[mirror().await], settings).await;
    for id in ["a", "b", "c", "d"] {
        gate.queue_as(id, "X-Keep-Result: true\r\n", &"x".repeat(50_000)).await;
        gate.ended(id, CallState::Done).await;
    }
    eventually!(
        {
            gate.queue.expire_records().await.expect("looked through");
            gate.bodies() == 2
        },
        "{} files",
        gate.bodies()
    );
    let states = |gate: &Gate| ["a", "b", "c", "d"].map(|id| gate.state_of(id));
    let done = Some(CallState::Done);
    assert_eq!(states(&gate), [None, done, done, done]);
    let with_answer = |gate: &Gate| {
        let queue = gate.queue.clone();
        async move {
            [
                kept(&queue, "b").await.is_some(),
                kept(&queue, "c").await.is_some(),
                kept(&queue, "d").await.is_some(),
            ]
        }
    };
    assert_eq!(with_answer(&gate).await, [false, true, true], "the oldest goes first");

    gate.queue.stop(PATIENCE).await;
    gate.begin_to_stop().await;
    let state = gate.state.clone();
    gate.store.close().await;
    gate.stopped().await;
    let gate = Gate::over(state.clone(), &format!("{HERE}{settings}"), &[], |_, _| {}).await;
    assert_eq!(states(&gate), [None, done, done, done]);
    assert_eq!((with_answer(&gate).await, gate.bodies()), ([false, true, true], 2));
    // What is young is kept, what is old is not.
    for (year, found) in [("2196", done), ("2016", None)] {
        let (number, row) = gate.store.call_records().next().expect("one").expect("readable");
        let row = String::from_utf8(row).expect("text");
        let (before, after) = row.split_once("\"ended_at\":\"").expect("an end");
        gate.store
            .put_call_records(vec![(number, format!("{before}\"ended_at\":\"{year}{}", &after[4..]).into())])
            .await
            .expect("kept");
        gate.queue.expire_records().await.expect("looked through");
        assert_eq!(gate.state_of("b"), found, "{year}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed_newest_first_and_by_what_they_are() {
    let gate = gate(&[mirror().await], "").await;
    gate.queue_as("first", "", "").await;
    gate.ended("first", CallState::Done).await;
    gate.queue.pause("default", true).await.expect("paused");
    gate.queue_as("second", "", "").await;
    gate.queue_as("third", "", "").await;
    gate.queue.cancel("second").await.expect("cancelled");
    let ids = async |filter: Filter, limit| -> Vec<String> {
        gate.queue.calls(filter, limit).await.into_iter().map(|call| call.call_id.into()).collect()
    };
    assert_eq!(ids(Filter::default(), 9).await, ["third", "second", "first"]);
    assert_eq!(ids(Filter::default(), 1).await, ["third"]);
    for (state, found) in
        [(CallState::Queued, "third"), (CallState::Cancelled, "second"), (CallState::Done, "first")]
    {
        assert_eq!(ids(Filter { state: Some(state), ..Filter::default() }, 9).await, [found]);
    }
    let other = Filter {
        functions: FunctionFilter::parse(Some("other"), None).expect("a filter"),
        ..Filter::default()
    };
    assert_eq!(ids(other, 9).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_cancelled_wherever_it_is() {
    let silent = replica(|mut connection, _| async move { while connection.more().await {} }).await;
    let gate = gate(&[silent], "parallel_calls_per_function = 1").await;
    gate.queue_as("running", "", &"x".repeat(5000)).await;
    gate.ended("running", CallState::Running).await;
    gate.queue_as("queued", "", &"x".repeat(5000)).await;
    assert_eq!((gate.state_of("queued"), gate.bodies()), (Some(CallState::Queued), 2));
    for id in ["queued", "running"] {
        gate.queue.cancel(id).await.expect("cancelled");
        assert_eq!(gate.state_of(id), Some(CallState::Cancelled));
        let again = gate.queue.cancel(id).await;
        assert!(matches!(again, Err(QueueError::Ended { state: CallState::Cancelled, .. })), "{again:?}");
    }
    assert_eq!((gate.stored(), gate.bodies(), gate.queue.summary().cancelled), (0, 0, 2));
    eventually!(gate.entry.stats.in_flight() == 0, "its try goes on");
    let unknown = gate.queue.cancel("unknown").await;
    assert!(matches!(unknown, Err(QueueError::UnknownCall { .. })), "{unknown:?}");

    // Between two tries, and while its function is left alone.
    let seen = Seen::default();
    let waits =
        self::gate(&[noting(&seen, &[FAILS]).await], "retry_min_wait = \"1h\"\nretry_max_wait = \"1h\"")
            .await;
    waits.queue_as("waiting", "", "").await;
    waits.ended("waiting", CallState::Waiting).await;
    waits.queue.cancel("waiting").await.expect("cancelled");
    assert_eq!((waits.state_of("waiting"), waits.stored()), (Some(CallState::Cancelled), 0));
    let held = self::gate(&[nowhere().await], "").await;
    held.queue_as("held", "", "").await;
    eventually!(held.queue.queues().iter().any(|queue| queue.counts.ready == 1), "{:?}", held.queue.queues());
    held.queue.cancel("held").await.expect("cancelled");
    assert_eq!((held.state_of("held"), held.stored()), (Some(CallState::Cancelled), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_cancelled_while_they_fail_end_once() {
    let seen = Seen::default();
    let gate = gate(&[noting(&seen, &[FAILS]).await], "retry_attempts = 100").await;
    for round in 0..50 {
        let id = format!("round-{round}");
        gate.queue_as(&id, "", "").await;
        tokio::time::sleep(Duration::from_millis(round % 7)).await;
        tokio::time::timeout(PATIENCE, gate.queue.cancel(&id)).await.expect("it ends").expect("cancelled");
        assert_eq!(gate.state_of(&id), Some(CallState::Cancelled), "{id}");
    }
    let summary = gate.queue.summary();
    assert_eq!((summary.cancelled, summary.made, summary.given_up, gate.stored()), (50, 0, 0, 0));
    assert!(gate.queue.queues().iter().all(|queue| queue.counts == calls::queue::Counts::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_remembered_where_nothing_is_to_be() {
    let gate = gate(&[mirror().await], "max_records = 0").await;
    gate.queue_as("one", "", "").await;
    eventually!(gate.queue.summary().made == 1, "{:?}", gate.queue.summary());
    eventually!(gate.state_of("one").is_none(), "it is remembered");
    let answer = gate.queue_as("two", "X-Keep-Result: true\r\n", "").await;
    assert!(answer.code == 400 && answer.body.contains("queue.max_records"), "{answer:?}");
}

impl Gate {
    /// Calls the function with what the client prefers.
    async fn prefer(&self, prefer: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!(
            "POST /function/env/path HTTP/1.1\r\nHost: a\r\nX-Call-Id: mine\r\nPrefer: {prefer}\r\n{headers}Content-Length: {length}\r\n"
        );
        self.call(&format!("{head}\r\n{body}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rather_comes_back_is_answered_if_it_is_quick() {
    let gate = gate(&[mirror().await], "").await;
    for size in [10, 300_000] {
        let body = "x".repeat(size);
        let answer = gate.prefer("respond-async, wait=9", "", &body).await;
        assert_eq!((answer.code, answer.header("preference-applied")), (200, Some("respond-async")));
        assert_eq!((answer.header("x-call-id"), answer.header("x-connection")), (Some("mine"), Some("0")));
        assert!(answer.body.starts_with("POST /path ") && answer.body.ends_with(&body), "the function's own");
        assert_eq!(gate.state_of("mine"), Some(CallState::Done));
    }
    // The connection can be used again.
    let mut client = gate.connect().await;
    for _ in 0..2 {
        client
            .send("POST /function/env HTTP/1.1\r\nHost: a\r\nPrefer: respond-async\r\nContent-Length: 2\r\n\r\nhi")
            .await;
        let answer = client.answer().await;
        assert!(answer.code == 200 && answer.body.ends_with("hi"), "{answer:?}");
    }
    // Without a word, nothing is different.
    let answer = gate.prefer("return=minimal", "", "hi").await;
    assert_eq!((answer.code, answer.header("preference-applied")), (200, None));
    assert_eq!(gate.queue.summary().accepted, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rather_comes_back_is_told_where_to_if_it_is_not() {
    let (open, opens) = tokio::sync::watch::channel(false);
    let seen = Seen::default();
    let noted = seen.clone();
    let slow = replica(move |mut connection, _| {
        let (mut opens, noted) = (opens.clone(), noted.clone());
        async move {
            while let Some(found) = super::later::request(&mut connection).await {
                noted.lock().expect("no panic").push(found);
                opens.wait_for(|open| *open).await.expect("the test holds it");
                connection.send(OK).await;
            }
        }
    })
    .await;
    let gate = gate(&[slow], "").await;
    let answer = gate.prefer("respond-async, wait=0", "", "hi").await;
    assert_eq!((answer.code, answer.body.as_str()), (202, ""));
    assert_eq!(
        (answer.header("preference-applied"), answer.header("x-call-id")),
        (Some("respond-async"), Some("mine"))
    );
    // One that goes away is made all the same.
    let mut client = gate.connect().await;
    client
        .send("POST /function/env HTTP/1.1\r\nHost: a\r\nX-Call-Id: left\r\nPrefer: respond-async\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    gate.ended("left", CallState::Running).await;
    drop(client);
    open.send(true).expect("the replica waits");
    for id in ["mine", "left"] {
        gate.ended(id, CallState::Done).await;
        assert_eq!(kept(&gate.queue, id).await, Some((200, "body".to_owned())), "{id}");
    }
    assert_eq!(seen.lock().expect("no panic").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rather_comes_back_is_told_how_it_failed() {
    let seen = Seen::default();
    let fails = gate(&[noting(&seen, &[FAILS]).await], "retry_attempts = 2").await;
    let answer = fails.prefer("respond-async", "", "hi").await;
    assert_eq!((answer.code, answer.body.as_str()), (500, "bad"), "the function's own answer");
    assert_eq!(seen.lock().expect("no panic").len(), 2, "it was made again");

    let large = gate(&[mirror().await], "answer_limit = \"1k\"").await;
    let answer = large.prefer("respond-async", "", &"x".repeat(2000)).await;
    assert_eq!(answer.code, 502);
    assert!(answer.body.contains("larger than 1000 bytes (queue.answer_limit)"), "{}", answer.body);

    let silent = replica(|mut connection, _| async move { while connection.more().await {} }).await;
    let cancelled = gate(&[silent], "").await;
    let (answer, ()) = tokio::join!(cancelled.prefer("respond-async", "", "hi"), async {
        cancelled.ended("mine", CallState::Running).await;
        cancelled.queue.cancel("mine").await.expect("cancelled");
    });
    assert_eq!(answer.code, 502);
    assert!(answer.body.contains("call mine is cancelled"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_are_forgotten_first_that_ended_first() {
    let gate = gate(&[mirror().await], "max_records = 2").await;
    gate.queue.pause("default", true).await.expect("paused");
    for id in ["first", "second", "third"] {
        gate.queue_as(id, "", "").await;
    }
    for id in ["second", "third", "first"] {
        gate.queue.cancel(id).await.expect("cancelled");
    }
    gate.queue.expire_records().await.expect("looked through");
    let cancelled = Some(CallState::Cancelled);
    assert_eq!(
        ["first", "second", "third"].map(|id| gate.state_of(id)),
        [cancelled, None, cancelled],
        "what took long is known when it has ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_call_that_waits_itself_holds_up_no_stop() {
    let gate = gate(&[mirror().await], "").await;
    gate.queue.pause("default", true).await.expect("paused");
    let stop = async {
        eventually!(gate.stored() == 1, "{:?}", gate.queue.queues());
        gate.queue.stop(PATIENCE).await;
        tokio::time::Instant::now()
    };
    let (answer, stopped) = tokio::join!(gate.prefer("respond-async, wait=3600", "", "hi"), stop);
    assert_eq!((answer.code, answer.header("preference-applied")), (202, Some("respond-async")));
    assert!(stopped.elapsed() < PATIENCE);
    assert_eq!(gate.stored(), 1, "the next one makes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preference_that_cannot_be_met_changes_nothing() {
    let nothing_kept = gate(&[mirror().await], "max_records = 0").await;
    let small = gate(&[mirror().await], "body_limit = \"1k\"").await;
    for (gate, size) in [(nothing_kept, 10), (small, 2000)] {
        let answer = gate.prefer("respond-async", "", &"x".repeat(size)).await;
        assert_eq!((answer.code, answer.header("preference-applied")), (200, None));
        assert_eq!(gate.queue.summary().accepted, 0);
    }
}
