use std::net::SocketAddr;

use directory::{CallStats, DirectoryWriter, Endpoint, Entry, Phase, Publisher, View};
use model::function::FunctionFilter;
use model::function::{FunctionKey, FunctionSpec, Incarnation, ReplicaId};
use model::wire::Deployment;
use temporary::TemporaryDirectory;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A queue, and one function that answers by the path of a call.
struct World {
    queue: Queue,
    store: Arc<Store>,
    config: config::Config,
    replica: SocketAddr,
    _directory: (DirectoryWriter, Mutex<Publisher>),
    _state: TemporaryDirectory,
}

fn key(name: &str) -> FunctionKey {
    FunctionKey::parse(name).expect("a name")
}

/// Answers each request as the last part of its path says; `/never` is not answered.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read(&mut byte).await.unwrap_or_default() == 0 {
                    return;
                }
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            match path.trim_start_matches('/').parse::<u16>() {
                Ok(code) => {
                    let text =
                        format!("HTTP/1.1 {code} x\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n");
                    let _ = stream.write_all(&[text.as_bytes(), &[b'x'; 5000]].concat()).await;
                    // Until the other side has read all of it.
                    let _ = stream.read_to_end(&mut head.into_bytes()).await;
                }
                Err(_) => std::future::pending().await,
            }
        });
    }
}

impl World {
    async fn new() -> Self {
        let state = temporary::TemporaryDirectory::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let replica = listener.local_addr().expect("bound");
        tokio::spawn(serve(listener));
        let settings = "[queue]\nretry_attempts = 1\nmax_calls = 40\ncallback_networks = [\"127.0.0.0/8\"]\n";
        let mut config = config::Config::parse(settings, |_| None).expect("settings");
        config.daemon.state_dir = state.path().to_owned();
        let deployment = Deployment {
            service: "env".to_owned(),
            image: "example/image:1".to_owned(),
            ..Deployment::default()
        };
        let view = View {
            spec: Arc::new(FunctionSpec::try_from(&deployment).expect("a valid deployment")),
            deployment: Arc::new(deployment),
            revision: 1,
            phase: Phase::Ready,
            reason: None,
            update: None,
            progress: None,
            endpoints: vec![Endpoint::new(ReplicaId::from_existing("env-1"), replica)],
            desired: 1,
            created_at: Timestamp::UNIX_EPOCH,
            image_digest: None,
            restarts: 0,
            oom_kills: 0,
            default_memory: None,
            last_exit: None,
            revisions: Arc::default(),
            retry_at: None,
            crash_looping: false,
            timeout: PATIENCE,
            body_limit: 1 << 20,
        };
        let (entry, publisher) = Entry::new(key("env"), Incarnation::new(1), CallStats::default(), view);
        let (directory, mut writer) = Directory::new();
        writer.insert([entry]);
        let store = Arc::new(Store::open(state.path()).expect("a store"));
        let queue = Queue::open(&config, store.clone(), directory, Handle::current()).expect("a queue");
        let running = queue.clone();
        tokio::spawn(async move { running.run().await });
        Self { queue, store, config, replica, _directory: (writer, Mutex::new(publisher)), _state: state }
    }

    /// Queues a call of `function` with this path and so many bytes; its number, and how it ends.
    async fn call(
        &self,
        function: &str,
        path: &str,
        bytes: usize,
        change: impl FnOnce(&mut JobMetadata),
    ) -> Result<(u64, oneshot::Receiver<CallState>), QueueError> {
        let mut facts = JobMetadata::new(key(function), Uuid::new_v4().to_string(), "GET".to_owned(), path);
        change(&mut facts);
        let mut draft =
            self.queue.draft(&facts, format!("GET {path} HTTP/1.1\r\nHost: a\r\n").into_bytes(), None)?;
        draft.push(&vec![b'b'; bytes]).await?;
        let (watcher, end) = oneshot::channel();
        Ok((self.queue.accept_and_watch(facts, draft, Some(watcher)).await?, end))
    }

    fn callback(&self, path: &str) -> Option<Callback> {
        Some(self.queue.callback_to(&format!("http://{}{path}", self.replica)).expect("allowed"))
    }

    async fn pause(&self, paused: bool) {
        self.queue.pause(DEFAULT_QUEUE, paused).await.expect("written");
    }

