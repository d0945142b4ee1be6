//! Answers of queued calls that are sent on: to whom, with what, how often, and to whom not.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::function::FunctionFilter;
use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::later::{Seen, noting};
use super::{Answer, Gate, PATIENCE, SocketAddr, mirror, nowhere, replica};
use crate::support::TemporaryDirectory;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const FAILS: &str = "HTTP/1.1 500 Internal Server Error\r\nX-Mine: yes\r\nContent-Length: 3\r\n\r\nbad";
/// Pauses that a test can wait for, and receivers on the loopback.
const HERE: &str =
    "retry_min_wait = \"20ms\"\nretry_max_wait = \"50ms\"\ncallback_networks = \"127.0.0.0/8\"\n";

async fn gate(replicas: &[SocketAddr], settings: &str) -> Gate {
    let state = Arc::new(TemporaryDirectory::new());
    Gate::over(state, &format!("{HERE}{settings}"), replicas, |_, _| {}).await
}

impl Gate {
    /// Queues a call whose answer goes to this URL.
    async fn queue_for(&self, url: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!(
            "POST /async-function/env/path HTTP/1.1\r\nHost: a\r\nX-Call-Id: mine\r\nX-Callback-Url: {url}\r\nContent-Length: {length}\r\n"
        );
        self.call(&format!("{head}\r\n{body}")).await
    }

    /// Nothing is queued any more, and nothing of it is left on the disk.
    async fn is_empty(&self) {
        eventually!(
            self.stored() == 0 && self.bodies() == 0,
            "{} calls, {} files",
            self.stored(),
            self.bodies()
        );
    }
}

/// The values of a header, of all that came.
fn header(seen: &Seen, name: &str) -> Vec<Option<String>> {
    let seen = seen.lock().expect("no panic");
    let value = |head: &str| {
        let is_it =
            |line: &&str| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        head.lines().find(is_it).map(|line| line[name.len() + 1..].trim().to_owned())
    };
    seen.iter().map(|(head, _)| value(head)).collect()
}

