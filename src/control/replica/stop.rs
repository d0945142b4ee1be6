//! The end of one replica: stopped, and every step of its launch taken back.

use std::time::Duration;

use super::launch::{Launcher, Step};
use model::function::ReplicaId;

/// Attempts to take a step back before it is left to the reaper.
const ATTEMPTS: u32 = 3;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

impl Launcher {
    /// Asks a replica to leave, waits up to `grace`, and removes what is left of it.
    pub async fn stop(&self, id: &ReplicaId, grace: Duration) {
        if let Err(error) = self.runtime.stop(id, grace).await {
            tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "replica could not be stopped; removing it");
        }
        self.clean(id).await;
    }

    /// Removes whatever there is of a replica, running or not. What cannot be removed is left to the reaper.
    pub async fn clean(&self, id: &ReplicaId) {
        self.undo(id, Step::ALL.to_vec()).await;
    }

    /// The same for the reaper itself; whether nothing is left.
    pub async fn try_clean(&self, id: &ReplicaId) -> bool {
        self.take_back(id, Step::ALL.to_vec()).await
    }

    /// Returns when something was left to the reaper.
    pub async fn left(&self) {
        self.left.notified().await;
    }

    /// Has the reaper look for what was left.
    pub fn reap_soon(&self) {
        self.left.notify_one();
    }

    /// Takes steps back, newest first, and leaves the rest to the reaper.
    pub(super) async fn undo(&self, id: &ReplicaId, steps: Vec<Step>) {
        if !self.take_back(id, steps).await {
            self.reap_soon();
        }
    }

    /// One that fails does not keep the others from being tried.
    async fn take_back(&self, id: &ReplicaId, steps: Vec<Step>) -> bool {
        let mut all = true;
        for step in steps.into_iter().rev() {
            let mut attempt = 1;
            while let Err(error) = self.undo_step(id, step).await {
                if attempt == ATTEMPTS {
                    tracing::error!(replica = %id, step = ?step, error = &*error, "not removed; the reaper will try again");
                    all = false;
                    break;
                }
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
        all
    }

    async fn undo_step(
        &self,
        id: &ReplicaId,
        step: Step,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match step {
            Step::Logs => self.logs.close(id).await,
            Step::Network => self.network.detach(id).await?,
            Step::Container => self.runtime.remove(id).await?,
        }
        Ok(())
    }
}
