//! Replicas that end without having been told to: why, and what they wrote last.

use std::sync::Arc;

use super::Owner;
use super::completions::TaskDone;
use super::slot::Stage;
use crate::fleet::command::Listing;
use directory::LastExit;
use model::function::ReplicaId;

/// Lines of output that are kept of the last exit.
const LINES: usize = 5;
/// What to say of a replica that the kernel killed.
const MEMORY_NOTE: &str = "; it was killed for want of memory: raise limits.memory";

/// The exit code of a process whose end was not told; containerd says so too.
const UNKNOWN: u32 = 255;

impl Owner {
    /// Makes up for events that were lost.
    pub(super) fn listed(&mut self, listing: &Listing) {
        let mut lost = Vec::new();
        for slot in &self.slots {
            match slot.stage {
                // One that came up since is not in the list.
                Stage::Ready { since, .. } if since < listing.at && !listing.running.contains(&slot.id) => {
                    lost.push(slot.id.clone());
                }
                // Its start waits for an answer, or for this.
                Stage::Starting if listing.stopped.contains(&slot.id) => {
                    let untold = slot.exit.borrow().is_none();
                    if untold {
                        slot.exit.send_replace(Some(UNKNOWN));
                    }
                }
                Stage::Pulling | Stage::Starting | Stage::Ready { .. } | Stage::Draining => {}
            }
        }
        for id in lost {
            self.replace(&id, "was gone when containerd came back");
        }
    }

    /// A replica's process ended.
    pub(super) fn exited(&mut self, id: &ReplicaId, code: u32) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        slot.exit.send_replace(Some(code));
        if matches!(slot.stage, Stage::Draining) || slot.cancel.is_cancelled() {
            // It was told to.
            return;
        }
        let out_of_memory = slot.out_of_memory;
        self.last_exit = Some(Arc::new(LastExit {
            replica: id.clone(),
            revision: slot.revision.number,
            code,
            out_of_memory,
            at: jiff::Timestamp::now(),
            output: Vec::new(),
        }));
        let reason = if out_of_memory {
            format!("was killed for want of memory (exit code {code}); raise limits.memory")
        } else {
            format!("exited with code {code}")
        };
        self.replace(id, &reason);
    }

    /// The kernel killed a process of a replica. This may be told once more after the exit that follows from it.
    pub(super) fn out_of_memory(&mut self, id: &ReplicaId) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) {
            slot.out_of_memory = true;
        }
        self.amend(id, |exit| exit.out_of_memory = true);
    }

    /// What a replica wrote before it ended.
    pub(super) fn said(&mut self, id: &ReplicaId, output: Vec<String>) {
        self.amend(id, |exit| exit.output = output);
    }

    /// What to add to the reason of a replica that has just ended.
    pub(super) fn memory_note(&self, id: &ReplicaId) -> &'static str {
        let killed = |exit: &LastExit| exit.replica == *id && exit.out_of_memory;
        if self.last_exit.as_deref().is_some_and(killed) { MEMORY_NOTE } else { "" }
    }

    /// Removes what is left of a replica whose process has ended, once its last words have arrived.
    pub(super) fn clean_ended(&mut self, id: &ReplicaId) {
        let (launcher, logs, id) = (self.context.launcher.clone(), self.context.logs.clone(), id.clone());
        let gone = id.clone();
        self.work(&id, async move {
            let output = logs.last_words(&gone, LINES).await;
            launcher.clean(&gone).await;
            TaskDone::Ended { id: gone, output }
        });
    }

    fn amend(&mut self, id: &ReplicaId, change: impl FnOnce(&mut LastExit)) {
        if let Some(exit) = self.last_exit.as_mut().filter(|exit| exit.replica == *id) {
            change(Arc::make_mut(exit));
        }
    }
}
