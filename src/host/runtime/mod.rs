//! Images and containers, as the rest of the daemon sees them.
//!
//! [`Runtime`] has two implementations: [`containerd`], and the fake in the tests, which passes the
//! same contract tests. Only this room names containerd's types.
//!
//! Invariants
//! - Every step that fails takes back what it made; [`Runtime::remove`] takes back whatever there is
//!   of a replica, in whatever state it is, and finding nothing is success.
//! - Everything that is made carries the replica's id, and the labels in [`ContainerRequest::labels`]
//!   say enough to take the replica up again after the daemon, and its store, are gone.

pub mod containerd;
mod error;
mod progress;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub use error::RuntimeError;
pub use progress::{Progress, ProgressReport};

pub use storage::{Disk, Stored};

use model::function::{FunctionSpec, ImageRef, Incarnation, PullPolicy, ReplicaId};

/// What runs containers.
#[async_trait]
pub trait Runtime: Send + Sync + fmt::Debug + 'static {
    /// The engine's version, for `/system/info`; fails when it cannot be reached.
    async fn version(&self) -> Result<String, RuntimeError>;

    /// Finds out which image is meant, without fetching layers: reads the manifest (from this
    /// machine or the registry, by `policy`) and checks that there is one for this machine's
    /// architecture. A wrong name, credential or platform fails here.
    async fn resolve(&self, image: &ImageRef, policy: PullPolicy) -> Result<ResolvedImage, RuntimeError>;

    /// Fetches what is missing of a resolved image, by its digest, unpacks it, and returns it ready to
    /// run. Under [`PullPolicy::Never`] no registry is asked: what is missing is an error.
    /// Dropping the future stops the transfer; what has arrived is kept for the next attempt.
    async fn pull(
        &self,
        image: &ResolvedImage,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<Arc<Image>, RuntimeError>;

    /// Takes in an archive made by `docker save` or in the OCI layout. Its one image, or the one that has no name, is
    /// called `name`, if there is one.
    async fn load(&self, archive: PathBuf, name: Option<&ImageRef>) -> Result<Loaded, RuntimeError>;

    /// The images that are on this machine.
    async fn images(&self) -> Result<Vec<ImageRecord>, RuntimeError>;

    /// Notes on an image since when nobody uses it, or that somebody does.
    async fn mark_image(&self, name: &str, unused_since: Option<jiff::Timestamp>)
    -> Result<(), RuntimeError>;

    /// Forgets an image, if its name is still there and points to this digest; says whether it did.
    /// Its bytes go with the next [`Runtime::sweep`], unless another image or a replica has them too.
    async fn remove_image(&self, name: &str, digest: &str) -> Result<bool, RuntimeError>;

    /// Gives up what pulls that were broken off have left for the next attempt, but for images with a
    /// digest in `used`; of how many.
    async fn discard_broken_pulls(&self, used: &BTreeSet<String>) -> Result<usize, RuntimeError>;

    /// Removes the bytes that nothing refers to; returns when the disk has them back.
    async fn sweep(&self) -> Result<(), RuntimeError>;

    /// The file system that images are on; if there are two, the one with less room. `None` if the
    /// engine does not say, or is on another machine.
    async fn disk(&self) -> Result<Option<Disk>, RuntimeError>;

    /// How many bytes a pull of this image will take, roughly; 0 if all of it is here.
    async fn room_for(&self, image: &ResolvedImage) -> Result<u64, RuntimeError>;

    /// What is stored; that of images with a digest in `used` counts as used.
    async fn stored(&self, used: &BTreeSet<String>) -> Result<Stored, RuntimeError>;

    /// Makes a replica's writable layer, for which its network need not be there yet. A layer that is
    /// there is success.
    async fn prepare(&self, request: &LayerRequest) -> Result<(), RuntimeError>;

    /// Makes a replica's container and task, not yet started; its layer too, if it was not prepared.
    async fn create(&self, request: &ContainerRequest) -> Result<(), RuntimeError>;

    /// Starts a created task.
    async fn start(&self, id: &ReplicaId) -> Result<(), RuntimeError>;

    /// SIGTERM, up to `grace` for it to leave, SIGKILL. Success when nothing of it runs any more.
    async fn stop(&self, id: &ReplicaId, grace: Duration) -> Result<(), RuntimeError>;

    /// Removes whatever there is of the replica: task, container, snapshot. Kills it if it runs.
    async fn remove(&self, id: &ReplicaId) -> Result<(), RuntimeError>;

    /// Every container of ours, with its state.
    async fn containers(&self) -> Result<Vec<ContainerRecord>, RuntimeError>;

    /// Returns the record that a container was made with ([`ContainerRequest::record`]); `None` if there is no such
    /// container, or it is of an earlier version.
    async fn record(&self, id: &ReplicaId) -> Result<Option<Vec<u8>>, RuntimeError>;

    /// What happens to containers from now on. A receiver that lags must list again.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;

    /// Processor time and memory used by a running replica.
    async fn usage(&self, id: &ReplicaId) -> Result<Usage, RuntimeError>;

    /// Measures the files of a replica. Walks through its writable layer.
    async fn footprint(&self, id: &ReplicaId) -> Result<Footprint, RuntimeError>;

    /// Returns how many processes of a replica the kernel has killed because they ran out of memory.
    async fn oom_kills(&self, id: &ReplicaId) -> Result<u64, RuntimeError>;
}

