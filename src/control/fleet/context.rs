//! Handles that every part of the fleet needs of the rest.

use std::sync::{Arc, Mutex};

use host::bundles::Handlers;
use host::logs::Logs;
use host::network::Network;
use host::runtime::Runtime;
use host::secrets::Secrets;
use host::store::{Store, Tombstone};
use model::config;
use model::function::ImagePattern;
use model::sync::lock;
use model::wire;
use tokio_util::sync::CancellationToken;

use super::replica_index::ReplicaIndex;
use crate::images::Disk;
use crate::replica::Launcher;

/// Shared handles of the fleet: of its owners, its reaper and its watcher.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) network: Arc<dyn Network>,
    pub(super) disk: Arc<Disk>,
    pub(super) launcher: Arc<Launcher>,
    pub(super) store: Arc<Store>,
    pub(super) logs: Arc<Logs>,
    pub(super) secrets: Secrets,
    pub(super) handlers: Handlers,
    pub(super) replica_index: ReplicaIndex,
    pub(super) config: config::Functions,
    /// Value of `functions.memory` on this machine, in bytes.
    pub(super) default_memory: u64,
    /// `images.allowed`
    pub(super) allowed_images: Vec<ImagePattern>,
    /// Set when the daemon stops: owners end and leave their replicas running.
    pub(super) stop: CancellationToken,
    pub(super) remains: Mutex<Remains>,
}

/// Things on the machine that have no owner.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Removals of functions that end once the reaper finds nothing of them.
    pub(super) removals: Vec<Tombstone>,
    /// Containers that are left alone.
    pub(super) orphans: Vec<wire::Orphan>,
}

impl Context {
    /// Has the reaper end removals.
    pub(super) fn left(&self, removals: Vec<Tombstone>) {
        lock(&self.remains).removals.extend(removals);
    }
}
