//! Brings what happens to containers to their owners.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::command::{Command, Listing};
use super::context::Context;
use host::runtime::{ContainerRecord, ContainerState, RuntimeEvent};
use model::function::ReplicaId;

/// How often it is made sure that bridge and rules are there: others may take them away.
const ENSURE_NETWORK_EVERY: Duration = Duration::from_secs(60);
/// Pause before a listing that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What watches over all replicas.
#[derive(Debug, Clone)]
pub(super) struct Watcher(pub(super) Arc<Context>);

impl Watcher {
    /// Lists containers, and tries again until containerd answers.
    pub(super) async fn list(&self) -> Vec<ContainerRecord> {
        let mut said = false;
        loop {
            match self.0.runtime.containers().await {
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

    /// Runs until the daemon stops. Without the events that began before functions were taken up, it may have
    /// missed some, and looks at what is there.
    pub(super) async fn run(self, events: Option<broadcast::Receiver<RuntimeEvent>>) {
        let stop = self.0.stop.clone();
        let work = async {
            let mut events = match events {
                Some(events) => events,
                None => {
                    let events = self.0.runtime.events();
                    self.resync().await;
                    events
                }
            };
            let mut ensure = tokio::time::interval(ENSURE_NETWORK_EVERY);
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Ok(RuntimeEvent::Exited { id, code }) => {
                            self.tell(&id, Command::Exited { id: id.clone(), code }).await;
                        }
                        Ok(RuntimeEvent::OutOfMemory { id, kills }) => {
                            self.tell(&id, Command::OutOfMemory { id: id.clone(), kills }).await;
                        }
                        // A stream that broke or fell behind is not trusted: look at what is there.
                        Ok(RuntimeEvent::Resync) | Err(RecvError::Lagged(_)) => self.resync().await,
                        Err(RecvError::Closed) => return,
                    },
                    _ = ensure.tick() => self.ensure_network().await,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn tell(&self, id: &ReplicaId, command: Command) {
        if let Some(owner) = self.0.replica_index.owner(id) {
            // An owner that has ended has no replicas.
            let _ = owner.send(command).await;
        }
    }

    async fn resync(&self) {
        let at = Instant::now();
        let (mut running, mut stopped) = (Vec::new(), Vec::new());
        for container in self.list().await {
            match container.state {
                ContainerState::Running { .. } | ContainerState::Paused => running.push(container.id),
                ContainerState::Stopped => stopped.push(container.id),
                ContainerState::NoTask | ContainerState::Created => {}
            }
        }
        let listing = Arc::new(Listing { at, running, stopped });
        for owner in self.0.replica_index.owners() {
            let _ = owner.send(Command::Listed(listing.clone())).await;
        }
        // What was left because containerd was away can be removed now.
        self.0.launcher.reap_soon();
        self.ensure_network().await;
    }

    async fn ensure_network(&self) {
        if let Err(error) = self.0.network.ensure().await {
            tracing::error!(error = &error as &dyn std::error::Error, "the network could not be repaired");
        }
    }
}
