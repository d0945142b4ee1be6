//! What came of the tasks that work on replicas.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;

use super::Owner;
use super::slot::Stage;
use crate::fleet::revision;
use crate::replica::LaunchError;
use directory::Endpoint;
use host::store::UpdateFailure;
use model::function::ReplicaId;

/// What a task of the owner reports.
#[derive(Debug)]
pub(super) enum TaskDone {
    Launched {
        id: ReplicaId,
        result: Result<Arc<Endpoint>, LaunchError>,
    },
    Gone {
        id: ReplicaId,
    },
    /// As `Gone`, of one whose process had ended, with what it wrote last.
    Ended {
        id: ReplicaId,
        output: Vec<String>,
    },
    /// What an owner that panicked has left.
    Cleared {
        ids: Vec<ReplicaId>,
    },
}

impl Owner {
    pub(super) async fn finish(&mut self, done: TaskDone) {
        match done {
            TaskDone::Gone { id } => self.forget(&id),
            TaskDone::Ended { id, output } => {
                self.said(&id, output);
                self.forget(&id);
            }
            TaskDone::Cleared { ids } => ids.iter().for_each(|id| self.forget(id)),
            TaskDone::Launched { id, result: Ok(endpoint) } => self.ready(&id, endpoint).await,
            TaskDone::Launched { id, result: Err(error) } => {
                let slot = self.slots.iter().find(|slot| slot.id == id);
                let revision = slot.map(|slot| slot.revision.number);
                let ended = slot.and_then(|slot| slot.ended.clone());
                if let LaunchError::Exited { output, .. } = &error {
                    self.said(&id, output.clone());
                }
                self.forget(&id);
                let matters = !self.removing && !matches!(error, LaunchError::Cancelled);
                if matters && revision == Some(self.wanted.number) {
                    let reason = match ended {
                        Some(ended) => format!("replica {id} {ended}"),
                        None => model::error::chain(&error) + self.memory_note(&id),
                    };
                    if error.is_engine_away() {
                        // Not given up, whatever serves: it has not been tried.
                        self.backoff.away(Instant::now());
                        self.reason = Some(reason);
                    } else {
                        self.launch_failed(reason, error.is_permanent()).await;
                    }
                }
            }
        }
    }

    /// A task ended in a panic. A start counts as one that failed, and what it made is removed; a
    /// removal is left to the reaper.
    pub(super) async fn panicked(&mut self, error: JoinError) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.task == Some(error.id())) else { return };
        let (id, number) = (slot.id.clone(), slot.revision.number);
        tracing::error!(function = %self.entry.key, replica = %id, %error, "an error of the daemon");
        if matches!(slot.stage, Stage::Draining) {
            let task = slot.task;
            let gone = self.slots.iter().filter(|slot| slot.task == task);
            for id in gone.map(|slot| slot.id.clone()).collect::<Vec<_>>() {
                self.forget(&id);
            }
            return;
        }
        slot.stage = Stage::Draining;
        slot.cancel.cancel();
        self.clean(&id);
        if number == self.wanted.number {
            let function = self.entry.key.clone();
            let error = LaunchError::Panicked { function, source: error };
            self.launch_failed(model::error::chain(&error), error.is_permanent()).await;
        }
    }

    pub(super) async fn ready(&mut self, id: &ReplicaId, endpoint: Arc<Endpoint>) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        let (called_off, ended) = (slot.cancel.is_cancelled(), *slot.exit.borrow());
        slot.stage = Stage::Ready { endpoint, since: Instant::now() };
        let revision = slot.revision.clone();
        if called_off {
            // It came up in the moment in which it was called off.
            self.drain(id);
            return;
        }
        if let Some(code) = ended {
            // It ended after its last probe, and that was told before this.
            self.exited(id, code);
            return;
        }
        self.watch_health(id);
        self.backoff.came_up();
        self.reason = None;
        if revision.number == self.wanted.number {
            self.serves(revision).await;
        }
    }

    pub(super) async fn launch_failed(&mut self, reason: String, permanent: bool) {
        match self.serving.clone() {
            Some(serving) if serving.number != self.wanted.number => {
                tracing::warn!(
                    function = %self.entry.key, revision = self.wanted.number, serving = serving.number,
                    "the update did not come up; the revision that serves stays"
                );
                let mut record = self.record.clone();
                record.failure = Some(UpdateFailure { revision: self.wanted.number, reason });
                record.wanted = revision::to_record(&serving);
                record.serving = None;
                self.wanted = serving;
                if let Err(error) = self.keep(record.clone()).await {
                    tracing::error!(function = %self.entry.key, error = &error as &dyn std::error::Error, "not kept");
                    self.record = record;
                }
            }
            _ => {
                self.hopeless = permanent;
                self.backoff.failed(Duration::ZERO, Instant::now());
                self.restarts += 1;
                self.reason = Some(reason);
            }
        }
    }
}
