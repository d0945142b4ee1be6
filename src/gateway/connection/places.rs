//! The places that connections take, and the memory that unfinished requests hold.
//!
//! A request that arrives whole writes two words of its own here and takes no lock. While the rest of a head or of a
//! small body is waited for, what is held of it is reserved from `gateway.request_memory`, and while that is short
//! nothing unfinished is read before its memory is reserved: otherwise a burst would be held whole before the first of
//! those that were told to give way had their turn. Where memory or places run out, those give way that wait for
//! their clients: of the address that has the most, the one that has waited longest. A request that is
//! whole when its connection is looked at, or is being answered, never does, and waits for no memory.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use model::config::TrustedProxies;
use model::sync::lock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::PollSemaphore;

use super::worker::Limits;
use crate::gateway::access::client::{Client, Listener, block_of};
use crate::gateway::error::{ErrorCode, ErrorResponse};

/// Largest number of connections of the admin listener, and of the local socket. Clients of the public listener
/// cannot use them up.
const ADMIN_CONNECTIONS: usize = 256;
/// The part of the memory, and of the public places, that is kept free: memory is freed as soon as less is left, and
/// an address with many connections gets none of the last places.
const RESERVE: usize = 16;
/// The part of the public places from which on an address has many of them, and the part that is freed at once:
/// looking for what gives way costs a walk through all connections.
const SHARE: usize = 64;

/// The places of which a connection takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::gateway) enum Pool {
    /// The local socket.
    Local,
    /// `gateway.admin_listen`.
    Admin,
    /// Loopback, at the common port.
    Loopback,
    /// Trusted proxies, at the common port: strangers shut neither of them out.
    Trusted,
    /// All others.
    Public,
}

/// An address that counts as one client, in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::gateway) struct Source(u64);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match block_of(address) {
            IpAddr::V4(address) => address.to_bits().into(),
            // Loopback is 0, which is nobody's.
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default(),
        })
    }
}

/// An order to give way: others want the memory or the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) struct Evicted;

impl Evicted {
    /// Returns the response to a request that had not arrived whole.
    pub(in crate::gateway) fn response(self, code: ErrorCode) -> ErrorResponse {
        let text = "the request had not arrived whole when others needed its memory or its connection \
                    (gateway.request_memory, gateway.max_connections): send it again";
        ErrorResponse::new(code, text)
    }
}

/// All places of the gateway.
#[derive(Debug)]
pub(in crate::gateway) struct Places {
    /// The time that waits count from.
    epoch: Instant,
    max_connections: usize,
    trusted: TrustedProxies,
    /// `gateway.request_memory`: a permit for each of its bytes.
    memory: Arc<Semaphore>,
    memory_size: usize,
    /// Bytes that evicted connections are about to give back. Written under the lock of `table`.
    leaving: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_pool: HashMap<Pool, usize>,
    by_source: HashMap<(Pool, Source), usize>,
    /// By the address of each.
    connections: HashMap<usize, Arc<Connected>>,
}

impl Table {
    fn taken_by(&self, pool: Pool, source: Source) -> usize {
        self.by_source.get(&(pool, source)).copied().unwrap_or_default()
    }
}

/// Whether one stranger has many places of a pool.
fn has_many(pool: Pool, taken: usize, size: usize) -> bool {
    pool == Pool::Public && taken > size / SHARE
}

/// The state of a connection that waits for nothing from its client.
const WORKING: u64 = 0;
/// The bit of a state that tells a connection to give way.
const EVICTED: u64 = 1;

/// One connection, as others see it.
#[derive(Debug)]
struct Connected {
    pool: Pool,
    /// The client of the request at hand, a [`Source`].
    source: AtomicU64,
    /// `WORKING`; else milliseconds since the epoch, and one, at which the wait began, above `EVICTED`.
    state: AtomicU64,
    /// Bytes that are reserved.
    held: AtomicUsize,
    /// Bytes of `Places::leaving`.
    leaving: AtomicUsize,
    /// Waker of the task, which is the same for the life of the connection.
    waker: OnceLock<Waker>,
}