    /// Waits until the queue is so.
    async fn until(&self, what: &str, is_so: impl Fn(&Queue) -> bool) {
        let wait = async {
            while !is_so(&self.queue) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let state = || format!("{what}: {:?}, {:?}", self.queue.summary(), self.queue.0.quota);
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{}", state()));
    }
}

fn is_empty(queue: &Queue) -> bool {
    let state = queue.0.state();
    queue.0.quota.is_empty() && state.held.is_empty() && state.running.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_row_cannot_be_read_gives_its_room_back() {
    let world = World::new().await;
    world.pause(true).await;
    let (number, end) = world.call("env", "/200", 5000, |_| {}).await.expect("accepted");
    assert!(!is_empty(&world.queue));
    world.store.put_job(number, b"{".to_vec()).await.expect("written");
    world.pause(false).await;
    assert!(end.await.is_err(), "it has no end that could be told");
    world.until("the row cannot be read", is_empty).await;
    assert_eq!(world.queue.stage(number).expect("read"), Stage::Unreadable, "its row stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_is_empty_after_calls_that_ended_in_every_way() {
    let world = World::new().await;
    let queue = &world.queue;
    let mut ends = Vec::new();
    for round in 0..3 {
        let bytes = round * 5000;
        for (function, path) in [("env", "/200"), ("env", "/500"), ("gone", "/200")] {
            for callback in [None, world.callback("/200"), world.callback("/410")] {
                let keep = |facts: &mut JobMetadata| (facts.callback, facts.keep) = (callback, Some(60));
                ends.push(world.call(function, path, bytes, keep).await.expect("accepted").1);
            }
        }
        // Cancelled while it runs.
        let named = |facts: &mut JobMetadata| facts.call_id = format!("running-{round}").into();
        ends.push(world.call("env", "/never", bytes, named).await.expect("accepted").1);
        let runs = |queue: &Queue| {
            queue.call(&format!("running-{round}")).is_ok_and(|call| call.state == CallState::Running)
        };
        world.until("it runs", runs).await;
        queue.cancel(&format!("running-{round}")).await.expect("cancelled");
        for end in ends.drain(..) {
            end.await.expect("it ends");
        }
        // Cancelled while it waits; and one that nobody can read any more.
        world.pause(true).await;
        let named = |facts: &mut JobMetadata| facts.call_id = format!("waiting-{round}").into();
        world.call("env", "/200", bytes, named).await.expect("accepted");
        queue.cancel(&format!("waiting-{round}")).await.expect("cancelled");
        let (number, _) = world.call("env", "/200", bytes, |_| {}).await.expect("accepted");
        world.store.put_job(number, b"{".to_vec()).await.expect("written");
        world.pause(false).await;
        // Never accepted: the client went away, or a function of a schedule is gone.
        let facts = JobMetadata::new(key("env"), "away".to_owned(), "GET".to_owned(), "/200");
        drop(queue.draft(&facts, Vec::new(), Some(99)).expect("room"));
        let error = queue
            .accept_run(facts, &Incarnation::new(1), Vec::new(), |_| Vec::new())
            .await
            .expect_err("it is not stored");
        assert!(matches!(error, QueueError::NoFunction { .. }), "{error}");
        // Given up once more.
        let dead = queue.dead(&FunctionFilter::default(), 100).await;
        let again = dead.iter().find(|call| call.facts.callback.is_none()).expect("one was given up");
        queue.replay(again.number).await.expect("queued again");
    }
    world.until("all have ended", is_empty).await;
    let summary = queue.summary();
    assert_eq!((summary.made, summary.cancelled, summary.given_up), (9, 6, 21), "{summary:?}");
    assert_eq!((summary.told, summary.untold), (9, 9), "{summary:?}");
    queue.purge_all(&FunctionFilter::default()).await.expect("purged");
    assert_eq!((queue.dead_count(), queue.dead_size()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_running_call_succeeds_however_soon_it_ends() {
    let world = World::new().await;
    for round in 0..100 {
        let id = format!("call-{round}");
        let named = |facts: &mut JobMetadata| facts.call_id = id.as_str().into();
        world.call("env", "/never", 0, named).await.expect("accepted");
        let runs = |queue: &Queue| queue.call(&id).is_ok_and(|call| call.state == CallState::Running);
        world.until("it runs", runs).await;
        world.queue.cancel(&id).await.expect("cancelled");
        assert_eq!(world.queue.call(&id).expect("remembered").state, CallState::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_holds_what_was_held_before() {
    let world = World::new().await;
    world.pause(true).await;
    for bytes in [0, 100, 9000] {
        let callback = world.callback("/200");
        world.call("env", "/200", bytes, |facts| facts.callback = callback).await.expect("accepted");
        world.call("gone", "/200", bytes, |_| {}).await.expect("accepted");
    }
    let before = world.queue.0.quota.total();
    assert_eq!((before.calls, before.callbacks), (6, 3));
    world.queue.stop(PATIENCE).await;
    let (directory, _writer) = Directory::new();
    let next =
        Queue::open(&world.config, world.store.clone(), directory, Handle::current()).expect("a queue");
    assert_eq!(next.0.quota.total(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_not_given_out_twice_when_nothing_is_remembered() {
    let mut world = World::new().await;
    world.config.queue.max_records = 0;
    let mut last = 0;
    for _ in 0..3 {
        world.queue.stop(PATIENCE).await;
        let directory = world.queue.0.directory.clone();
        let queue = Queue::open(&world.config, world.store.clone(), directory, Handle::current());
        world.queue = queue.expect("a queue");
        let running = world.queue.clone();
        tokio::spawn(async move { running.run().await });
        let (number, end) = world.call("env", "/200", 0, |_| {}).await.expect("accepted");
        assert_eq!(end.await, Ok(CallState::Done));
        assert!(number > last, "{number} after {last}");
        last = number;
        world.until("it is forgotten", |queue| queue.0.store.call_records().next().is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_not_made_by_a_namesake_of_its_function_unless_it_is_replayed() {
    let world = World::new().await;
    let queue = &world.queue;
    let of = |life| move |facts: &mut JobMetadata| facts.incarnation = Some(Incarnation::new(life));
    let (_, end) = world.call("env", "/200", 0, of(1)).await.expect("accepted");
    assert_eq!(end.await, Ok(CallState::Done), "the function that is there");
    let (number, end) = world.call("env", "/200", 0, of(2)).await.expect("accepted");
    assert_eq!(end.await, Ok(CallState::Failed), "one that was there before");
    let dead = queue.dead(&FunctionFilter::default(), 100).await;
    let [call] = &dead[..] else { panic!("{dead:?}") };
    let reason = format!("{:?}", call.facts.tries);
    assert!(call.number == number && reason.contains("was removed"), "{call:?}");
    queue.replay(number).await.expect("queued again");
    world.until("it is made", |queue| queue.dead_count() == 0 && is_empty(queue)).await;
}
