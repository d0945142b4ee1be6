//! Measures effects of replicas that no kernel limit bounds or reports: the files that they write, and killed
//! processes that did not end the replica.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::command::Command;
use super::context::Context;
use host::runtime::{Footprint, RuntimeError};
use model::function::ReplicaId;

/// Interval between two measurements of a replica.
const EVERY: Duration = Duration::from_secs(10);
/// Seconds of pause for each second that a round took, because walking many files is slow.
const PAUSE_SHARE: u32 = 20;
/// Bytes of `functions.disk` that allow one file.
const BYTES_PER_FILE: u64 = 8 << 10;
/// Measurements in a row after whose failure a replica counts as over the limit: it may cause the failure.
const FAILURES: u32 = 3;

/// The task that measures all replicas: those that start, serve or drain.
#[derive(Debug, Clone)]
pub(super) struct Footprints(pub(super) Arc<Context>);

impl Footprints {
    /// Measures the replicas one after the other, until the daemon stops.
    pub(super) async fn run(self) {
        let rounds = async {
            let mut failures: HashMap<ReplicaId, u32> = HashMap::new();
            loop {
                let began = Instant::now();
                let replicas = self.0.replica_index.replicas();
                failures.retain(|id, _| replicas.contains(id));
                for id in replicas {
                    self.count_oom_kills(&id).await;
                    self.measure(&id, &mut failures).await;
                }
                sleep(EVERY.max(began.elapsed() * PAUSE_SHARE)).await;
            }
        };
        tokio::select! {
            () = self.0.stop.cancelled() => {}
            () = rounds => {}
        }
    }

    async fn count_oom_kills(&self, id: &ReplicaId) {
        match self.0.runtime.oom_kills(id).await {
            Ok(0) => {}
            // The shim has reported most of them already.
            Ok(kills) => self.tell(id, Command::OutOfMemory { id: id.clone(), kills }).await,
            Err(error) => {
                // Kernels before 4.13 do not count them.
                tracing::debug!(replica = %id, error = &error as &dyn std::error::Error, "OOM kills not counted");
            }
        }
    }

    async fn measure(&self, id: &ReplicaId, failures: &mut HashMap<ReplicaId, u32>) {
        let excess = match self.0.runtime.footprint(id).await {
            Ok(found) => {
                failures.remove(id);
                excess(found, self.0.config.disk)
            }
            // Nothing of it is made yet, or it has ended.
            Err(RuntimeError::NotFound { .. }) => return,
            Err(error) => {
                // A replica is not to blame while containerd is away.
                if self.0.runtime.version().await.is_err() {
                    return;
                }
                tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "files not measured");
                let failed = failures.entry(id.clone()).or_default();
                *failed += 1;
                (*failed >= FAILURES).then(|| {
                    format!(
                        "its files could not be measured {failed} times in a row, which counts as more than \
                        functions.disk allows: {}",
                        model::error::chain(&error)
                    )
                })
            }
        };
        if let Some(excess) = excess {
            self.tell(id, Command::OverDiskLimit { id: id.clone(), excess }).await;
        }
    }

    async fn tell(&self, id: &ReplicaId, command: Command) {
        if let Some(owner) = self.0.replica_index.owner(id) {
            // An owner that has ended has no replicas.
            let _ = owner.send(command).await;
        }
    }
}

/// Returns in which way `found` exceeds `limit`, the value of `functions.disk`, if it does.
fn excess(found: Footprint, limit: u64) -> Option<String> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let files = limit / BYTES_PER_FILE;
    if found.bytes > limit {
        let (has, allowed) = (megabytes(found.bytes), megabytes(limit));
        return Some(format!(
            "it has {has:.1} MB of files in its writable layer, and functions.disk allows {allowed:.1} MB"
        ));
    }
    (found.files > files).then(|| {
        let has = found.files;
        format!(
            "it has {has} files in its writable layer, and functions.disk allows {files}, one for each 8 KiB"
        )
    })
}
