//! Calls through the gateway's real server to replicas that are written by hand, byte by byte, so
//! that they can misbehave.
//!
//! ```text
//! calls      what a function gets, what a client gets
//! bodies     streaming, limits, lengths and chunks
//! replicas   closed and refused connections, waiting, timeouts
//! smuggling  damaged streams of requests, and what the function sees of them
//! strangers  replicas that say more than they were asked
//! clients    clients that are slow, malformed, impatient, or gone
//! ecosystem  published servers and clients
//! cron       functions that are called by a schedule
//! later      calls that are queued: what is accepted, what the function gets, what is refused
//! retries    calls that are made again, and those that are given up
//! roads      every way on which a request is passed on: the gateway, the watchdog, and both
//! reserved   the admin's credentials and the gateway's cookies and realm stay the gateway's
//! callbacks  answers of queued calls that are sent on
//! records    what is known of queued calls before and after their end, and how they are cancelled
//! skills     requests that name their function in the body
//! api        what is not a function goes to the router
//! stopping   what a stop waits for
//! ```

mod api;
mod bodies;
mod callbacks;
mod calls;
mod clients;
mod cron;
mod ecosystem;
mod later;
mod records;
mod replicas;
mod reserved;
mod retries;
mod roads;
mod skills;
mod smuggling;
mod stopping;
mod strangers;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::TemporaryDirectory;
use ::calls::queue::Queue;
use directory::CallStats;
use directory::{Directory, DirectoryWriter, Endpoint, Entry, Publisher, View};
use host::liveness::Liveness;
use host::store::Store;
use ingle::gateway::access::Access;
use ingle::gateway::access::basic::Credentials;
use ingle::gateway::access::exposure::Exposure;
use ingle::gateway::server::{Gateway, Limits, serve};
use model::config::Config;
use model::function::{Incarnation, ReplicaId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::support::view::view;

/// Longer than anything here takes, short enough not to hold a broken run up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway with the function `env`.
struct Gate {
    address: SocketAddr,
    entry: Arc<Entry>,
    directory: Arc<Directory>,
    writer: Mutex<DirectoryWriter>,
    publisher: Mutex<Publisher>,
    queue: Queue,
    store: Arc<Store>,
    state: Arc<TemporaryDirectory>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Gate {
    /// In front of these replicas.
    async fn new(replicas: &[SocketAddr]) -> Self {
        Self::with(replicas, |_, _| {}).await
    }

    /// The same, with other settings.
    async fn with(replicas: &[SocketAddr], change: impl FnOnce(&mut View, &mut Limits)) -> Self {
        let state = Arc::new(TemporaryDirectory::new());
        Self::over(state, "", replicas, change).await
    }

    /// The same, with this state and these settings of the queue.
    async fn over(
        state: Arc<TemporaryDirectory>,
        queue: &str,
        replicas: &[SocketAddr],
        change: impl FnOnce(&mut View, &mut Limits),
    ) -> Self {
        let settings = format!("[daemon]\nthreads = 2\n[gateway]\nalexa = true\n[queue]\n{queue}");
        let mut config = Config::parse(&settings, |_| None).expect("settings");
        config.daemon.state_dir = state.path().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        config.gateway.listen = address;
        let mut limits = Limits { drain: PATIENCE, ..Limits::of(&config) };
        let mut view = view("env", replicas.iter().map(|address| endpoint(*address)).collect());
        change(&mut view, &mut limits);
        let (entry, publisher) =
            Entry::new(view.spec.key.clone(), Incarnation::new(1), CallStats::default(), view);
        let (directory, mut writer) = Directory::new();
        writer.insert([entry.clone()]);
        let store = Arc::new(Store::open(state.path()).expect("a store"));
        let queue =
            Queue::open(&config, store.clone(), directory.clone(), Handle::current()).expect("a queue");
        let subnet = "10.62.0.0/16".parse().expect("a network");
        let exposure = Exposure::of(&config.gateway, subnet, [10, 62, 0, 1].into());
        let credentials = Credentials::new("admin", "secret");
        let gateway = Gateway {
            directory: directory.clone(),
            queue: queue.clone(),
            access: Arc::new(Access::new(&config.gateway, Some(credentials), exposure)),
            liveness: Liveness::default(),
            api: api::router(),
        };
        tokio::spawn({
            let queue = queue.clone();
            async move { queue.run().await }
        });
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, gateway, limits, async {
            let _ = stopped.await;
        }));
        let (writer, publisher) = (Mutex::new(writer), Mutex::new(publisher));
        Self { address, entry, directory, writer, publisher, queue, store, state, stop: Some(stop), served }
    }

    /// Publishes another view of the function.
    fn publish(&self, view: View) {
        self.publisher.lock().expect("not poisoned").publish(view);
    }

    /// Takes the function out of the directory.
    fn remove(&self) {
        self.writer.lock().expect("not poisoned").remove(&self.entry.key);
    }

    async fn connect(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.expect("the gateway listens"),
            left: Vec::new(),
        }
    }

    /// Begins to stop; returns when no new connection is taken.
    async fn begin_to_stop(&mut self) {
        self.stop.take().expect("not stopped yet").send(()).expect("it runs");
        eventually!(
            TcpStream::connect(self.address).await.is_err(),
            "new connections are taken while stopping"
        );
    }

    /// Waits until it has stopped.
    async fn stopped(self) {
        let served = tokio::time::timeout(PATIENCE, self.served).await.expect("it stops");
        served.expect("no panic").expect("no error");
    }

    /// Sends one request on a connection of its own and reads the answer.
    async fn call(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer().await
    }
}