/// A connection that could give way.
struct Waiting<'a> {
    state: u64,
    weight: usize,
    connected: &'a Connected,
}

impl Connected {
    /// Tells a connection to give way that is in the state `waiting`. `false`: it is not any more.
    fn evict(&self, waiting: u64) -> bool {
        let evicted = waiting | EVICTED;
        let done = self.state.compare_exchange(waiting, evicted, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if done && let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        done
    }
}

impl Places {
    pub(in crate::gateway) fn new(limits: &Limits) -> Arc<Self> {
        let memory_size = limits.request_memory.min(u32::MAX as usize);
        Arc::new(Self {
            epoch: Instant::now(),
            max_connections: limits.max_connections,
            trusted: limits.trusted_proxies.clone(),
            memory: Arc::new(Semaphore::new(memory_size)),
            memory_size,
            leaving: AtomicUsize::new(0),
            table: Mutex::default(),
        })
    }

    /// Returns the places of which a client may have one.
    pub(in crate::gateway) fn pool(&self, client: &Client) -> Pool {
        let address = client.address.ip().to_canonical();
        match client.listener {
            Listener::Local => Pool::Local,
            Listener::Admin => Pool::Admin,
            Listener::Public if self.trusted.contains(address) => Pool::Trusted,
            Listener::Public if address.is_loopback() => Pool::Loopback,
            Listener::Public => Pool::Public,
        }
    }

    fn size(&self, pool: Pool) -> usize {
        match pool {
            Pool::Local | Pool::Admin => ADMIN_CONNECTIONS,
            Pool::Loopback | Pool::Trusted | Pool::Public => self.max_connections,
        }
    }

    /// Takes a place for a connection. `None`: all that `source` may have are taken.
    pub(in crate::gateway) fn take(self: &Arc<Self>, pool: Pool, source: Source) -> Option<Place> {
        let size = self.size(pool);
        let mut guard = lock(&self.table);
        let table = &mut *guard;
        let taken = table.taken_by(pool, source);
        let open = table.by_pool.entry(pool).or_default();
        // Connections whose requests are being answered give way to nobody, so some places are out of reach of
        // whoever has many.
        let reserve = if has_many(pool, taken, size) { size / RESERVE } else { 0 };
        if *open >= size - reserve {
            return None;
        }
        *open += 1;
        table.by_source.insert((pool, source), taken + 1);
        let connected = Arc::new(Connected {
            pool,
            source: AtomicU64::new(source.0),
            state: AtomicU64::new(WORKING),
            held: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            waker: OnceLock::new(),
        });
        table.connections.insert(Arc::as_ptr(&connected).addr(), connected.clone());
        drop(guard);
        let memory = PollSemaphore::new(self.memory.clone());
        let places = self.clone();
        Some(Place { connected, peer: source, places, memory, reserved: None, blocked: false })
    }

    /// Returns how many places a client's address has.
    pub(in crate::gateway) fn taken_by(&self, pool: Pool, source: Source) -> usize {
        lock(&self.table).taken_by(pool, source)
    }

    /// Has connections give way to so many that want a place, `first` before the others: no stranger whose address has
    /// fewer places than that.
    pub(in crate::gateway) fn make_room(&self, pool: Pool, wanting: usize, first: Source) {
        let wanted = wanting.max(self.size(pool) / SHARE);
        let least = self.taken_by(pool, first);
        self.evict(wanted, |table, connected| {
            // One address of a proxy stands for many clients.
            let has_more = || {
                let source = Source(connected.source.load(Ordering::Relaxed));
                pool != Pool::Public || table.taken_by(pool, source) >= least
            };
            usize::from(connected.pool == pool && has_more())
        });
    }

    fn is_short(&self) -> bool {
        self.memory.available_permits() < self.memory_size / RESERVE
    }

    /// Has connections give way if less memory is left, or about to be, than `missing` or the reserve. This is called
    /// after each reservation, so that those who wait for one need not look again.
    fn relieve(&self, missing: usize) {
        let wanted = missing.max(self.memory_size / RESERVE);
        if self.memory.available_permits() + self.leaving.load(Ordering::Acquire) < wanted {
            let wanted = wanted + self.memory_size / RESERVE;
            self.evict(wanted, |_, connected| connected.held.load(Ordering::Relaxed));
        }
    }

