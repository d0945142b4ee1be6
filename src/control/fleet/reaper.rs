//! Removes what no owner has: what a killed daemon left, and what could not be removed when it should have been;
//! output of functions that are gone; images that nobody uses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::claim;
use super::context::Context;
use host::store::Tombstone;
use model::function::ReplicaId;
use model::sync::lock;
use model::wire;

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
                let all = self.reap(false).await;
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
        if self.0.store.is_held() {
            return std::future::pending().await;
        }
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

    /// Removes whatever carries a replica's id that no owner knows, but for containers that are orphans, unless
    /// `orphans` asks for those, too; whether all of it is gone.
    pub(super) async fn reap(&self, orphans: bool) -> bool {
        let context = &self.0;
        let removals = std::mem::take(&mut lock(&context.remains).removals);
        // Listed before the owners are asked: an id is registered before anything of it is made.
        let mut found: BTreeSet<ReplicaId> = context.logs.attached().into_iter().collect();
        let containers = match context.runtime.containers().await {
            Ok(containers) => containers,
            // Of what cannot be looked for nothing can be removed.
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "containers cannot be listed");
                context.left(removals);
                return false;
            }
        };
        let mut all = true;
        match context.network.attached().await {
            Ok(attached) => found.extend(attached),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "networks cannot be listed");
                all = false;
            }
        }
        let tombstones = context.store.tombstones();
        let mut left = Vec::new();
        for container in containers {
            let orphan = if orphans { None } else { claim::orphan(&context.store, &tombstones, &container) };
            match orphan.filter(|_| !context.replica_index.contains(&container.id)) {
                Some(orphan) => {
                    found.remove(&container.id);
                    left.push(orphan);
                }
                None => drop(found.insert(container.id)),
            }
        }
        self.name_orphans(left);
        if context.store.is_held() {
            return true;
        }
        for id in found {
            if !context.replica_index.contains(&id) {
                tracing::info!(replica = %id, "removing what is left of a replica");
                all &= context.launcher.try_clean(&id).await;
            }
        }
        for removal in removals {
            if !all || !self.end(&removal).await {
                context.left(vec![removal]);
            }
        }
        all
    }

    /// Forgets a function that was removed, and of which nothing is left.
    async fn end(&self, removal: &Tombstone) -> bool {
        if let Err(error) = self.0.store.forget(removal).await {
            tracing::warn!(function = %removal.key, error = &error as &dyn std::error::Error, "a removal could not be ended; it is tried again");
            return false;
        }
        true
    }

    fn name_orphans(&self, orphans: Vec<wire::Orphan>) {
        let mut remains = lock(&self.0.remains);
        for orphan in orphans.iter().filter(|orphan| !remains.orphans.contains(orphan)) {
            let wire::Orphan { replica, function, reason, .. } = orphan;
            tracing::warn!(
                replica,
                function,
                "a container is left alone, because {reason}; 'ingle system prune --orphans' removes it"
            );
        }
        remains.orphans = orphans;
    }
}
