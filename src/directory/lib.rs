//! The functions as the control plane publishes them and the data plane reads them: their only meeting place.
//!
//! A call costs one atomic load for the table, one hash of the name as it stands in the URL, and one
//! atomic load for the function's view. Whoever may change the table holds its [`DirectoryWriter`], and whoever may
//! change a function's view holds its [`Publisher`]; there is one of each.

mod endpoint;
mod in_flight;
mod pool;
mod stats;
mod view;

pub use endpoint::{Endpoint, Lease};
pub use pool::{ConnectionPool, assign_shard};
pub use stats::{BOUNDS, CallStats, CodeCounts, OTHER, StatsSnapshot};
pub use view::{KeptRevision, LastExit, Phase, Update, View};

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use model::function::{FunctionKey, Incarnation, NamespaceName};
use tokio::sync::{Notify, watch};

/// Atomics of [`in_flight`].
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU32, Ordering};
}

/// All functions, by the names under which they can be called.
#[derive(Debug, Default)]
pub struct Directory {
    by_name: ArcSwap<HashMap<Box<str>, Arc<Entry>>>,
}

impl Directory {
    /// Returns an empty directory, and what changes it.
    pub fn new() -> (Arc<Self>, DirectoryWriter) {
        let directory = Arc::new(Self::default());
        (directory.clone(), DirectoryWriter(directory))
    }

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

/// The only way to change a [`Directory`]. Not to be cloned: a change reads the table before it replaces it.
#[derive(Debug)]
pub struct DirectoryWriter(Arc<Directory>);

impl DirectoryWriter {
    /// Adds functions.
    pub fn insert(&mut self, entries: impl IntoIterator<Item = Arc<Entry>>) {
        let mut entries: Vec<_> = self.0.all().into_iter().chain(entries).collect();
        entries.dedup_by(|later, earlier| Arc::ptr_eq(later, earlier));
        self.0.publish(entries);
    }

    /// Takes a function out.
    pub fn remove(&mut self, key: &FunctionKey) {
        let mut entries = self.0.all();
        entries.retain(|entry| entry.key != *key);
        self.0.publish(entries);
    }
}

/// One function, for as long as it is deployed, across its revisions.
#[derive(Debug)]
pub struct Entry {
    /// Name and namespace of the function.
    pub key: FunctionKey,
    /// The life of the function that this is.
    pub incarnation: Incarnation,
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
    /// Returns a function with its first view, and what publishes the next ones.
    pub fn new(
        key: FunctionKey,
        incarnation: Incarnation,
        stats: CallStats,
        view: View,
    ) -> (Arc<Self>, Publisher) {
        let entry = Arc::new(Self {
            label: key.to_string().into(),
            key,
            incarnation,
            stats,
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
            view: ArcSwap::from_pointee(view),
            changed: watch::Sender::new(0),
        });
        (entry.clone(), Publisher(entry))
    }

    /// How the function is now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// How the function is now, for a short look on the request path.
    pub fn peek(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// Changes whenever a view is published: subscribe, look, then wait.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// The only way to change a function's view. Not to be cloned: its owner has it.
#[derive(Debug)]
pub struct Publisher(Arc<Entry>);

impl Publisher {
    /// Publishes a view.
    pub fn publish(&mut self, view: View) {
        self.0.view.store(Arc::new(view));
        self.0.changed.send_modify(|generation| *generation += 1);
    }
}