fn count(seen: &Seen) -> usize {
    seen.lock().expect("no panic").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_reaches_its_receiver_with_all_that_is_known_of_the_call() {
    // Kept with the rest, and in a file.
    for size in [10, 300_000] {
        let seen = Seen::default();
        let (receiver, gate) = (noting(&seen, &[OK]).await, gate(&[mirror().await], "").await);
        let body = "x".repeat(size);
        let answer = gate.queue_for(&format!("http://{receiver}/told?a=b"), &body).await;
        assert_eq!((answer.code, answer.header("x-call-id")), (202, Some("mine")));
        eventually!(gate.queue.summary().told == 1, "{:?}", gate.queue.queues());
        gate.is_empty().await;
        let (head, told) = seen.lock().expect("no panic")[0].clone();
        assert!(head.starts_with("POST /told?a=b HTTP/1.1\r\n"), "{head}");
        let told = String::from_utf8(told).expect("text");
        assert!(
            told.starts_with("POST /path HTTP/1.1\r\n") && told.ends_with(&body),
            "the function's own answer"
        );
        for (name, value) in [
            ("x-call-id", "mine"),
            ("x-function-name", "env.openfaas-fn"),
            ("x-function-status", "200"),
            ("x-connection", "0"),
            ("x-retry", "0"),
            ("x-retry-max", "9"),
        ] {
            assert_eq!(header(&seen, name), [Some(value.to_owned())], "{name}");
        }
        let seconds = header(&seen, "x-duration-seconds")[0].clone().expect("a duration");
        assert!(seconds.parse::<f64>().expect("a number") < PATIENCE.as_secs_f64(), "{seconds}");
        assert_eq!(header(&seen, "webhook-signature"), [None], "there is no secret");
        let summary = gate.queue.summary();
        assert_eq!((summary.accepted, summary.made, summary.told, summary.untold), (1, 1, 1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_is_told_of_too() {
    let (seen, function) = (Seen::default(), Seen::default());
    let receiver = noting(&seen, &[OK]).await;
    let gate = gate(&[noting(&function, &[FAILS]).await], "retry_attempts = 3").await;
    gate.queue_for(&format!("http://{receiver}/"), &"x".repeat(5000)).await;
    eventually!(gate.queue.summary().told == 1, "{:?}", gate.queue.summary());
    assert_eq!(count(&function), 3);
    assert_eq!(count(&seen), 1, "tries in between are nobody's concern");
    assert_eq!(seen.lock().expect("no panic")[0].1, b"bad", "its last answer");
    for (name, value) in
        [("x-function-status", "500"), ("x-mine", "yes"), ("x-retry", "2"), ("x-retry-max", "2")]
    {
        assert_eq!(header(&seen, name), [Some(value.to_owned())], "{name}");
    }
    assert_eq!(gate.stored(), 0);
    let dead = gate.queue.dead(&FunctionFilter::default(), 9).await;
    assert_eq!((dead.len(), dead[0].facts.is_callback(), dead[0].body_size), (1, false, 5000));
    // Made again, it is told of again.
    gate.queue.replay(dead[0].number).await.expect("replayed");
    eventually!(gate.queue.summary().told == 2, "{:?}", gate.queue.summary());
    assert_eq!((count(&function), gate.queue.dead_count()), (6, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_not_reached_is_a_503_without_a_body() {
    let seen = Seen::default();
    let receiver = noting(&seen, &[OK]).await;
    let gate = gate(&[nowhere().await], "max_age = \"1ms\"").await;
    gate.queue_for(&format!("http://{receiver}/"), "body").await;
    eventually!(within 30, gate.queue.summary().told == 1, "{:?}", gate.queue.summary());
    assert_eq!(header(&seen, "x-function-status"), [Some("503".to_owned())]);
    assert_eq!(seen.lock().expect("no panic")[0].1, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_sent_until_it_is_taken_also_by_the_next_process() {
    let (seen, function) = (Seen::default(), Seen::default());
    let fails = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let elsewhere = Seen::default();
    let location = noting(&elsewhere, &[OK]).await;
    let redirects: &'static str =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{location}/\r\nContent-Length: 0\r\n\r\n").leak();
    let later = "HTTP/1.1 503 Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    let receiver = noting(&seen, &[fails, redirects, later, OK]).await;
    let replica = noting(&function, &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"]).await;
    let mut gate = gate(&[replica], "").await;
    gate.queue_for(&format!("http://{receiver}/"), "").await;
    eventually!(count(&seen) == 3, "{:?}", gate.queue.queues());
    eventually!(gate.queue.summary().retried == 3, "{:?}", gate.queue.summary());
    gate.queue.stop(PATIENCE).await;
    gate.begin_to_stop().await;
    let state = gate.state.clone();
    gate.store.close().await;
    gate.stopped().await;
    assert_eq!(count(&seen), 3, "Retry-After is obeyed");
    let gate = Gate::over(state, HERE, &[replica], |_, _| {}).await;
    eventually!(gate.queue.summary().told == 1, "{:?}", gate.queue.queues());
    gate.is_empty().await;
    assert_eq!((count(&seen), count(&function)), (4, 1), "the function was called once");
    assert_eq!(count(&elsewhere), 0, "a redirect was followed");
    assert!(seen.lock().expect("no panic").iter().all(|(_, body)| body == b"body"));
    assert_eq!(header(&seen, "x-call-id"), vec![Some("mine".to_owned()); 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_given_up_is_kept_and_can_be_sent_again() {
    let seen = Seen::default();
    let gone = "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n";
    let receiver = noting(&seen, &[FAILS, FAILS, gone, OK]).await;
    let gate = gate(&[mirror().await], "retry_attempts = 2").await;
    gate.queue_for(&format!("http://{receiver}/"), &"x".repeat(5000)).await;
    eventually!(gate.queue.summary().untold == 1, "{:?}", gate.queue.summary());
    let summary = gate.queue.summary();
    assert_eq!((summary.made, summary.given_up, gate.stored(), gate.bodies()), (1, 0, 0, 1));
    for (tries, reason) in
        [(2, "the receiver answered 500"), (1, "the receiver answered 410: it wants no more")]
    {
        let dead = gate.queue.dead(&FunctionFilter::default(), 9).await;
        let facts = &dead[0].facts;
        assert_eq!((dead.len(), facts.is_callback(), facts.tried), (1, true, tries));
        assert_eq!(facts.tries.last().expect("a try").reason, reason);
        gate.queue.replay(dead[0].number).await.expect("replayed");
        eventually!(
            gate.queue.summary().untold == 2 && gate.queue.dead_count() == 1
                || gate.queue.summary().told == 1,
            "{:?}",
            gate.queue.summary()
        );
    }
    assert_eq!(gate.queue.summary().told, 1);
    gate.is_empty().await;
    assert_eq!(count(&seen), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_url_is_refused_and_nothing_is_queued() {
    let seen = Seen::default();
    let state = Arc::new(TemporaryDirectory::new());
    let gate = Gate::over(state, "", &[noting(&seen, &[OK]).await], |_, _| {}).await;
    for (url, part) in [
        ("nonsense", "no URL"),
        ("ftp://a.example/", "begins with ftp"),
        ("http://127.0.0.1:9/", "queue.callback_networks"),
        ("http://[::ffff:10.0.0.1]/", "queue.callback_networks"),
        ("http://169.254.169.254/latest/meta-data/", "queue.callback_networks"),
        ("http://gateway:8080/system/functions", "/function/"),
        ("http://a.example/\r\nX-Callback-Url: http://b.example/", "several"),
    ] {
        let answer = gate.queue_for(url, "body").await;
        assert_eq!(answer.code, 400, "{url}: {answer:?}");
        assert!(
            answer.body.starts_with("X-Callback-Url: ") && answer.body.contains(part),
            "{url}: {}",
            answer.body
        );
    }
    assert_eq!((gate.stored(), gate.bodies(), count(&seen), gate.queue.summary().accepted), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_this_machine_is_not_followed() {
    let seen = Seen::default();
    let receiver = noting(&seen, &[OK]).await;
    let settings = "retry_attempts = 2\nretry_min_wait = \"20ms\"\nretry_max_wait = \"50ms\"\n";
    let state = Arc::new(TemporaryDirectory::new());
    let gate = Gate::over(state, settings, &[mirror().await], |_, _| {}).await;
    let answer = gate.queue_for(&format!("http://localhost:{}/", receiver.port()), "").await;
    assert_eq!(answer.code, 202, "only who looks the name up can tell");
    eventually!(gate.queue.summary().untold == 1, "{:?}", gate.queue.summary());
    let reason = gate.queue.dead(&FunctionFilter::default(), 1).await[0].facts.tries[0].reason.clone();
    assert!(reason.contains("is not a public address, and not in queue.callback_networks"), "{reason}");
    assert_eq!(count(&seen), 0, "it was called");
}

/// Runs a test on a machine with public addresses that belong to no interface.
fn with_public_addresses(test: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("an own network");
        for arguments in ["link set lo up", "route add local 1.1.1.0/24 dev lo"] {
            let done = std::process::Command::new("ip").args(arguments.split(' ')).status();
            assert!(done.expect("ip").success(), "ip {arguments}");
        }
        // New threads inherit the network namespace of the one that starts them.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(test);
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Starts a server that refuses every request after a pause, and records start times and the peak of concurrency.
async fn refusing(address: &str) -> (SocketAddr, Arc<Mutex<Vec<Instant>>>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((address, 0)).await.expect("a public address");
    let address = listener.local_addr().expect("bound");
    let (begun, most, now) =
        (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let seen = (begun.clone(), most.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            begun.lock().expect("no panic").push(Instant::now());
            most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
            let now = now.clone();
            tokio::spawn(async move {
                // Longer than the pause between two callbacks, so that a concurrent one would show.
                tokio::time::sleep(Duration::from_millis(1300)).await;
                now.fetch_sub(1, Relaxed);
                let _ = stream.write_all(FAILS.as_bytes()).await;
                while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {}
            });
        }
    });
    (address, seen.0, seen.1)
}

#[test]
fn callbacks_to_unnamed_hosts_are_limited_in_attempts_concurrency_and_rate() {
    require_root!();
    require!("ip");
    with_public_addresses(async {
        let (one, begun_at_one, most_at_one) = refusing("1.1.1.1").await;
        let (other, begun_at_other, most_at_other) = refusing("1.1.1.2").await;
        let seen = Seen::default();
        let named = noting(&seen, &[OK]).await;
        let gate = gate(&[mirror().await], "").await;
        for receiver in [one, one, other] {
            assert_eq!(gate.queue_for(&format!("http://{receiver}/"), "").await.code, 202);
        }
        // Callbacks to a named host do not wait for these.
        let began = Instant::now();
        for _ in 0..5 {
            assert_eq!(gate.queue_for(&format!("http://{named}/"), "").await.code, 202);
        }
        eventually!(gate.queue.summary().told == 5, "{:?}", gate.queue.queues());
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        eventually!(within 60, gate.queue.summary().untold == 3, "{:?}", gate.queue.queues());
        let begun = |begun: &Mutex<Vec<Instant>>| begun.lock().expect("no panic").clone();
        let (at_one, at_other) = (begun(&begun_at_one), begun(&begun_at_other));
        assert_eq!((at_one.len(), at_other.len()), (6, 3), "three tries of each");
        assert_eq!([most_at_one, most_at_other].map(|most| most.load(Relaxed)), [1, 1], "at the same time");
        let mut all = [at_one, at_other].concat();
        all.sort_unstable();
        // A callback may arrive later than it started, but not earlier.
        let least = Duration::from_secs(all.len() as u64 - 1) - Duration::from_millis(500);
        assert!(all[all.len() - 1] - all[0] > least, "{all:?}");
        let gaps = all.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.clone().all(|gap| gap > Duration::from_millis(500)), "{:?}", gaps.collect::<Vec<_>>());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_can_tell_that_it_is_us() {
    let seen = Seen::default();
    let receiver = noting(&seen, &[FAILS, OK, OK]).await;
    let files = TemporaryDirectory::new();
    let secret = files.path().join("secret");
    let gate = gate(
        &[mirror().await],
        &format!("callback_hosts = \"127.0.0.1\"\ncallback_secret_file = {secret:?}"),
    )
    .await;
    gate.queue_for(&format!("http://{receiver}/"), "").await;
    let lane = |gate: &Gate| gate.queue.queues().into_iter().find(|queue| &*queue.name == "callbacks");
    // Nothing is sent without a signature, and nothing is lost for want of one.
    eventually!(lane(&gate).is_some_and(|queue| queue.counts.ready == 1), "{:?}", gate.queue.queues());
    assert_eq!(count(&seen), 0);
    std::fs::write(&secret, "an-old-secret-of-ours\nthe-new-secret-of-ours\n").expect("written");
    eventually!(gate.queue.summary().told == 1, "{:?}", gate.queue.queues());
    // In a file.
    gate.queue_for(&format!("http://{receiver}/"), &"x".repeat(100_000)).await;
    eventually!(gate.queue.summary().told == 2, "{:?}", gate.queue.queues());
    let sign = |secret: &str, id: &str, at: &str, body: &[u8]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let message = [format!("{id}.{at}.").as_bytes(), body].concat();
        let signature = ring::hmac::sign(&key, &message);
        format!("v1,{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, signature))
    };
    let [ids, times, signatures] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| header(&seen, name));
    assert_eq!(ids[0], ids[1], "the same in each try");
    assert_ne!(ids[1], ids[2], "that of another callback, whatever the client calls it");
    for (number, (_, body)) in seen.lock().expect("no panic").iter().enumerate() {
        let at = times[number].as_deref().expect("a time");
        let id = ids[number].as_deref().expect("an id");
        let [old, new] =
            ["an-old-secret-of-ours", "the-new-secret-of-ours"].map(|secret| sign(secret, id, at, body));
        assert_eq!(signatures[number], Some(format!("{old} {new}")), "of try {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_is_told_of_without_it() {
    let seen = Seen::default();
    let receiver = noting(&seen, &[OK]).await;
    let gate = gate(&[mirror().await], "answer_limit = \"8k\"").await;
    gate.queue_for(&format!("http://{receiver}/"), &"x".repeat(9000)).await;
    eventually!(gate.queue.summary().told == 1, "{:?}", gate.queue.queues());
    gate.is_empty().await;
    assert_eq!(seen.lock().expect("no panic")[0].1, b"");
    assert_eq!(header(&seen, "x-function-status"), [Some("200".to_owned())]);
    let omitted = header(&seen, "x-body-omitted")[0].clone().expect("said");
    assert_eq!(omitted, "it is larger than 8000 bytes (queue.answer_limit)");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_function_can_be_the_receiver() {
    let seen = Seen::default();
    // The function calls itself back; the second call asks for nothing.
    let gate = gate(&[noting(&seen, &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"]).await], "").await;
    gate.queue_for("http://gateway:8080/function/env/back", "first").await;
    eventually!(gate.queue.summary().told == 1, "{:?}", gate.queue.queues());
    gate.is_empty().await;
    let seen = seen.lock().expect("no panic");
    let found: Vec<_> =
        seen.iter().map(|(head, body)| (head.lines().next().expect("a line"), &body[..])).collect();
    assert_eq!(found, [("POST /path HTTP/1.1", &b"first"[..]), ("POST /back HTTP/1.1", b"body")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_receivers_hold_up_nobody_else() {
    let silent = replica(|mut connection, _| async move { while connection.more().await {} }).await;
    let seen = Seen::default();
    let receiver = noting(&seen, &[OK]).await;
    let settings = "parallel_calls = 4\nparallel_calls_per_function = 2";
    let gate = gate(&[mirror().await], settings).await;
    for _ in 0..6 {
        gate.queue_for(&format!("http://{silent}/"), "").await;
    }
    eventually!(gate.queue.summary().made == 6, "calls: {:?}", gate.queue.queues());
    gate.queue("env", "").await;
    eventually!(gate.queue.summary().made == 7, "calls: {:?}", gate.queue.queues());
    let callbacks = |gate: &Gate| gate.queue.queues().into_iter().find(|queue| &*queue.name == "callbacks");
    let counts = callbacks(&gate).expect("there are some").counts;
    assert_eq!((counts.running, counts.ready), (1, 5), "of the places that callbacks have");
    // They can be held back, too.
    gate.queue.pause("callbacks", true).await.expect("paused");
    gate.queue_for(&format!("http://{receiver}/"), "").await;
    eventually!(gate.queue.summary().made == 8, "calls: {:?}", gate.queue.queues());
    assert_eq!(count(&seen), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_take_no_more_room_than_the_queue_has() {
    // All of it, and half, so that calls are accepted while receivers take none.
    for (settings, reason, wholes) in [
        ("max_size = \"120k\"", "120000 bytes (queue.max_size)", 1..4),
        ("max_size = \"200k\"", "100000 bytes for callbacks (half of queue.max_size)", 3..4),
    ] {
        let seen = Seen::default();
        let receiver = noting(&seen, &[OK]).await;
        let gate = gate(&[mirror().await], settings).await;
        gate.queue.pause("callbacks", true).await.expect("paused");
        for round in 1..=4 {
            let answer = gate.queue_for(&format!("http://{receiver}/"), &"x".repeat(40_000)).await;
            assert_eq!(answer.code, 202, "{}", answer.body);
            eventually!(gate.queue.summary().made == round, "{:?}", gate.queue.queues());
        }
        assert!(gate.bodies() <= 3, "{} files", gate.bodies());
        gate.queue.pause("callbacks", false).await.expect("resumed");
        eventually!(gate.queue.summary().told == 4, "{:?}", gate.queue.queues());
        gate.is_empty().await;
        let omitted = header(&seen, "x-body-omitted");
        let said = omitted.iter().flatten().filter(|omitted| omitted.contains(reason));
        assert!(said.count() >= 1, "{omitted:?}");
        let whole = seen.lock().expect("no panic").iter().filter(|(_, body)| body.len() > 40_000).count();
        assert!(wholes.contains(&whole), "{whole} of 4 had room");
        // All of the room is free again.
        gate.queue_for(&format!("http://{receiver}/"), &"x".repeat(40_000)).await;
        eventually!(gate.queue.summary().told == 5, "{:?}", gate.queue.queues());
        assert_eq!(header(&seen, "x-body-omitted")[4], None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_a_long_head_keeps_its_record_small() {
    let long: &'static str = Box::leak(
        format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(20_000))
            .into_boxed_str(),
    );
    let (seen, function) = (Seen::default(), Seen::default());
    let receiver = noting(&seen, &[OK]).await;
    let gate = gate(&[noting(&function, &[long]).await], "").await;
    gate.queue.pause("callbacks", true).await.expect("paused");
    gate.queue_for(&format!("http://{receiver}/{}", "u".repeat(900)), "").await;
    eventually!(gate.queue.summary().made == 1 && gate.stored() == 1, "{:?}", gate.queue.queues());
    let (_, row) = gate.store.jobs().next().expect("one").expect("readable");
    assert!(row.len() <= 8 << 10 && gate.bodies() == 1, "{} bytes, {} files", row.len(), gate.bodies());
    gate.queue.pause("callbacks", false).await.expect("resumed");
    eventually!(gate.queue.summary().told == 1, "{:?}", gate.queue.queues());
    assert_eq!(header(&seen, "x-long")[0].as_ref().map(String::len), Some(20_000));
    gate.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_leave_others_room_in_the_queue_and_among_those_that_were_given_up() {
    let seen = Seen::default();
    let gone = noting(&seen, &["HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"]).await;
    let function = noting(&Seen::default(), &[FAILS, OK]).await;
    let gate = gate(&[function], "retry_attempts = 1\nmax_dead = 2\nmax_calls = 8").await;
    gate.queue("env", "").await;
    eventually!(gate.queue.summary().given_up == 1, "{:?}", gate.queue.summary());
    gate.queue.pause("callbacks", true).await.expect("paused");
    for round in 1..=4 {
        assert_eq!(gate.queue_for(&format!("http://{gone}/"), "").await.code, 202);
        eventually!(gate.queue.summary().made == round, "{:?}", gate.queue.summary());
    }
    let answer = gate.queue_for(&format!("http://{gone}/"), "").await;
    assert_eq!((answer.code, answer.header("retry-after")), (429, Some("5")));
    assert!(answer.body.contains("4 calls with callbacks (half of queue.max_calls)"), "{}", answer.body);
    assert_eq!(gate.queue("env", "").await.code, 202, "others have room");
    gate.queue.pause("callbacks", false).await.expect("resumed");
    eventually!(gate.queue.summary().untold == 4, "{:?}", gate.queue.summary());
    assert_eq!(gate.queue.expire().await.expect("expired"), 3, "more than max_dead");
    let dead = gate.queue.dead(&FunctionFilter::default(), 9).await;
    let kinds: Vec<bool> = dead.iter().map(|call| call.facts.is_callback()).collect();
    assert_eq!(kinds, [true, false], "the call stays, although it is the oldest");
    assert_eq!(gate.queue_for(&format!("http://{gone}/"), "").await.code, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_listen_yet_costs_no_try() {
    let seen = Seen::default();
    let replica = noting(&seen, &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"]).await;
    let mut gate = gate(&[replica], "").await;
    gate.queue.pause("callbacks", true).await.expect("paused");
    gate.queue_for("http://gateway/function/env/back", "first").await;
    eventually!(gate.queue.summary().made == 1, "{:?}", gate.queue.queues());
    gate.begin_to_stop().await;
    gate.queue.pause("callbacks", false).await.expect("resumed");
    let held = |gate: &Gate| gate.queue.queues().iter().any(|queue| queue.counts.ready == 1);
    eventually!(held(&gate), "{:?}", gate.queue.queues());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!((gate.queue.summary().retried, count(&seen)), (0, 1), "{:?}", gate.queue.queues());
    assert!(gate.queue.queues().iter().all(|queue| queue.counts.waiting == 0), "{:?}", gate.queue.queues());
}