/// An image name with the digest that it means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The image, as named.
    pub image: ImageRef,
    /// The digest that the name was resolved to: of the index, where there is one. `sha256:…`
    pub digest: String,
    /// The digest of the manifest for this machine's platform.
    pub manifest_digest: String,
    /// What the manifest says of the image: command, user, environment. Known before any layer is.
    pub config: ImageConfig,
    /// Compressed size of all layers in bytes.
    pub size: u64,
}

/// An image that is on this machine and unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name and digests.
    pub resolved: ResolvedImage,
    /// The snapshot of its topmost layer (the OCI chain id).
    pub chain_id: String,
}

/// The part of an image's configuration that a container is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The command, first part.
    pub entrypoint: Vec<String>,
    /// The command, second part.
    pub cmd: Vec<String>,
    /// Environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Where the command starts; `/` if empty.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`; root if empty.
    pub user: String,
    /// Directories that can be written, and are made where no layer has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Whether its programs are of 32 bits, on a machine of 64.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub programs_32bit: bool,
}

impl ImageConfig {
    /// Whether its command is a watchdog, which runs what a function's `envProcess` says.
    pub fn has_watchdog(&self) -> bool {
        let words = self.entrypoint.iter().chain(&self.cmd);
        words.filter_map(|word| word.rsplit('/').next()).any(|name| name.ends_with("watchdog"))
    }

    /// Returns a variable of the environment, also an empty one. Of several lines the last one counts.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let mut lines = self.env.iter().rev().filter_map(|line| line.split_once('='));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }
}

/// Content of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Images that are here now, one for each name.
    pub images: Vec<ImageRecord>,
    /// Names of images that are for other machines, and why each was left out.
    pub skipped: Vec<(String, String)>,
}

/// One image as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The name with all defaults filled in.
    pub name: String,
    /// The digest that the name was resolved to.
    pub digest: String,
    /// `linux/amd64` and the like: of what is there for this machine.
    pub platform: String,
    /// Compressed size in bytes.
    pub size: u64,
    /// When it was pulled or loaded.
    pub created_at: jiff::Timestamp,
    /// The name that it had, if that has moved on to another image.
    pub superseded: Option<String>,
    /// Since when nobody uses it, as [`Runtime::mark_image`] noted.
    pub unused_since: Option<jiff::Timestamp>,
}

/// Everything that [`Runtime::create`] needs.
#[derive(Debug, Clone)]
pub struct ContainerRequest {
    /// The replica.
    pub id: ReplicaId,
    /// The function it belongs to.
    pub spec: Arc<FunctionSpec>,
    /// Which version of the spec.
    pub revision: u64,
    /// The life of the function that it belongs to.
    pub incarnation: Incarnation,
    /// The identity of the state directory that the function is in.
    pub state: Box<str>,
    /// The function's record, for [`Runtime::record`].
    pub record: Vec<u8>,
    /// The image to run.
    pub image: Arc<Image>,
    /// The replica's address, for the labels.
    pub address: IpAddr,
    /// The network namespace to join.
    pub netns: PathBuf,
    /// FIFOs that the daemon reads.
    pub stdio: Stdio,
    /// Files and directories of the host to show inside, read-only.
    pub mounts: Vec<Mount>,
    /// Variables of the daemon's, weaker than the function's own, stronger than the image's.
    pub env: BTreeMap<String, String>,
    /// How many processes and threads it may have.
    pub pids: u32,
    /// Memory limit in bytes; no limit if `None`.
    pub memory: Option<u64>,
    /// The watchdog of this machine, shown inside and run instead of the image's command.
    pub watchdog: Option<PathBuf>,
}