    /// Has connections give way that wait for their clients, until so much is given back. Each has a weight; of the
    /// source that weighs most the one that has waited longest is next, and strangers are before all others.
    fn evict(&self, wanted: usize, weight: impl Fn(&Table, &Connected) -> usize) {
        let table = lock(&self.table);
        let mut found = 0;
        let mut by_source: HashMap<(Pool, u64), Vec<Waiting<'_>>> = HashMap::new();
        for connected in table.connections.values() {
            let (weight, state) = (weight(&table, connected), connected.state.load(Ordering::Acquire));
            if weight == 0 || state == WORKING {
                continue;
            }
            // What was told before is on its way.
            if state & EVICTED != 0 {
                found += weight;
            } else {
                let source = (connected.pool, connected.source.load(Ordering::Relaxed));
                by_source.entry(source).or_default().push(Waiting { state, weight, connected });
            }
        }
        let mut heaviest = BinaryHeap::new();
        for (source, waits) in &mut by_source {
            waits.sort_unstable_by_key(|wait| Reverse(wait.state));
            let weight: usize = waits.iter().map(|wait| wait.weight).sum();
            heaviest.push((source.0 == Pool::Public, weight, *source));
        }
        while found < wanted
            && let Some((is_public, total, source)) = heaviest.pop()
        {
            let oldest = by_source.get_mut(&source).and_then(Vec::pop);
            let Some(Waiting { state, weight, connected }) = oldest else { continue };
            if connected.evict(state) {
                found += weight;
                let leaving = connected.held.load(Ordering::Relaxed);
                connected.leaving.store(leaving, Ordering::Relaxed);
                self.leaving.fetch_add(leaving, Ordering::Release);
            }
            heaviest.push((is_public, total - weight, source));
        }
    }

    /// Notes that a connection that was told to give way holds nothing any more.
    fn has_left(&self, connected: &Connected, _locked: &Table) {
        self.leaving.fetch_sub(connected.leaving.swap(0, Ordering::Relaxed), Ordering::Release);
    }
}

/// The place of one connection; given back when dropped, also by a task that panics.
#[derive(Debug)]
pub(in crate::gateway) struct Place {
    connected: Arc<Connected>,
    /// The other end of the connection.
    peer: Source,
    places: Arc<Places>,
    memory: PollSemaphore,
    reserved: Option<OwnedSemaphorePermit>,
    /// More is to be reserved than there was.
    blocked: bool,
}

impl Place {
    /// Says by which task it is served: once, before it waits.
    pub(in crate::gateway) fn serve(&self, cx: &Context<'_>) {
        self.connected.waker.get_or_init(|| cx.waker().clone());
    }

    /// Says for whom a trusted proxy has sent the request at hand.
    pub(in crate::gateway) fn attribute(&self, client: IpAddr) {
        self.connected.source.store(Source::from(client).0, Ordering::Relaxed);
    }

