//! What the owners publish and the request path reads: functions, and where their replicas are.
//!
//! A call costs one atomic load for the table, one hash of the name as it stands in the URL, and one
//! atomic load for the function's view.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::function::{FunctionKey, FunctionSpec, NamespaceName, ReplicaId};
use crate::invoke::Upstream;
use crate::metrics::CallStats;
use crate::runtime::Progress;
use crate::wire;

/// All functions, by the names under which they can be called.
#[derive(Debug, Default)]
pub struct Directory {
    by_name: ArcSwap<HashMap<Box<str>, Arc<Entry>>>,
}

impl Directory {
    /// The function that a URL names: `name.namespace`, or `name` in the default namespace.
    pub fn find(&self, name: &str) -> Option<Arc<Entry>> {
        self.by_name.load().get(name).cloned()
    }

    /// The function with this key.
    pub fn get(&self, key: &FunctionKey) -> Option<Arc<Entry>> {
        // A name may look like another one with its namespace: a.b is one, and b may be a namespace.
        self.find(&key.to_string()).filter(|entry| entry.key == *key)
    }

    /// Every function once, sorted by namespace and name.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self
            .by_name
            .load()
            .iter()
            .filter(|(name, entry)| **name == entry.label)
            .map(|(_, entry)| entry.clone())
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries
    }

    /// Adds functions. Only the fleet calls this, one caller at a time.
    pub fn insert(&self, entries: impl IntoIterator<Item = Arc<Entry>>) {
        let mut entries: Vec<_> = self.all().into_iter().chain(entries).collect();
        entries.dedup_by(|later, earlier| Arc::ptr_eq(later, earlier));
        self.publish(entries);
    }

    /// Takes a function out. Only the fleet calls this, one caller at a time.
    pub fn remove(&self, key: &FunctionKey) {
        let mut entries = self.all();
        entries.retain(|entry| entry.key != *key);
        self.publish(entries);
    }

    fn publish(&self, entries: Vec<Arc<Entry>>) {
        let mut by_name: HashMap<Box<str>, Arc<Entry>> = HashMap::with_capacity(entries.len() * 2);
        for entry in &entries {
            if entry.key.namespace.as_str() == NamespaceName::DEFAULT {
                by_name.insert(entry.key.name.as_str().into(), entry.clone());
            }
        }
        // Full names come second: `a.b` means the function `a` in the namespace `b` before it means
        // a function `a.b` in the default namespace.
        for entry in entries {
            by_name.insert(entry.label.clone(), entry);
        }
        self.by_name.store(Arc::new(by_name));
    }
}

/// One function, for as long as it is deployed, across its revisions.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub key: FunctionKey,
    /// `name.namespace`, as in metrics.
    pub label: Box<str>,
    /// Counts of its calls.
    pub stats: CallStats,
    /// Calls that wait for a replica now.
    pub waiting: AtomicUsize,
    /// Rung by a call that finds no replica: the owner starts one if none is on its way.
    pub wanted: Notify,
    view: ArcSwap<View>,
    changed: watch::Sender<u64>,
}

impl Entry {
    /// A function with its first view.
    pub fn new(key: FunctionKey, stats: CallStats, view: View) -> Arc<Self> {
        Arc::new(Self {
            label: key.to_string().into(),
            key,
            stats,
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
            view: ArcSwap::from_pointee(view),
            changed: watch::Sender::new(0),
        })
    }

    /// How the function is now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// How the function is now, for a short look on the request path.
    pub fn peek(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// Publishes a view. Only the function's owner calls this.
    pub fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Changes whenever a view is published: subscribe, look, then wait.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// How a function is: written by its owner, read by everyone.
#[derive(Debug, Clone)]
pub struct View {
    /// The revision that serves, or will: as sent, and parsed.
    pub deployment: Arc<wire::Deployment>,
    /// The same, parsed.
    pub spec: Arc<FunctionSpec>,
    /// Its number, counted from 1.
    pub revision: u64,
    /// What the function is doing.
    pub phase: Phase,
    /// Why it is not ready, in words.
    pub reason: Option<String>,
    /// The update that is under way, or the last one if it did not come up.
    pub update: Option<Update>,
    /// Counts the bytes of the pull that is under way.
    pub progress: Option<Progress>,
    /// The replicas that can be called.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How many replicas there should be.
    pub desired: u32,
    /// When this revision was deployed.
    pub created_at: jiff::Timestamp,
    /// The digest that the image was resolved to.
    pub image_digest: Option<String>,
    /// The revisions that served and are kept, oldest first.
    pub revisions: Arc<[KeptRevision]>,
    /// Starts of a replica after the first, since the last deploy.
    pub restarts: u32,
    /// How the last replica ended that was not told to, since the daemon started.
    pub last_exit: Option<Arc<LastExit>>,
    /// When the next start is tried, while [`Phase::BackingOff`].
    pub retry_at: Option<Instant>,
    /// How long a call may take: the function's own value or the default.
    pub timeout: Duration,
    /// The largest body of a call in bytes: the function's own value or the default.
    pub body_limit: u64,
}

/// How a replica ended that was not told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastExit {
    /// The replica.
    pub replica: ReplicaId,
    /// The revision that it ran.
    pub revision: u64,
    /// The exit code of its first process.
    pub code: u32,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: bool,
    /// When.
    pub at: jiff::Timestamp,
    /// Its last lines, once they have been read.
    pub output: Vec<String>,
}

/// A revision that served, and that one can go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRevision {
    /// Its number.
    pub number: u64,
    /// Its image, as it was sent.
    pub image: String,
    /// What that was resolved to.
    pub digest: String,
    /// When it was deployed.
    pub created_at: jiff::Timestamp,
}

/// A revision that does not serve yet, or did not come up, while an older one serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Its number.
    pub revision: u64,
    /// How far it is: `Pulling`, `Starting` or `Failed`.
    pub phase: Phase,
    /// Why it did not come up.
    pub reason: Option<String>,
}

/// What a function is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its image is being fetched.
    Pulling,
    /// A replica is starting, and none serves yet.
    Starting,
    /// At least one replica serves.
    Ready,
    /// Replicas end as soon as they start; the next attempt waits.
    BackingOff,
    /// It cannot start, and trying again will not help before it is deployed anew.
    Failed,
    /// It was scaled to no replicas; a call starts one.
    Stopped,
    /// It is being removed; calls get 404.
    Removing,
}

impl Phase {
    /// The word for it in answers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing-off",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Removing => "removing",
        }
    }
}

/// A replica that can be called.
#[derive(Debug)]
pub struct Endpoint {
    /// The replica.
    pub id: ReplicaId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Calls that it is answering.
    pub in_flight: AtomicU32,
    /// Connections to it.
    pub upstream: Upstream,
}

impl Endpoint {
    /// A replica at `address`, with no connection yet.
    pub fn new(id: ReplicaId, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { id, address, in_flight: AtomicU32::new(0), upstream: Upstream::new(address) })
    }

    /// Calls that it is answering.
    pub fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}
