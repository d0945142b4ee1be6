//! The replicas of one function: a slot for each, and the tasks that start and remove them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::completions::TaskDone;
use super::slot::{Slot, Stage};
use super::{AdoptableReplica, Owner};
use crate::fleet::{health, revision};
use crate::replica::{Launch, Revision};
use host::runtime::Progress;
use host::store::FunctionRecord;
use model::function::ReplicaId;

/// What a call may take over its limit before its replica is stopped all the same.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

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
            oom_kills: 0,
            oom_killed_at: None,
            oom_kills_told: 0,
            oom_told_at: None,
            ended: None,
            task: None,
        };
        self.context.replica_index.insert(id.clone(), self.sender.clone());
        let launch = Launch {
            id,
            incarnation: self.entry.incarnation.clone(),
            state: self.context.store.identity().into(),
            record: self.carried(&revision),
            revision,
            progress: slot.progress.clone(),
            exit: exited,
            cancel: slot.cancel.clone(),
            starting: self.starting.0.clone(),
        };
        self.slots.push(slot);
        launch
    }

    /// The function's record as a container of a revision carries it: enough to take up the function if its own is lost.
    fn carried(&self, revision: &Revision) -> Vec<u8> {
        let record = FunctionRecord {
            wanted: revision::to_record(revision),
            serving: None,
            failure: None,
            revisions: Vec::new(),
            ..self.record.clone()
        };
        record.carried()
    }

    pub(super) fn launch(&mut self) {
        let id = ReplicaId::new(&self.entry.key.name, unique());
        let launch = self.slot(id.clone(), self.wanted.clone(), Stage::Pulling);
        let launcher = self.context.launcher.clone();
        let own = id.clone();
        self.work(&own, async move { TaskDone::Launched { id, result: launcher.launch(launch).await } });
    }

    /// Starts a task that works on a replica.
    pub(super) fn work(&mut self, id: &ReplicaId, work: impl Future<Output = TaskDone> + Send + 'static) {
        let task = self.tasks.spawn(work).id();
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) {
            slot.task = Some(task);
        }
    }

    /// Removes whatever there is of a replica.
    pub(super) fn clean(&mut self, id: &ReplicaId) {
        let (launcher, gone) = (self.context.launcher.clone(), id.clone());
        self.work(id, async move {
            launcher.clean(&gone).await;
            TaskDone::Gone { id: gone }
        });
    }

    pub(super) fn adopt(&mut self, replica: AdoptableReplica) {
        let AdoptableReplica { id, revision, address, .. } = replica;
        let known = [Some(&self.wanted), self.serving.as_ref()];
        let Some(revision) = known.into_iter().flatten().find(|known| known.number == revision).cloned()
        else {
            return;
        };
        let launch = self.slot(id.clone(), revision, Stage::Starting);
        let (launcher, own) = (self.context.launcher.clone(), id.clone());
        self.work(&own, async move {
            match launcher.adopt(launch, address).await {
                Some(endpoint) => TaskDone::Launched { id, result: Ok(endpoint) },
                None => {
                    launcher.clean(&id).await;
                    TaskDone::Gone { id }
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
                let timeout = slot.revision.timeout(self.context.config.timeout);
                let grace = self.context.config.stop_grace;
                let (launcher, stop) = (self.context.launcher.clone(), self.context.stop.clone());
                let gone = id.clone();
                self.work(id, async move {
                    tokio::select! {
                        () = endpoint.drain() => {}
                        () = tokio::time::sleep(timeout + DRAIN_MARGIN) => {}
                        () = stop.cancelled() => {}
                    }
                    launcher.stop(&gone, grace).await;
                    TaskDone::Gone { id: gone }
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
        self.context.replica_index.remove(id);
    }
}

/// Returns a number that tells a replica from all others, those of earlier lives of the daemon included.
fn unique() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    u64::from_le_bytes(bytes)
}
