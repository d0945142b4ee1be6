//! Removes what no owner has: what a killed daemon left, and what could not be removed when it should have been;
//! output of functions that are gone; images that nobody uses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use model::function::ReplicaId;

/// How often left-overs are looked for.
const EVERY: Duration = Duration::from_secs(300);
/// The pause before it is tried again to remove what could not be removed; it doubles up to [`EVERY`].
const AGAIN: Duration = Duration::from_secs(1);

/// Looks for replicas that nobody owns.
#[derive(Debug, Clone)]
pub(super) struct Reaper(pub(super) Arc<Context>);

impl Reaper {
    /// Looks at once, from time to time, and soon after something was left, until the daemon stops.
    pub(super) async fn run(self) {
        let Context { launcher, stop, .. } = &*self.0;
        let work = async {
            let mut again = AGAIN;
            loop {
                let all = self.reap().await;
                self.discard_output().await;
                let pause = if all { EVERY } else { again };
                again = if all { AGAIN } else { (again * 2).min(EVERY) };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = async { launcher.left().await; tokio::time::sleep(AGAIN).await } => again = AGAIN,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
            // Beside the rest: a large image takes a while to go.
            () = self.collect() => {}
        }
    }

    /// Removes images that nobody uses, where there are too many.
    async fn collect(&self) {
        let mut collect = tokio::time::interval(EVERY);
        loop {
            collect.tick().await;
            if let Err(error) = self.0.disk.collect().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "images could not be collected");
            }
        }
    }

    async fn discard_output(&self) {
        if let Err(error) = self.0.disk.discard_output().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "output of functions that are gone could not be removed"
            );
        }
    }

    /// Removes whatever carries a replica's id that no owner knows; whether all of it is gone.
    pub(super) async fn reap(&self) -> bool {
        // Listed before the owners are asked: an id is registered before anything of it is made.
        let mut found: BTreeSet<ReplicaId> = self.0.logs.attached().into_iter().collect();
        match self.0.runtime.containers().await {
            Ok(containers) => found.extend(containers.into_iter().map(|container| container.id)),
            // Of what cannot be looked for nothing can be removed.
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "containers cannot be listed");
                return false;
            }
        }
        let mut all = true;
        match self.0.network.attached().await {
            Ok(attached) => found.extend(attached),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "networks cannot be listed");
                all = false;
            }
        }
        for id in found {
            if !self.0.replica_index.contains(&id) {
                tracing::info!(replica = %id, "removing what is left of a replica");
                all &= self.0.launcher.try_clean(&id).await;
            }
        }
        all
    }
}
