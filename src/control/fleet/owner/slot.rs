//! The place of one replica in its owner's books.

use std::sync::Arc;

use directory::Endpoint;
use host::runtime::Progress;
use model::function::ReplicaId;
use tokio::sync::watch;
use tokio::task;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::replica::Revision;

/// How far a replica is.
#[derive(Debug)]
pub(super) enum Stage {
    Pulling,
    Starting,
    Ready { endpoint: Arc<Endpoint>, since: Instant },
    Draining,
}

/// A replica from before its launch until all of it is gone.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: ReplicaId,
    pub(super) revision: Arc<Revision>,
    pub(super) stage: Stage,
    pub(super) progress: Progress,
    pub(super) exit: watch::Sender<Option<u32>>,
    pub(super) cancel: CancellationToken,
    /// OOM kills in this replica, and the time of the last one that was noticed.
    pub(super) oom_kills: u64,
    pub(super) oom_killed_at: Option<Instant>,
    /// Number of kills that were logged, and the time of the last line.
    pub(super) oom_kills_told: u64,
    pub(super) oom_told_at: Option<Instant>,
    /// Reason for which this daemon ended the replica, if it has.
    pub(super) ended: Option<String>,
    /// Task that works on the replica now, or did last.
    pub(super) task: Option<task::Id>,
}