    /// Begins a wait for the client, which it may be asked to end.
    pub(in crate::gateway) fn wait(&self, since: Instant) {
        let since = since.saturating_duration_since(self.places.epoch);
        let waiting = (since.as_secs() * 1000 + u64::from(since.subsec_millis()) + 1) << EVICTED.count_ones();
        let before = self.connected.state.load(Ordering::Relaxed);
        // What was told to give way is not heard again. The exchange fails if it has been told just now.
        if before & EVICTED == 0 {
            let _ =
                self.connected.state.compare_exchange(before, waiting, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Ends the request: the place is the first to be given up, and nothing is held.
    pub(in crate::gateway) fn linger(&mut self) {
        self.work();
        self.wait(self.places.epoch);
    }

    /// Begins a wait for the next request, which may be anybody's behind a proxy.
    pub(in crate::gateway) fn wait_for_request(&self, since: Instant) {
        self.connected.source.store(self.peer.0, Ordering::Relaxed);
        self.wait(since);
    }

    /// Ends a wait: what the client is waiting for now is not taken from it, whatever it was told before.
    pub(in crate::gateway) fn work(&mut self) {
        let before = self.connected.state.swap(WORKING, Ordering::AcqRel);
        self.release(before & EVICTED != 0);
    }

    fn release(&mut self, evicted: bool) {
        if std::mem::take(&mut self.blocked) {
            // It gives its turn to the next.
            self.memory = PollSemaphore::new(self.places.memory.clone());
        }
        if self.reserved.take().is_some() {
            self.connected.held.store(0, Ordering::Relaxed);
        }
        if evicted {
            self.places.has_left(&self.connected, &lock(&self.places.table));
        }
    }

    /// Returns whether memory is reserved before anything unfinished is read, or the connection is to give way.
    pub(in crate::gateway) fn is_pressed(&self) -> bool {
        self.blocked || self.is_evicted() || self.places.is_short()
    }

    /// Waits until more may be read, after which `bytes` are held: not at all while there is enough memory.
    pub(in crate::gateway) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Result<(), Evicted>> {
        if self.places.is_short() { self.poll_hold(cx, bytes) } else { Poll::Ready(Ok(())) }
    }

    /// Reserves the `bytes` that are held until the client has sent the rest, unless it has to give way.
    pub(in crate::gateway) fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Result<(), Evicted>> {
        if self.is_evicted() {
            self.release(true);
            return Poll::Ready(Err(Evicted));
        }
        let held = self.reserved.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let bytes = bytes.min(self.places.memory_size);
        if bytes == held && !self.blocked {
            return Poll::Ready(Ok(()));
        }
        if bytes == 0 {
            self.release(false);
            return Poll::Ready(Ok(()));
        }
        if bytes <= held {
            self.memory = PollSemaphore::new(self.places.memory.clone());
            self.blocked = false;
            drop(self.reserved.as_mut().and_then(|reserved| reserved.split(held - bytes)));
            self.connected.held.store(bytes, Ordering::Relaxed);
            return Poll::Ready(Ok(()));
        }
        let missing = bytes - held;
        let more = self.memory.poll_acquire_many(cx, u32::try_from(missing).unwrap_or(u32::MAX));
        if more.is_ready() && held == 0 && self.blocked {
            // Until now it was not its client that kept others waiting.
            self.wait(Instant::now());
        }
        self.blocked = more.is_pending();
        if let Poll::Ready(Some(more)) = more {
            match &mut self.reserved {
                Some(reserved) => reserved.merge(more),
                None => self.reserved = Some(more),
            }
            self.connected.held.store(bytes, Ordering::Relaxed);
        }
        self.places.relieve(if self.blocked { missing } else { 0 });
        if self.is_evicted() {
            self.release(true);
            return Poll::Ready(Err(Evicted));
        }
        if self.blocked { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Whether it was told to give way since it last worked.
    pub(in crate::gateway) fn is_evicted(&self) -> bool {
        self.connected.state.load(Ordering::Acquire) & EVICTED != 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let pool = self.connected.pool;
        let mut guard = lock(&self.places.table);
        let table = &mut *guard;
        table.connections.remove(&Arc::as_ptr(&self.connected).addr());
        if let Some(open) = table.by_pool.get_mut(&pool) {
            *open -= 1;
        }
        if let Some(taken) = table.by_source.get_mut(&(pool, self.peer)) {
            *taken -= 1;
            if *taken == 0 {
                table.by_source.remove(&(pool, self.peer));
            }
        }
        self.places.has_left(&self.connected, table);
    }
}

/// Bytes of memory that a piece of a body takes beside its own.
const PIECE_OVERHEAD: usize = 64;

/// How much of a request's body its handler has in memory: the connection looks at it while it waits for the rest.
#[derive(Debug, Clone, Default)]
pub(in crate::gateway) struct Collected(Arc<AtomicUsize>);

impl Collected {
    /// Returns how many bytes that are.
    pub(in crate::gateway) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds a piece.
    pub(in crate::gateway) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes + PIECE_OVERHEAD, Ordering::Relaxed);
    }

    /// Takes a piece out that is not held any more, or that its new holder adds.
    pub(in crate::gateway) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes + PIECE_OVERHEAD, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
