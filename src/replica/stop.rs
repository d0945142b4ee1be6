//! The end of one replica: stopped, and every step of its launch taken back.

use std::time::Duration;

use super::launch::{Launcher, Step};
use crate::function::ReplicaId;

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

    /// Removes whatever there is of a replica, running or not.
    pub async fn clean(&self, id: &ReplicaId) {
        self.undo(id, Step::ALL.to_vec()).await;
    }

    /// Takes steps back, newest first. One that fails does not keep the others from being tried.
    pub(super) async fn undo(&self, id: &ReplicaId, steps: Vec<Step>) {
        for step in steps.into_iter().rev() {
            let mut attempt = 1;
            while let Err(error) = self.undo_step(id, step).await {
                if attempt == ATTEMPTS {
                    tracing::error!(replica = %id, step = ?step, error = &*error, "not removed; the reaper will try again");
                    break;
                }
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
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
