//! Brings what happens to containers to their owners, and removes what no owner has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::owner::{Command, Parts};
use crate::disk::Disk;
use crate::function::ReplicaId;
use crate::network::Network;
use crate::runtime::{ContainerRecord, ContainerState, Runtime, RuntimeEvent};

/// How often left-overs are looked for.
const REAP_EVERY: Duration = Duration::from_secs(300);
/// How often it is made sure that bridge and rules are there: others may take them away.
const ENSURE_NETWORK_EVERY: Duration = Duration::from_secs(60);
/// Pause before a listing that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What watches over all replicas.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) parts: Arc<Parts>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) network: Arc<dyn Network>,
    pub(super) disk: Arc<Disk>,
}

impl Watcher {
    /// Lists containers, and tries again until containerd answers.
    pub(super) async fn list(&self) -> Vec<ContainerRecord> {
        let mut said = false;
        loop {
            match self.runtime.containers().await {
                Ok(containers) => return containers,
                Err(error) => {
                    if !said {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "containers cannot be listed; trying again"
                        );
                        said = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Runs until the daemon stops.
    pub(super) async fn run(self, mut events: broadcast::Receiver<RuntimeEvent>) {
        let stop = self.parts.stop.clone();
        let work = async {
            let mut reap = tokio::time::interval(REAP_EVERY);
            let mut ensure = tokio::time::interval(ENSURE_NETWORK_EVERY);
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(RuntimeEvent::Exited { id, code }) => {
                            self.tell(&id, Command::Exited { id: id.clone(), code }).await;
                        }
                        Ok(RuntimeEvent::OutOfMemory { id }) => {
                            self.tell(&id, Command::OutOfMemory { id: id.clone() }).await;
                        }
                        // A stream that broke or fell behind is not trusted: look at what is there.
                        Ok(RuntimeEvent::Resync) | Err(RecvError::Lagged(_)) => self.resync().await,
                        Err(RecvError::Closed) => return,
                    },
                    _ = reap.tick() => {
                        self.reap().await;
                        self.discard_output().await;
                    }
                    _ = ensure.tick() => self.ensure_network().await,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
            // Beside the rest: a large image takes a while to go, and no event may wait for it.
            () = self.collect() => {}
        }
    }

    async fn tell(&self, id: &ReplicaId, command: Command) {
        if let Some(owner) = self.parts.registry.owner(id) {
            // An owner that has ended has no replicas.
            let _ = owner.send(command).await;
        }
    }

    async fn resync(&self) {
        let running: Arc<Vec<ReplicaId>> = Arc::new(
            self.list()
                .await
                .into_iter()
                .filter(|container| {
                    matches!(container.state, ContainerState::Running { .. } | ContainerState::Paused)
                })
                .map(|container| container.id)
                .collect(),
        );
        self.ensure_network().await;
        for owner in self.parts.registry.owners() {
            let _ = owner.send(Command::Running(running.clone())).await;
        }
    }

    async fn ensure_network(&self) {
        if let Err(error) = self.network.ensure().await {
            tracing::error!(error = &error as &dyn std::error::Error, "the network could not be repaired");
        }
    }

    /// Removes images that nobody uses, where there are too many.
    async fn collect(&self) {
        let mut collect = tokio::time::interval(REAP_EVERY);
        loop {
            collect.tick().await;
            if let Err(error) = self.disk.collect().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "images could not be collected");
            }
        }
    }

    async fn discard_output(&self) {
        if let Err(error) = self.disk.discard_output().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "output of functions that are gone could not be removed"
            );
        }
    }

    /// Removes whatever carries a replica's id that no owner knows.
    pub(super) async fn reap(&self) {
        // Listed before the owners are asked: an id is registered before anything of it is made.
        let mut found: BTreeSet<ReplicaId> = self.parts.logs.attached().into_iter().collect();
        match self.runtime.containers().await {
            Ok(containers) => found.extend(containers.into_iter().map(|container| container.id)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "containers cannot be listed")
            }
        }
        match self.network.attached().await {
            Ok(attached) => found.extend(attached),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "networks cannot be listed")
            }
        }
        for id in found {
            if !self.parts.registry.contains(&id) {
                tracing::info!(replica = %id, "removing what is left of a replica");
                self.parts.launcher.clean(&id).await;
            }
        }
    }
}
