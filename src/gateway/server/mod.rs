//! Takes connections and hands them to the threads that serve them.
//!
//! Each thread has a runtime, a share of every replica's connections and its buffers to itself, so a
//! call never leaves its thread: no wake-up crosses a core, and no lock is contended. A new
//! connection goes to the thread that has the fewest; listeners of their own for each thread
//! (`SO_REUSEPORT`) would spread a handful of clients by chance.

pub mod listener;

pub use super::connection::worker::{Gateway, Limits};

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use directory::assign_shard;
use forward::Stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::listener::{Listeners, Socket};
use super::access::client::{Client, Listener};
use super::connection::Connection;
use super::connection::places::{Place, Places, Pool, Source};
use super::connection::worker::Worker;
use super::routes;

/// The pause after the kernel could not give a connection out, as when files have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that were taken from the kernel's backlog and have no place yet: only so is it known whose they are.
const WAITING: usize = 1024;
/// How often it is looked for connections that could give way to those.
const ROOM_PAUSE: Duration = Duration::from_millis(10);
/// How often connections to replicas are looked through for old ones.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// How long a client that keeps a connection is given to send one more request when stopping: it is
/// answered, and told that the connection ends. A connection that is closed while a request is on its
/// way to it would lose that request.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How often it is looked whether the last call has ended, when stopping.
const DRAIN_PAUSE: Duration = Duration::from_millis(10);

/// A connection on its way to its thread.
struct Accepted {
    socket: OwnedFd,
    client: Client,
    place: Place,
    counted: Counted,
}

/// One connection of a thread, until it is dropped, also by a task that panics.
struct Counted(Arc<Worker>);

impl Counted {
    fn new(worker: &Arc<Worker>) -> Self {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Self(worker.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Thread {
    worker: Arc<Worker>,
    connections: mpsc::UnboundedSender<Accepted>,
    handle: std::thread::JoinHandle<()>,
}

/// Serves until `shutdown`, then lets running calls end.
pub async fn serve(
    listeners: impl Into<Listeners>,
    gateway: Gateway,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let threads = (0..limits.threads)
        .map(|index| Thread::start(index, &gateway, &limits))
        .collect::<io::Result<Vec<_>>>()?;
    let listeners = listeners.into();
    let places = Places::new(&limits);
    tokio::select! {
        () = gateway.liveness.respond("accept".to_owned()) => {}
        () = accept(Some(&listeners.public), &threads, &places) => {}
        () = accept(listeners.admin.as_ref(), &threads, &places) => {}
        () = accept(listeners.local.as_ref(), &threads, &places) => {}
        () = shutdown => {}
    }
    drop(listeners);
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

/// A connection that has no place yet.
struct Waiting {
    socket: OwnedFd,
    client: Client,
    pool: Pool,
    source: Source,
}

/// Hands the connections of one listener to the threads. Where there is none this never ends.
async fn accept(socket: Option<&Socket>, threads: &[Thread], places: &Arc<Places>) {
    let Some(socket) = socket else { return pending().await };
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut look = interval(ROOM_PAUSE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_full = tokio::select! {
            accepted = socket.accept(), if waiting.len() < 2 * WAITING => {
                match accepted {
                    Ok(Some((socket, client))) => {
                        let (pool, source) = (places.pool(&client), client.address.ip().into());
                        let is_behind = waiting.iter().any(|waiting| waiting.pool == pool);
                        waiting.push(Waiting { socket, client, pool, source });
                        if is_behind {
                            continue;
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
                false
            }
            _ = look.tick(), if !waiting.is_empty() => true,
        };
        if !admit(&mut waiting, threads, places) {
            tracing::error!("a thread that serves calls is gone");
            return;
        }
        if is_full {
            // The newest of the addresses that have the most.
            waiting.truncate(WAITING);
            for pool in [Pool::Local, Pool::Admin, Pool::Loopback, Pool::Trusted, Pool::Public] {
                let mut of_pool = waiting.iter().filter(|waiting| waiting.pool == pool);
                if let Some(first) = of_pool.next() {
                    places.make_room(pool, 1 + of_pool.count(), first.source);
                }
            }
        }
    }
}

/// Gives places to those that wait, in turn to each address and first to those that have the fewest. `false`: a
/// thread is gone.
fn admit(waiting: &mut Vec<Waiting>, threads: &[Thread], places: &Arc<Places>) -> bool {
    let mut turns = HashMap::new();
    waiting.sort_by_cached_key(|&Waiting { pool, source, .. }| {
        let turn = turns.entry((pool, source)).or_insert_with(|| places.taken_by(pool, source));
        *turn += 1;
        *turn
    });
    for Waiting { socket, client, pool, source } in std::mem::take(waiting) {
        let load = |thread: &&Thread| thread.worker.connections.load(Ordering::Relaxed);
        let Some(thread) = threads.iter().min_by_key(load) else { return false };
        let Some(place) = places.take(pool, source) else {
            waiting.push(Waiting { socket, client, pool, source });
            continue;
        };
        let counted = Counted::new(&thread.worker);
        if thread.connections.send(Accepted { socket, client, place, counted }).is_err() {
            return false;
        }
    }
    true
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
                runtime.block_on(async {
                    tokio::select! {
                        () = worker.gateway.liveness.respond(format!("calls-{index}")) => {}
                        () = take(worker.clone(), accepted) => {}
                    }
                });
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
    let Accepted { socket, client, place, counted } = accepted;
    tokio::spawn(async move {
        // Registering fails only when the socket, or this thread, is at its end.
        let stream = match client.listener {
            Listener::Public | Listener::Admin => Stream::from_tcp(socket),
            Listener::Local => Stream::from_unix(socket),
        };
        if let Ok(stream) = stream {
            routes::serve(&mut Connection::new(stream, client, worker, place)).await;
        }
        drop(counted);
    });
}
