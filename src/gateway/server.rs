//! Takes connections and hands them to the threads that serve them.
//!
//! Each thread has a runtime, a share of every replica's connections and its buffers to itself, so a
//! call never leaves its thread: no wake-up crosses a core, and no lock is contended. A new
//! connection goes to the thread that has the fewest; listeners of their own for each thread
//! (`SO_REUSEPORT`) would spread a handful of clients by chance.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::connection;
use calls::queue::Queue;
use directory::Directory;
use directory::assign_shard;
use model::config::Config;

/// The pause after the kernel could not give a connection out, as when files have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often connections to replicas are looked through for old ones.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// How long a client that keeps a connection is given to send one more request when stopping: it is
/// answered, and told that the connection ends. A connection that is closed while a request is on its
/// way to it would lose that request.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How often it is looked whether the last call has ended, when stopping.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);

/// What the gateway serves.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The functions that can be called.
    pub directory: Arc<Directory>,
    /// The calls that are made later.
    pub queue: Queue,
    /// Everything that is not `/function/…`. Its handlers run on the runtime that called [`serve`],
    /// never on the threads that carry calls.
    pub api: Router,
}

/// The bounds that the gateway holds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest head of a request in bytes.
    pub header_limit: usize,
    /// How long a client may take to send a head, or stay silent or not read.
    pub idle_timeout: Duration,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Calls that may wait for one function.
    pub max_waiting: usize,
    /// Threads that serve.
    pub threads: usize,
    /// How long calls that are running may take to end when the gateway stops.
    pub drain: Duration,
}

impl Limits {
    /// Those of the configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            header_limit: config.gateway.header_limit,
            idle_timeout: config.gateway.idle_timeout,
            max_connections: config.gateway.max_connections,
            max_waiting: config.functions.max_waiting,
            threads: config.daemon.threads,
            drain: config.gateway.drain_timeout,
        }
    }
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) gateway: Gateway,
    pub(super) limits: Limits,
    /// Where the API's handlers run.
    pub(super) runtime: Handle,
    closing: AtomicBool,
    connections: AtomicUsize,
    /// Requests whose end a stop waits for.
    busy: AtomicUsize,
}

impl Worker {
    /// Whether connections end with the request they are at.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Counts a request until it is dropped.
    pub(super) fn begin(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(&self.busy)
    }

    /// Takes the request that is being served out of the count until this is dropped.
    pub(super) fn stop_awaiting(&self) -> Unawaited<'_> {
        self.busy.fetch_sub(1, Ordering::Relaxed);
        Unawaited(&self.busy)
    }
}

/// A request that is being served.
pub(super) struct Busy<'a>(&'a AtomicUsize);

/// A request that is being served, and may be cut off when the gateway stops.
pub(super) struct Unawaited<'a>(&'a AtomicUsize);

impl Drop for Unawaited<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on its way to its thread.
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: Place,
}

/// One connection of a thread, and of all; given back when dropped, also by a task that panics.
struct Place {
    worker: Arc<Worker>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(worker: &Arc<Worker>, permit: OwnedSemaphorePermit) -> Self {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Self { worker: worker.clone(), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Thread {
    worker: Arc<Worker>,
    connections: mpsc::UnboundedSender<Accepted>,
    handle: std::thread::JoinHandle<()>,
}

/// Serves until `shutdown`, then lets running calls end.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let threads = (0..limits.threads)
        .map(|index| Thread::start(index, &gateway, &limits))
        .collect::<io::Result<Vec<_>>>()?;
    tokio::select! {
        () = accept(&listener, &threads, limits.max_connections) => {}
        () = shutdown => {}
    }
    drop(listener);
    drain(&threads, limits.drain).await;
    tokio::task::spawn_blocking(move || {
        for Thread { connections, handle, .. } in threads {
            drop(connections);
            if handle.join().is_err() {
                tracing::error!("a thread that serves calls has panicked");
            }
        }
    })
    .await
    .map_err(io::Error::other)
}

async fn accept(listener: &TcpListener, threads: &[Thread], max_connections: usize) {
    let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    let mut next = 0;
    loop {
        // First the permit: what is over the limit waits in the kernel's backlog.
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Given to another runtime, which registers it anew. A socket that fails here is dead.
        let Ok(stream) = stream.set_nodelay(true).and_then(|()| stream.into_std()) else { continue };
        next += 1;
        let (before, after) = threads.split_at(next % threads.len());
        let load = |thread: &&Thread| thread.worker.connections.load(Ordering::Relaxed);
        let Some(thread) = after.iter().chain(before).min_by_key(load) else { return };
        let place = Place::take(&thread.worker, permit);
        if thread.connections.send(Accepted { stream, peer, place }).is_err() {
            tracing::error!("a thread that serves calls is gone");
            return;
        }
    }
}

/// Lets every connection end after the request that it is at, or the next one. Waits until all have
/// ended, or those that are left are tunnels or send nothing; no longer than `limit`.
async fn drain(threads: &[Thread], limit: Duration) {
    let start = Instant::now();
    for thread in threads {
        thread.worker.closing.store(true, Ordering::Relaxed);
    }
    let sum = |count: fn(&Worker) -> &AtomicUsize| {
        threads.iter().map(|thread| count(&thread.worker).load(Ordering::Relaxed)).sum::<usize>()
    };
    let busy = || sum(|worker| &worker.busy);
    let (mut open, mut changed) = (0, start);
    loop {
        let now = sum(|worker| &worker.connections);
        if now != open {
            (open, changed) = (now, Instant::now());
        }
        // While others end, those that are left are only slow.
        let is_quiet = changed.elapsed() >= LAST_REQUEST && busy() == 0;
        if open == 0 || is_quiet || start.elapsed() >= limit {
            break;
        }
        sleep(DRAIN_PAUSE).await;
    }
    if busy() > 0 {
        tracing::warn!(calls = busy(), "stopping in the middle of calls that did not end in time");
    }
}

impl Thread {
    fn start(index: usize, gateway: &Gateway, limits: &Limits) -> io::Result<Self> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let worker = Arc::new(Worker {
            gateway: gateway.clone(),
            limits: limits.clone(),
            runtime: Handle::current(),
            closing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = {
            let worker = worker.clone();
            move || {
                assign_shard(index);
                runtime.block_on(take(worker, accepted));
            }
        };
        let handle = std::thread::Builder::new().name(format!("calls-{index}")).spawn(run)?;
        Ok(Self { worker, connections, handle })
    }
}

/// A thread's life: serves the connections that it is given, until there will be no more.
async fn take(worker: Arc<Worker>, mut accepted: mpsc::UnboundedReceiver<Accepted>) {
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            next = accepted.recv() => match next {
                Some(accepted) => start(&worker, accepted),
                None => return,
            },
            _ = sweep.tick() => {
                for entry in worker.gateway.directory.all() {
                    entry.peek().endpoints.iter().for_each(|endpoint| endpoint.pool.evict_idle());
                }
            }
        }
    }
}

fn start(worker: &Arc<Worker>, accepted: Accepted) {
    let worker = worker.clone();
    let Accepted { stream, peer, place } = accepted;
    tokio::spawn(async move {
        // Registering fails only when the socket, or this thread, is at its end.
        if let Ok(stream) = TcpStream::from_std(stream) {
            connection::serve(stream, peer, worker).await;
        }
        drop(place);
    });
}
