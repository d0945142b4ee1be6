//! Calls that are queued: what is accepted, what the function gets, what is refused.

use std::sync::{Arc, Mutex};

use ::calls::queue::{Filter, JobMetadata};
use model::function::FunctionKey;
use model::wire::Deployment;

use super::{Answer, Client, Gate, SocketAddr, replica};
use crate::support::TemporaryDirectory;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// What replicas got: heads as they came, and bodies.
pub(super) type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Reads one request, with a body of a known length.
pub(super) async fn request(connection: &mut Client) -> Option<(String, Vec<u8>)> {
    while !connection.left.windows(4).any(|part| part == b"\r\n\r\n") {
        if !connection.more().await {
            return None;
        }
    }
    let head = connection.until("\r\n\r\n").await;
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let body = connection.exactly(length.map_or(0, |length| length.parse().expect("a length"))).await;
    Some((head, body))
}

/// A replica that notes what it gets, and answers with the next of these answers, the last one again and again.
pub(super) async fn noting(seen: &Seen, answers: &[&'static str]) -> SocketAddr {
    let (seen, answers) = (seen.clone(), answers.to_vec());
    replica(move |mut connection, _| {
        let (seen, answers) = (seen.clone(), answers.clone());
        async move {
            while let Some(found) = request(&mut connection).await {
                let answer = {
                    let mut seen = seen.lock().expect("no panic");
                    seen.push(found);
                    answers[(seen.len() - 1).min(answers.len() - 1)]
                };
                connection.send(answer).await;
            }
        }
    })
    .await
}

impl Gate {
    /// Queues a call of this path with this body.
    pub(super) async fn queue(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("POST /async-function/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n");
        self.call(&format!("{head}\r\n{body}")).await
    }

    /// How many calls are stored that are to be made.
    pub(super) fn stored(&self) -> usize {
        self.store.jobs().count()
    }

    /// Files of bodies.
    pub(super) fn bodies(&self) -> usize {
        std::fs::read_dir(self.state.path().join("queue")).expect("there").count()
    }

    /// Gives the function these annotations.
    pub(super) fn annotate(&self, annotations: &[(&str, &str)]) {
        let mut view = (*self.entry.view()).clone();
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let deployment =
            Deployment { annotations: Some(annotations.collect()), ..(*view.deployment).clone() };
        view.spec = Arc::new((&deployment).try_into().expect("a valid deployment"));
        self.publish(view);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_call_reaches_its_function_as_it_was_sent() {
    let seen = Seen::default();
    let gate = Gate::new(&[noting(&seen, &[OK]).await]).await;
    let mut client = gate.connect().await;
    client
        .send(
            "PUT /async-function/env/a%20b?c=1 HTTP/1.1\r\nHost: example.org\r\nX-Call-Id: mine\r\nX-Mine: 1\r\n\
             Expect: 100-continue\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n",
        )
        .await;
    client.until("100 Continue\r\n\r\n").await;
    client.send("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.body.as_str(), answer.header("x-call-id")), (202, "", Some("mine")));
    // The connection is kept.
    client.send("GET /async-function/env.openfaas-fn HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.code, 202);
    let id = answer.header("x-call-id").expect("a new one").to_owned();
    eventually!(gate.queue.summary().made == 2, "{:?}", gate.queue.queues());
    assert_eq!(gate.stored(), 0, "they are still queued");
    let seen = seen.lock().expect("no panic");
    let (mut put, mut get) = (&seen[0], &seen[1]);
    if get.0.starts_with("PUT") {
        (put, get) = (get, put);
    }
    assert!(put.0.starts_with("PUT /a%20b?c=1 HTTP/1.1\r\n"), "{}", put.0);
    for line in [
        "Host: example.org",
        "X-Call-Id: mine",
        "X-Mine: 1",
        "Content-Length: 5",
        "X-Forwarded-For: 127.0.0.1",
    ] {
        assert!(put.0.contains(&format!("{line}\r\n")), "{line} is not in {}", put.0);
    }
    for line in ["Expect", "Transfer-Encoding", "TE:"] {
        assert!(!put.0.contains(line), "{line} is in {}", put.0);
    }
    assert_eq!(put.1, b"hello");
    assert!(get.0.starts_with("GET / HTTP/1.1\r\n") && get.0.to_lowercase().contains(&id), "{}", get.0);
    assert!(!get.0.contains("Content-Length"), "{}", get.0);
    assert_eq!(gate.entry.stats.snapshot().started, 2, "they count as calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_goes_through_a_file_and_leaves_none() {
    let seen = Seen::default();
    let gate = Gate::new(&[noting(&seen, &[OK]).await]).await;
    gate.queue.pause("default", true).await.expect("paused");
    let body = "0123456789".repeat(300_000);
    assert_eq!(gate.queue("env", &body).await.code, 202);
    assert_eq!((gate.stored(), gate.bodies()), (1, 1));
    gate.queue.pause("default", false).await.expect("resumed");
    eventually!(gate.stored() == 0 && gate.bodies() == 0, "{} and {}", gate.stored(), gate.bodies());
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.len(), 1);
    assert!(seen[0].1 == body.as_bytes(), "the body is another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_head_goes_through_a_file_and_leaves_none() {
    let seen = Seen::default();
    let gate = Gate::new(&[noting(&seen, &[OK]).await]).await;
    gate.queue.pause("default", true).await.expect("paused");
    let long = "h".repeat(9000);
    let head =
        format!("POST /async-function/env HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\nContent-Length: 2\r\n");
    assert_eq!(gate.call(&format!("{head}\r\nhi")).await.code, 202);
    assert_eq!((gate.stored(), gate.bodies()), (1, 1));
    // The store's own files are looked through at the start only.
    let files = std::fs::read_dir(gate.state.path().join("large")).expect("there").count();
    assert_eq!(files, 0);
    gate.queue.pause("default", false).await.expect("resumed");
    eventually!(gate.stored() == 0 && gate.bodies() == 0, "{} and {}", gate.stored(), gate.bodies());
    {
        let seen = seen.lock().expect("no panic");
        assert!(seen[0].0.contains(&format!("X-Long: {long}\r\n")), "the head is another");
        assert_eq!(seen[0].1, b"hi");
    }
    // What is longer is refused before its body.
    let longer =
        format!("GET /async-function/env HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "h".repeat(66_000));
    let answer = gate.call(&longer).await;
    assert_eq!(answer.code, 431, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_any_more_harms_nothing_else() {
    let state = Arc::new(TemporaryDirectory::new());
    let gate = Gate::over(state.clone(), "", &[], |_, _| {}).await;
    gate.queue.pause("default", true).await.expect("paused");
    for number in 0..3 {
        assert_eq!(gate.queue(&format!("env/{number}"), &"x".repeat(5000)).await.code, 202);
    }
    let mut gate = gate;
    gate.begin_to_stop().await;
    gate.queue.stop(super::PATIENCE).await;
    // A file system of its own has this, and somebody's disk lost the rest.
    let spool = state.path().join("queue");
    std::fs::create_dir(spool.join("lost+found")).expect("made");
    let file = std::fs::read_dir(&spool).expect("there").map(|entry| entry.expect("an entry").path());
    let file = file.filter(|path| path.is_file()).min().expect("a file");
    std::fs::remove_file(file).expect("removed");
    gate.store.put_job(99, b"of a later version".to_vec()).await.expect("kept");
    gate.store.close().await;
    gate.stopped().await;

    let seen = Seen::default();
    let gate = Gate::over(state, "", &[noting(&seen, &[OK]).await], |_, _| {}).await;
    gate.queue.pause("default", false).await.expect("resumed");
    eventually!(gate.queue.summary().made == 2, "{:?}", gate.queue.summary());
    eventually!(gate.queue.summary().given_up == 1, "{:?}", gate.queue.summary());
    let dead = gate.queue.dead(&model::function::FunctionFilter::default(), 9).await;
    assert!(dead[0].facts.tries[0].reason.contains("cannot be read from the disk"), "{dead:?}");
    assert_eq!(gate.stored(), 1, "what a later version may know is left");
    assert_eq!(gate.queue("env", "").await.code, 202);
    eventually!(gate.queue.summary().made == 3, "{:?}", gate.queue.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_kept() {
    let state = Arc::new(TemporaryDirectory::new());
    let seen = Seen::default();
    let replicas = [noting(&seen, &[OK]).await];
    let gate =
        Gate::over(state, "body_limit = \"10k\"\nmax_calls = 1\nmax_size = \"15k\"", &replicas, |_, _| {})
            .await;
    gate.queue.pause("default", true).await.expect("paused");
    let large = "x".repeat(10_001);
    for (request, code, text) in [
        ("POST /async-function/none HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_owned(), 404, "function none was not found"),
        (format!("POST /async-function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 10001\r\n\r\n{large}"), 413, "10000 bytes"),
        (format!("POST /async-function/env HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2711\r\n{large}\r\n0\r\n\r\n"), 413, "10000 bytes"),
        ("POST /async-function/env HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(), 400, "malformed"),
        ("GET /async-function/env HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(), 400, "Upgrade"),
        ("POST /async-function/env HTTP/1.1\r\nHost: a\r\nX-Callback-Url: b/c\r\nContent-Length: 0\r\n\r\n".to_owned(), 400, "X-Callback-Url"),
    ] {
        let answer = gate.call(&request).await;
        assert_eq!(answer.code, code, "{request:.200}: {}", answer.body);
        assert!(answer.body.contains(text), "{}", answer.body);
        assert_eq!((gate.stored(), gate.bodies()), (0, 0), "{request:.200}");
    }
    // A client that leaves in the middle.
    let mut client = gate.connect().await;
    client.send("POST /async-function/env HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n").await;
    client.send("x".repeat(8000)).await;
    eventually!(gate.bodies() == 1, "nothing is taken in");
    drop(client);
    eventually!(gate.bodies() == 0, "its body stays");
    // The queue is full.
    assert_eq!(gate.queue("env", &"x".repeat(6000)).await.code, 202);
    for body in ["", "x"] {
        let answer = gate.queue("env", body).await;
        assert_eq!((answer.code, answer.header("retry-after")), (429, Some("5")), "{}", answer.body);
        assert!(answer.body.contains("1 calls (queue.max_calls)"), "{}", answer.body);
    }
    assert_eq!((gate.stored(), gate.bodies()), (1, 1));
    assert!(seen.lock().expect("no panic").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_function_leaves_others_room() {
    let room = |settings: &'static str| async move {
        let gate = Gate::over(Arc::new(TemporaryDirectory::new()), settings, &[], |_, _| {});
        let gate = gate.await;
        gate.queue.pause("default", true).await.expect("paused");
        gate
    };
    for (gate, size, part) in [
        (room("max_calls = 5").await, 1, "3 calls of env.openfaas-fn"),
        (room("max_size = \"40k\"").await, 6800, "20000 bytes for env.openfaas-fn"),
    ] {
        let facts = |name: &str, number: u32| {
            let function = FunctionKey::parse(name).expect("a name");
            JobMetadata::new(function, format!("{name}-{number}"), "POST".to_owned(), "/")
        };
        let refused = async || {
            let answer = gate.queue("env", "x").await;
            assert_eq!((answer.code, answer.header("retry-after")), (429, Some("5")), "{}", answer.body);
            assert!(answer.body.contains(part), "{}", answer.body);
        };
        // Of one that does not end to send, and of one that has.
        let mut slow = Vec::new();
        for number in 0..3 {
            let mut draft = gate.queue.draft(&facts("env", number), Vec::new(), None).expect("there is room");
            draft.push(&vec![b'x'; size]).await.expect("taken in");
            slow.push(draft);
        }
        refused().await;
        if size > 1 {
            // It may go on, and no other of them once it has half without that one.
            slow[0].push(&vec![b'x'; size]).await.expect("taken in");
            let error = slow[1].push(b"x").await.expect_err("there is no room").to_string();
            assert!(error.contains(part), "{error}");
        }
        drop(slow);
        for _ in 0..3 {
            assert_eq!(gate.queue("env", &"x".repeat(size)).await.code, 202);
        }
        refused().await;
        // What another one is sent, in its place.
        for number in 0..2 {
            let facts = facts("other", number);
            let mut draft = gate.queue.draft(&facts, Vec::new(), None).expect("there is room");
            draft.push(&vec![b'x'; size]).await.expect("taken in");
            gate.queue.accept(facts, draft).await.expect("accepted");
        }
        // What has left leaves room.
        let (number, _) = gate.store.jobs().next().expect("one").expect("readable");
        let first = gate.queue.calls(Filter::default(), 9).await.pop().expect("a call");
        gate.queue.cancel(&first.call_id).await.expect("cancelled");
        assert!(gate.store.job(number).expect("readable").is_none(), "another one went");
        assert_eq!(gate.queue("env", &"x".repeat(size)).await.code, 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_made_by_the_next_process() {
    let state = Arc::new(TemporaryDirectory::new());
    let gate = Gate::over(state.clone(), "", &[], |_, _| {}).await;
    gate.queue.pause("default", true).await.expect("paused");
    for number in 0..20 {
        assert_eq!(gate.queue(&format!("env/{number}"), &"x".repeat(number * 1000)).await.code, 202);
    }
    let mut gate = gate;
    gate.begin_to_stop().await;
    gate.queue.stop(super::PATIENCE).await;
    gate.store.close().await;
    gate.stopped().await;
    // What a crash would have left beside.
    std::fs::write(state.path().join("queue/0a0a0a0a-0000-4000-8000-000000000000"), "x").expect("written");

    let seen = Seen::default();
    let gate =
        Gate::over(state, "parallel_calls_per_function = 1", &[noting(&seen, &[OK]).await], |_, _| {}).await;
    assert_eq!(gate.queue.queues()[0].counts.ready, 20, "it is still paused");
    assert_eq!(gate.bodies(), 16);
    gate.queue.pause("default", false).await.expect("resumed");
    eventually!(gate.stored() == 0 && gate.bodies() == 0, "{} and {}", gate.stored(), gate.bodies());
    let seen = seen.lock().expect("no panic");
    let lengths: Vec<_> =
        seen.iter().map(|(head, body)| (head.split(' ').nth(1).expect("a path"), body.len())).collect();
    let wanted: Vec<_> = (0..20).map(|number| (format!("/{number}"), number * 1000)).collect();
    assert!(
        lengths.iter().zip(&wanted).all(|(found, wanted)| *found == (wanted.0.as_str(), wanted.1)),
        "{lengths:?}"
    );
    assert_eq!(seen.len(), 20);
}