/// Label keys on containers, snapshots and leases.
pub mod label {
    /// The function's name.
    pub const FUNCTION: &str = "ingle/function";
    /// Its namespace.
    pub const NAMESPACE: &str = "ingle/namespace";
    /// The revision of its spec, a number.
    pub const REVISION: &str = "ingle/revision";
    /// The replica's IP address.
    pub const ADDRESS: &str = "ingle/address";
    /// The port it serves on.
    pub const PORT: &str = "ingle/port";
    /// The digest of its image.
    pub const IMAGE: &str = "ingle/image";
    /// The digest of its handler, if it has one.
    pub const HANDLER: &str = "ingle/handler";
    /// The life of the function. Containers of earlier versions have none.
    pub const INCARNATION: &str = "ingle/incarnation";
    /// The identity of the state directory. Containers of earlier versions have none.
    pub const STATE: &str = "ingle/state";
}

impl ContainerRequest {
    /// The part of it that is known first.
    pub fn layer(&self) -> LayerRequest {
        LayerRequest {
            id: self.id.clone(),
            spec: self.spec.clone(),
            revision: self.revision,
            incarnation: self.incarnation.clone(),
            state: self.state.clone(),
            image: self.image.clone(),
        }
    }

    /// What the container is labelled with, so that it can be adopted.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.layer().labels();
        labels.insert(label::ADDRESS.into(), self.address.to_string());
        labels
    }
}

/// What is known of a replica before it has an address.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// The replica.
    pub id: ReplicaId,
    /// What it is to be.
    pub spec: Arc<FunctionSpec>,
    /// The number of its revision.
    pub revision: u64,
    /// The life of the function that it belongs to.
    pub incarnation: Incarnation,
    /// The identity of the state directory that the function is in.
    pub state: Box<str>,
    /// What it runs.
    pub image: Arc<Image>,
}

impl LayerRequest {
    /// What the layer is labelled with, so that its owner is known.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            (label::FUNCTION.into(), self.spec.key.name.to_string()),
            (label::NAMESPACE.into(), self.spec.key.namespace.to_string()),
            (label::REVISION.into(), self.revision.to_string()),
            (label::PORT.into(), self.spec.port.to_string()),
            (label::INCARNATION.into(), self.incarnation.to_string()),
            (label::STATE.into(), self.state.to_string()),
            (label::IMAGE.into(), self.image.resolved.digest.clone()),
        ]);
        if let Some(handler) = &self.spec.handler {
            labels.insert(label::HANDLER.into(), handler.to_string());
        }
        labels
    }
}

/// Where a container's output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stdio {
    /// A FIFO for standard output.
    pub stdout: PathBuf,
    /// A FIFO for standard error.
    pub stderr: PathBuf,
}

/// A file or directory of the host, shown read-only inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside.
    pub target: PathBuf,
    /// Whether what is in it may be run.
    pub holds_programs: bool,
}

/// A container that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRecord {
    /// The replica's id.
    pub id: ReplicaId,
    /// What [`ContainerRequest::labels`] put there.
    pub labels: BTreeMap<String, String>,
    /// What its task is doing.
    pub state: ContainerState,
}

/// What a container's task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// There is no task: it was not started, or was lost with a reboot.
    NoTask,
    /// Created, not started.
    Created,
    /// Running, with the process id of its first process.
    Running {
        /// On the host.
        pid: u32,
    },
    /// Frozen.
    Paused,
    /// Exited.
    Stopped,
}

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Its first process ended.
    Exited {
        /// The replica.
        id: ReplicaId,
        /// The exit code; 128 + signal when a signal ended it.
        code: u32,
    },
    /// The kernel killed a process of it for want of memory. It is told before the exit that follows from it,
    /// and may be told again.
    OutOfMemory {
        /// The replica.
        id: ReplicaId,
        /// OOM kills in the replica so far.
        kills: u64,
    },
    /// Events may have been missed (the engine was away): list again.
    Resync,
}

/// What a replica uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since it started.
    pub cpu: Duration,
    /// Memory in bytes, without inactive page cache.
    pub memory: u64,
}

/// The files of a replica: those in its writable layer, and deleted ones that its processes hold open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Space that they take on the disk.
    pub bytes: u64,
    /// Number of files and directories.
    pub files: u64,
}

/// Returns the machine's memory in bytes.
pub fn machine_memory() -> u64 {
    // The call fails only for a bad pointer.
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}
