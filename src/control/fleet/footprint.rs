//! Measures effects of replicas that no kernel limit bounds or reports: the files that they write, and killed
//! processes that did not end the replica.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::command::Command;
use super::context::Context;
use directory::Directory;
use host::runtime::Footprint;
use model::function::ReplicaId;

/// Interval between two measurements of a replica.
const EVERY: Duration = Duration::from_secs(10);
/// Seconds of pause for each second that a round took, because walking many files is slow.
const PAUSE_SHARE: u32 = 20;

/// The task that measures all replicas that serve.
#[derive(Debug, Clone)]
pub(super) struct Footprints {
    pub(super) context: Arc<Context>,
    pub(super) directory: Arc<Directory>,
}

impl Footprints {
    /// Measures the replicas one after the other, until the daemon stops.
    pub(super) async fn run(self) {
        let rounds = async {
            loop {
                let began = Instant::now();
                for entry in self.directory.all() {
                    for endpoint in &entry.view().endpoints {
                        self.measure(&endpoint.id).await;
                    }
                }
                sleep(EVERY.max(began.elapsed() * PAUSE_SHARE)).await;
            }
        };
        tokio::select! {
            () = self.context.stop.cancelled() => {}
            () = rounds => {}
        }
    }

    async fn measure(&self, id: &ReplicaId) {
        let Footprint { layer, oom_kills } = match self.context.runtime.footprint(id).await {
            Ok(footprint) => footprint,
            // The replica may have ended meanwhile.
            Err(error) => {
                tracing::debug!(replica = %id, error = &error as &dyn std::error::Error, "not measured");
                return;
            }
        };
        let too_large = (layer > self.context.config.disk)
            .then(|| Command::LayerTooLarge { id: id.clone(), bytes: layer });
        // The shim has reported most of them already.
        let killed = (oom_kills > 0).then(|| Command::OutOfMemory { id: id.clone(), kills: oom_kills });
        if let Some(owner) = self.context.replica_index.owner(id) {
            for command in [killed, too_large].into_iter().flatten() {
                // An owner that has ended has no replicas.
                let _ = owner.send(command).await;
            }
        }
    }
}
