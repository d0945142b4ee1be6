//! The state of a function as its owner publishes it.

use std::sync::Arc;
use std::time::Duration;

use host::runtime::Progress;
use model::function::{FunctionSpec, ReplicaId};
use model::wire;
use tokio::time::Instant;

use super::Endpoint;

/// How a function is: written by its owner, read by everyone.
#[derive(Debug, Clone)]
pub struct View {
    /// The revision that serves, or will: as sent, and parsed.
    pub deployment: Arc<wire::Deployment>,
    /// The same, parsed.
    pub spec: Arc<FunctionSpec>,
    /// Number of that revision, counted from 1.
    pub revision: u64,
    /// Phase of the function.
    pub phase: Phase,
    /// Why it is not ready, in words.
    pub reason: Option<String>,
    /// The update that is under way, or the last one if it did not come up.
    pub update: Option<Update>,
    /// Counts the bytes of the pull that is under way.
    pub progress: Option<Progress>,
    /// The replicas that can be called.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// How many replicas there should be.
    pub desired: u32,
    /// When this revision was deployed.
    pub created_at: jiff::Timestamp,
    /// The digest that the image was resolved to.
    pub image_digest: Option<String>,
    /// The revisions that served and are kept, oldest first.
    pub revisions: Arc<[KeptRevision]>,
    /// Starts of a replica after the first, since the last deploy.
    pub restarts: u32,
    /// OOM kills in the function's replicas.
    pub oom_kills: u64,
    /// Memory limit in bytes that each replica gets because the function sets none.
    pub default_memory: Option<u64>,
    /// How the last replica ended that was not told to, since the daemon started.
    pub last_exit: Option<Arc<LastExit>>,
    /// When the next start is tried, while [`Phase::BackingOff`].
    pub retry_at: Option<Instant>,
    /// Whether so many starts in a row failed that calls do not wait for the next one.
    pub crash_looping: bool,
    /// How long a call may take: the function's own value or the default.
    pub timeout: Duration,
    /// The largest body of a call in bytes: the function's own value or the default.
    pub body_limit: u64,
}

/// How a replica ended that was not told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastExit {
    /// The replica.
    pub replica: ReplicaId,
    /// The revision that it ran.
    pub revision: u64,
    /// The exit code of its first process.
    pub code: u32,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: bool,
    /// Reason for which the daemon ended the replica, if it did.
    pub reason: Option<String>,
    /// When.
    pub at: jiff::Timestamp,
    /// Last lines of output, once they have been read.
    pub output: Vec<String>,
}

/// A revision that served, and that one can go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRevision {
    /// Number of the revision.
    pub number: u64,
    /// Image of the revision, as it was sent.
    pub image: String,
    /// Digest that the image was resolved to.
    pub digest: String,
    /// When it was deployed.
    pub created_at: jiff::Timestamp,
}

/// A revision that does not serve yet, or did not come up, while an older one serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Number of the revision.
    pub revision: u64,
    /// How far it is: `Pulling`, `Starting` or `Failed`.
    pub phase: Phase,
    /// Why it did not come up.
    pub reason: Option<String>,
}

/// The phase of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Phase {
    /// The image is being fetched.
    Pulling,
    /// A replica is starting, and none serves yet.
    Starting,
    /// At least one replica serves.
    Ready,
    /// Replicas end as soon as they start; the next attempt waits.
    BackingOff,
    /// The function cannot start, and trying again will not help before it is deployed anew.
    Failed,
    /// It was scaled to no replicas; a call starts one.
    Stopped,
    /// It is being removed; calls get 404.
    Removing,
}
