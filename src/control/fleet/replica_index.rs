//! Which replica belongs to which owner: where an event is sent, and what the reaper must leave alone.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::sync::mpsc;

use super::command::Command;
use model::function::ReplicaId;
use model::sync::lock;

/// Replicas with their owners' inboxes.
///
/// Invariant: an id is registered before anything of the replica is made, and stays until all of it
/// is gone.
#[derive(Debug, Default)]
pub(super) struct ReplicaIndex {
    owners: Mutex<HashMap<ReplicaId, mpsc::Sender<Command>>>,
}

impl ReplicaIndex {
    pub(super) fn insert(&self, id: ReplicaId, owner: mpsc::Sender<Command>) {
        lock(&self.owners).insert(id, owner);
    }

    pub(super) fn remove(&self, id: &ReplicaId) {
        lock(&self.owners).remove(id);
    }

    pub(super) fn owner(&self, id: &ReplicaId) -> Option<mpsc::Sender<Command>> {
        lock(&self.owners).get(id).cloned()
    }

    /// Returns all replicas: those that start, serve or drain.
    pub(super) fn replicas(&self) -> Vec<ReplicaId> {
        lock(&self.owners).keys().cloned().collect()
    }

    /// Every owner that has a replica, once.
    pub(super) fn owners(&self) -> Vec<mpsc::Sender<Command>> {
        let mut owners: Vec<mpsc::Sender<Command>> = Vec::new();
        for owner in lock(&self.owners).values() {
            if !owners.iter().any(|known| known.same_channel(owner)) {
                owners.push(owner.clone());
            }
        }
        owners
    }

    pub(super) fn contains(&self, id: &ReplicaId) -> bool {
        lock(&self.owners).contains_key(id)
    }
}
