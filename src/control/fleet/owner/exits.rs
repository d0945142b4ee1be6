//! Replicas that end without having been told to: why, and what they wrote last.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Owner;
use super::completions::TaskDone;
use super::slot::Stage;
use crate::fleet::command::Listing;
use directory::LastExit;
use model::function::ReplicaId;

/// Lines of output that are kept of the last exit.
const LINES: usize = 5;
/// What to say of a replica that the kernel killed.
const MEMORY_NOTE: &str = "; it ran out of memory (OOMKilled): raise limits.memory";
/// The exit code of a process that was killed.
const KILLED: u32 = 128 + 9;
/// Longest time between an OOM kill and an end of the replica that it caused.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);

/// Shortest time between two log lines about killed processes of one replica.
const TELL_EVERY: Duration = Duration::from_secs(10);
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
        if let Some(reason) = slot.ended.clone() {
            // Its exit is noted.
            self.replace(id, &reason);
            return;
        }
        let out_of_memory = slot
            .oom_killed_at
            .is_some_and(|killed_at| code == KILLED || killed_at.elapsed() < FOLLOWS_WITHIN);
        self.last_exit = Some(Arc::new(LastExit {
            replica: id.clone(),
            revision: slot.revision.number,
            code,
            out_of_memory,
            reason: None,
            at: jiff::Timestamp::now(),
            output: Vec::new(),
        }));
        let reason = if out_of_memory {
            format!("ran out of memory (OOMKilled, exit code {code}); raise limits.memory")
        } else {
            format!("exited with code {code}")
        };
        self.replace(id, &reason);
    }

    /// Records the number of OOM kills in a replica so far: of its first process, or of one that it started,
    /// for a call for instance. May be called again with the same number, even after the exit that the kill
    /// caused.
    pub(super) fn out_of_memory(&mut self, id: &ReplicaId, kills: u64) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else {
            return self.amend(id, |exit| exit.out_of_memory = true);
        };
        let now = Instant::now();
        let more = kills.saturating_sub(slot.oom_kills);
        if more > 0 {
            slot.oom_kills = kills;
            slot.oom_killed_at = Some(now);
            self.oom_kills += more;
        }
        let has_ended = slot.exit.borrow().is_some();
        // Callers can cause kills as often as they like.
        let untold = slot.oom_kills - slot.oom_kills_told;
        if untold > 0 && slot.oom_told_at.is_none_or(|at| now.duration_since(at) >= TELL_EVERY) {
            slot.oom_kills_told = slot.oom_kills;
            slot.oom_told_at = Some(now);
            let function = &self.entry.key;
            tracing::warn!(%function, replica = %id, processes = untold, "out of memory (OOMKilled); raise limits.memory");
            let text = format!(
                "[out of memory (OOMKilled): the kernel killed {untold} of the processes of replica {id}; raise limits.memory]"
            );
            self.context.logs.remark(function, &text);
        }
        if has_ended && more > 0 {
            self.amend(id, |exit| exit.out_of_memory = true);
        }
    }

    /// Ends a replica that exceeds `functions.disk`, whether it starts, serves or drains.
    pub(super) fn over_disk_limit(&mut self, id: &ReplicaId, excess: &str) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        let is_ready = matches!(slot.stage, Stage::Ready { .. });
        let reason = format!("was ended: {excess}");
        if slot.ended.is_none() {
            slot.ended = Some(reason.clone());
            self.last_exit = Some(Arc::new(LastExit {
                replica: id.clone(),
                revision: slot.revision.number,
                code: KILLED,
                out_of_memory: false,
                reason: Some(reason.clone()),
                at: jiff::Timestamp::now(),
                output: Vec::new(),
            }));
            self.context.logs.remark(&self.entry.key, &format!("[replica {id} {reason}]"));
            if !is_ready {
                tracing::warn!(function = %self.entry.key, replica = %id, "replica {reason}");
            }
        }
        if is_ready {
            self.replace(id, &reason);
        } else {
            // A task works on it, and goes on once its process has ended. If it does not end, the next
            // measurement tries again.
            let (runtime, id) = (self.context.runtime.clone(), id.clone());
            tokio::spawn(async move {
                if let Err(error) = runtime.stop(&id, Duration::ZERO).await {
                    tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "could not be ended");
                }
            });
        }
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
