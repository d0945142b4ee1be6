//! A gateway with one function, whose replica sends prepared responses.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calls::queue::Queue;
use directory::{CallStats, Directory, DirectoryWriter, Endpoint, Entry, Phase, Publisher, View};
use host::liveness::Liveness;
use host::store::Store;
use http1::{HeadScan, ResponseHead, slots};
use ingle::gateway::access::Access;
use ingle::gateway::access::basic::Credentials;
use ingle::gateway::access::exposure::Exposure;
use ingle::gateway::server::{Gateway, Limits, serve};
use model::config::Config;
use model::function::{FunctionSpec, Incarnation, ReplicaId};
use model::wire::Deployment;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// Time after which the other side has read a piece.
const PAUSE: Duration = Duration::from_millis(1);

/// The response of a replica, in pieces of this many bytes.
type Answer = Arc<Mutex<(Vec<u8>, usize)>>;

pub(crate) struct Gate {
    address: SocketAddr,
    answer: Answer,
    // These live as long as the gateway.
    _runtime: Runtime,
    _state: TempDir,
    _directory: (DirectoryWriter, Publisher),
}

impl Gate {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let state = tempfile::tempdir()?;
        let mut config = Config::parse("[daemon]\nthreads = 1", |_| None).map_err(anyhow::Error::msg)?;
        config.daemon.state_dir = state.path().to_owned();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        config.gateway.listen = address;
        let answer = Answer::new(Mutex::new((PLAIN.to_vec(), usize::MAX)));
        let view = view(replica(answer.clone())?)?;
        let (entry, publisher) =
            Entry::new(view.spec.key.clone(), Incarnation::new(1), CallStats::default(), view);
        let (directory, mut writer) = Directory::new();
        writer.insert([entry]);
        let store = Arc::new(Store::open(state.path())?);
        let queue = Queue::open(&config, store, directory.clone(), runtime.handle().clone())?;
        let exposure = Exposure::of(&config.gateway, "10.62.0.0/16".parse()?, [10, 62, 0, 1].into());
        let access =
            Arc::new(Access::new(&config.gateway, Some(Credentials::new("admin", "secret")), exposure));
        let gateway =
            Gateway { directory, queue, access, liveness: Liveness::default(), api: axum::Router::new() };
        runtime.spawn(serve(listener, gateway, Limits::of(&config), std::future::pending()));
        let directory = (writer, publisher);
        Ok(Self { address, answer, _runtime: runtime, _state: state, _directory: directory })
    }

    /// Sends a request in pieces and reads the response.
    pub(crate) fn call(&self, request: &[u8], piece: usize) {
        let mut stream = TcpStream::connect(self.address).expect("the gateway listens");
        send(&mut stream, request, piece);
        let (mut got, mut used, mut scan) = (Vec::new(), 0, HeadScan::default());
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = stream.read(&mut buffer).unwrap_or_default();
            assert!(count > 0, "there is no answer after {:?}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&buffer[..count]);
            while scan.is_due(&got[used..]) {
                let mut slots = slots();
                let parsed = ResponseHead::parse(&got[used..], &mut slots, false).expect("an answer");
                let Some((head, length)) = parsed else { break };
                if head.code >= 200 {
                    drop(stream);
                    // The gateway is done with it, too.
                    pause();
                    return;
                }
                (used, scan) = (used + length, HeadScan::default());
            }
        }
    }

    /// Calls the function, which sends this response in pieces.
    pub(crate) fn answered(&self, answer: &[u8], piece: usize) {
        *self.answer.lock().expect("not poisoned") = (answer.to_vec(), piece);
        self.call(b"GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n", usize::MAX);
        *self.answer.lock().expect("not poisoned") = (PLAIN.to_vec(), usize::MAX);
    }
}

#[expect(clippy::disallowed_methods, reason = "these threads are the test's own, and serve nobody")]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn send(stream: &mut TcpStream, bytes: &[u8], piece: usize) {
    stream.set_nodelay(true).expect("an open socket");
    for piece in bytes.chunks(piece) {
        // The gateway may refuse a request before all of it is sent.
        if stream.write_all(piece).is_err() {
            return;
        }
        if piece.len() < bytes.len() {
            pause();
        }
    }
}

/// A replica that answers one call on each connection.
fn replica(answer: Answer) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut last = [0; 4];
            let mut bytes = BufReader::new(&stream).bytes();
            while last != *b"\r\n\r\n" {
                let Some(Ok(byte)) = bytes.next() else { break };
                last = [last[1], last[2], last[3], byte];
            }
            let (bytes, piece) = answer.lock().expect("not poisoned").clone();
            send(&mut stream, &bytes, piece);
        }
    });
    Ok(address)
}

fn view(replica: SocketAddr) -> anyhow::Result<View> {
    let deployment =
        Deployment { service: "env".to_owned(), image: "a/b:1".to_owned(), ..Deployment::default() };
    let spec = FunctionSpec::try_from(&deployment)?;
    Ok(View {
        deployment: Arc::new(deployment),
        spec: Arc::new(spec),
        revision: 1,
        phase: Phase::Ready,
        reason: None,
        update: None,
        progress: None,
        endpoints: vec![Endpoint::new(ReplicaId::from_existing("env-1"), replica)],
        desired: 1,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        image_digest: None,
        restarts: 0,
        crash_looping: false,
        default_memory: None,
        oom_kills: 0,
        last_exit: None,
        revisions: Arc::default(),
        retry_at: None,
        timeout: Duration::from_secs(60),
        body_limit: 1 << 20,
    })
}
