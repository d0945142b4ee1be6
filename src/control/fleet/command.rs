//! Messages to the owners of functions.

use std::sync::Arc;

use model::function::ReplicaId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::FleetError;
use crate::replica::Revision;

/// A request or an event for the owner of one function.
#[derive(Debug)]
pub(super) enum Command {
    /// A new revision is wanted; answered with its number when it is on disk.
    Deploy { revision: Box<Revision>, done: oneshot::Sender<Result<u64, FleetError>> },
    /// An old revision is wanted again, as a new one; answered with its number when it is on disk.
    Rollback { to: Option<u64>, done: oneshot::Sender<Result<u64, FleetError>> },
    /// Another number of replicas is wanted; answered when it is on disk.
    Scale { replicas: u32, done: oneshot::Sender<Result<(), FleetError>> },
    /// The function is not wanted any more; answered when that is on disk.
    Remove { done: oneshot::Sender<Result<(), FleetError>> },
    /// A replica's process ended.
    Exited { id: ReplicaId, code: u32 },
    /// The kernel killed processes of a replica that ran out of memory: the number so far.
    OutOfMemory { id: ReplicaId, kills: u64 },
    /// A replica exceeds `functions.disk`, in the way that `excess` says.
    OverDiskLimit { id: ReplicaId, excess: String },
    /// A replica fails its health probe.
    Unhealthy { id: ReplicaId, reason: String },
    /// Events may have been lost: this is what runs.
    Listed(Arc<Listing>),
}

/// A listing of replicas as containerd knew them.
#[derive(Debug)]
pub(super) struct Listing {
    /// When it was asked.
    pub(super) at: Instant,
    pub(super) running: Vec<ReplicaId>,
    /// Replicas whose process has ended.
    pub(super) stopped: Vec<ReplicaId>,
}
