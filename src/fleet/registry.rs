//! Which replica belongs to which owner: where an event is sent, and what the reaper must leave alone.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::owner::Command;
use crate::function::ReplicaId;

/// Replicas with their owners' inboxes.
///
/// Invariant: an id is registered before anything of the replica is made, and stays until all of it
/// is gone.
#[derive(Debug, Default)]
pub(super) struct Registry {
    owners: Mutex<HashMap<ReplicaId, mpsc::Sender<Command>>>,
}

impl Registry {
    pub(super) fn insert(&self, id: ReplicaId, owner: mpsc::Sender<Command>) {
        self.lock().insert(id, owner);
    }

    pub(super) fn remove(&self, id: &ReplicaId) {
        self.lock().remove(id);
    }

    pub(super) fn owner(&self, id: &ReplicaId) -> Option<mpsc::Sender<Command>> {
        self.lock().get(id).cloned()
    }

    /// Every owner that has a replica, once.
    pub(super) fn owners(&self) -> Vec<mpsc::Sender<Command>> {
        let mut owners: Vec<mpsc::Sender<Command>> = Vec::new();
        for owner in self.lock().values() {
            if !owners.iter().any(|known| known.same_channel(owner)) {
                owners.push(owner.clone());
            }
        }
        owners
    }

    pub(super) fn contains(&self, id: &ReplicaId) -> bool {
        self.lock().contains_key(id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ReplicaId, mpsc::Sender<Command>>> {
        // No code runs under this lock that could panic half-way.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
