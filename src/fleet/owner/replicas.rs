//! The replicas of one function: a slot for each, and the tasks that start and remove them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outcome::Done;
use super::{Owner, Survivor};
use crate::fleet::directory::Endpoint;
use crate::fleet::{health, revision};
use crate::function::ReplicaId;
use crate::replica::{Launch, Revision};
use crate::runtime::Progress;

/// Drained replicas are asked this often whether their calls have ended.
const DRAIN_CHECK: Duration = Duration::from_millis(20);
/// What a call may take over its limit before its replica is stopped all the same.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// How far a replica is.
#[derive(Debug)]
pub(super) enum Stage {
    Pulling,
    Starting,
    Ready { endpoint: Arc<Endpoint>, since: Instant },
    Draining,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: ReplicaId,
    pub(super) revision: Arc<Revision>,
    pub(super) stage: Stage,
    pub(super) progress: Progress,
    pub(super) exit: watch::Sender<Option<u32>>,
    pub(super) cancel: CancellationToken,
    pub(super) out_of_memory: bool,
    /// What works on it now, or did last.
    pub(super) task: Option<task::Id>,
}

impl Owner {
    /// Makes a slot, registered before anything of it exists.
    pub(super) fn slot(&mut self, id: ReplicaId, revision: Arc<Revision>, stage: Stage) -> Launch {
        let (exit, exited) = watch::channel(None);
        let slot = Slot {
            id: id.clone(),
            revision: revision.clone(),
            stage,
            progress: Progress::default(),
            exit,
            cancel: CancellationToken::new(),
            out_of_memory: false,
            task: None,
        };
        self.parts.registry.insert(id.clone(), self.sender.clone());
        let launch = Launch {
            id,
            revision,
            progress: slot.progress.clone(),
            exit: exited,
            cancel: slot.cancel.clone(),
            starting: self.starting.0.clone(),
        };
        self.slots.push(slot);
        launch
    }

    pub(super) fn launch(&mut self) {
        let id = ReplicaId::new(&self.entry.key.name, revision::unique());
        let launch = self.slot(id.clone(), self.wanted.clone(), Stage::Pulling);
        let launcher = self.parts.launcher.clone();
        let own = id.clone();
        self.work(&own, async move { Done::Launched { id, result: launcher.launch(launch).await } });
    }

    /// Starts a task that works on a replica.
    pub(super) fn work(&mut self, id: &ReplicaId, work: impl Future<Output = Done> + Send + 'static) {
        let task = self.tasks.spawn(work).id();
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) {
            slot.task = Some(task);
        }
    }

    /// Removes whatever there is of a replica.
    pub(super) fn clean(&mut self, id: &ReplicaId) {
        let (launcher, gone) = (self.parts.launcher.clone(), id.clone());
        self.work(id, async move {
            launcher.clean(&gone).await;
            Done::Gone { id: gone }
        });
    }

    pub(super) fn adopt(&mut self, survivor: Survivor) {
        let Survivor { id, revision, address } = survivor;
        let known = [Some(&self.wanted), self.serving.as_ref()];
        let Some(revision) = known.into_iter().flatten().find(|known| known.number == revision).cloned()
        else {
            return;
        };
        let launch = self.slot(id.clone(), revision, Stage::Starting);
        let (launcher, own) = (self.parts.launcher.clone(), id.clone());
        self.work(&own, async move {
            match launcher.adopt(launch, address).await {
                Some(endpoint) => Done::Launched { id, result: Ok(endpoint) },
                None => {
                    launcher.clean(&id).await;
                    Done::NotAdopted { id }
                }
            }
        });
    }

    /// Takes a replica out: no new calls, those in flight finish, then it goes.
    pub(super) fn drain(&mut self, id: &ReplicaId) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        match &slot.stage {
            // The launch takes back what it made and then reports.
            Stage::Pulling | Stage::Starting => slot.cancel.cancel(),
            Stage::Draining => {}
            Stage::Ready { endpoint, .. } => {
                let endpoint = endpoint.clone();
                slot.stage = Stage::Draining;
                slot.cancel.cancel();
                let timeout = slot.revision.spec.timeout.unwrap_or(self.parts.config.timeout);
                let grace = self.parts.config.stop_grace;
                let (launcher, stop) = (self.parts.launcher.clone(), self.parts.stop.clone());
                let gone = id.clone();
                self.work(id, async move {
                    let end = Instant::now() + timeout + DRAIN_MARGIN;
                    // A call that chose this replica just before it was taken out is counted soon after.
                    loop {
                        tokio::time::sleep(DRAIN_CHECK).await;
                        if endpoint.load() == 0 || Instant::now() >= end || stop.is_cancelled() {
                            break;
                        }
                    }
                    launcher.stop(&gone, grace).await;
                    Done::Gone { id: gone }
                });
            }
        }
    }

    /// Takes a replica that cannot serve any more out at once.
    pub(super) fn replace(&mut self, id: &ReplicaId, reason: &str) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        let Stage::Ready { since, .. } = &slot.stage else { return };
        tracing::warn!(function = %self.entry.key, replica = %id, "replica {reason}");
        self.backoff.failed(since.elapsed().max(Duration::from_nanos(1)), Instant::now());
        self.reason = Some(format!("replica {id} {reason}"));
        self.restarts += 1;
        slot.stage = Stage::Draining;
        slot.cancel.cancel();
        if slot.exit.borrow().is_some() {
            self.clean_ended(id);
        } else {
            self.clean(id);
        }
    }

    /// Probes a replica that serves from time to time, if its function says how.
    pub(super) fn watch_health(&self, id: &ReplicaId) {
        let Some(slot) = self.slots.iter().find(|slot| slot.id == *id) else { return };
        if let (Some(probe), Stage::Ready { endpoint, .. }) = (&slot.revision.spec.probes.health, &slot.stage)
        {
            let (endpoint, cancel) = (endpoint.clone(), slot.cancel.clone());
            tokio::spawn(health::watch(endpoint, probe.clone(), self.sender.clone(), cancel));
        }
    }

    pub(super) fn forget(&mut self, id: &ReplicaId) {
        self.slots.retain(|slot| slot.id != *id);
        self.parts.registry.remove(id);
    }
}