fn endpoint(address: SocketAddr) -> Arc<Endpoint> {
    Endpoint::new(ReplicaId::from_existing(&format!("env-{}", address.port())), address)
}

/// An address where nothing listens, also none of the tests that run beside this one: each process has its own.
async fn nowhere() -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 64 | high, middle, low);
    let listener = TcpListener::bind((own, 0)).await.expect("loopback");
    listener.local_addr().expect("bound")
}

/// One side of a connection, and what was read on it beyond what was asked for.
struct Client {
    stream: TcpStream,
    left: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    code: u16,
    /// The head as text, in lower case.
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

impl Client {
    async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.expect("the other side reads");
    }

    /// Reads more. `false`: the other side has closed.
    async fn more(&mut self) -> bool {
        let mut piece = [0; 4096];
        let count = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece)).await.expect("in time");
        let count = count.unwrap_or(0);
        self.left.extend_from_slice(&piece[..count]);
        count > 0
    }

    /// Reads until `text` has come; what came up to its end.
    async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.left.windows(text.len()).position(|part| part == text.as_bytes()) {
                let rest = self.left.split_off(at + text.len());
                return String::from_utf8(std::mem::replace(&mut self.left, rest)).expect("text");
            }
            assert!(
                self.more().await,
                "closed before {text:?}; got {:?}",
                String::from_utf8_lossy(&self.left)
            );
        }
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.left.len() < count {
            assert!(self.more().await, "closed after {} of {count} bytes", self.left.len());
        }
        let rest = self.left.split_off(count);
        std::mem::replace(&mut self.left, rest)
    }

    /// Reads to the end of the stream.
    async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.left)
    }

    async fn head(&mut self) -> Answer {
        let head = self.until("\r\n\r\n").await.to_ascii_lowercase();
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Answer { code, head, body: String::new() }
    }

    /// One whole answer to a request that was not HEAD.
    async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        let body = if let Some(length) = answer.header("content-length") {
            let length = length.parse().expect("a length");
            self.exactly(length).await
        } else if answer.header("transfer-encoding") == Some("chunked") {
            self.chunks().await
        } else if answer.code == 204 || answer.code == 304 || answer.code < 200 {
            Vec::new()
        } else {
            self.rest().await
        };
        answer.body = String::from_utf8(body).expect("text");
        answer
    }

    /// A body in chunks.
    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.until("\r\n").await;
            let size = usize::from_str_radix(line.trim(), 16).expect("a size");
            let chunk = self.exactly(size + 2).await;
            if size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
}

/// A replica: a listener, and what it does with each connection.
async fn replica<F>(serve: impl Fn(Client, usize) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(Client { stream, left: Vec::new() }, number));
        }
    });
    address
}

/// A replica that answers every request with `answer`, whatever it was.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = answer.into();
    replica(move |mut connection, _| {
        let answer = answer.clone();
        async move {
            while connection.more().await {
                if connection.left.ends_with(b"\r\n\r\n") {
                    connection.left.clear();
                    connection.send(&answer).await;
                }
            }
        }
    })
    .await
}

/// A replica that answers with the request as it got it: head and body are the body.
async fn mirror() -> SocketAddr {
    replica(|mut connection, number| async move {
        loop {
            let head = loop {
                if let Some(at) = connection.left.windows(4).position(|part| part == b"\r\n\r\n") {
                    let rest = connection.left.split_off(at + 4);
                    break String::from_utf8(std::mem::replace(&mut connection.left, rest)).expect("text");
                }
                if !connection.more().await {
                    return;
                }
            };
            let lower = head.to_ascii_lowercase();
            let body = if lower.contains("transfer-encoding: chunked") {
                connection.chunks().await
            } else {
                let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
                connection.exactly(length.map_or(0, |length| length.parse().expect("a length"))).await
            };
            let length = head.len() + body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Connection: {number}\r\n\r\n");
            connection.send(answer).await;
            connection.send(head).await;
            connection.send(body).await;
        }
    })
    .await
}
