//! [`Runtime`] on containerd, over gRPC.
//!
//! Invariants
//! - Nothing is kept here that containerd does not know better: the daemon may be killed at any
//!   point, and what was half made is found by [`Runtime::containers`].
//! - A containerd that goes away and comes back is met again by the next call, and
//!   [`RuntimeEvent::Resync`] says that it was away.

mod cgroup;
mod client;
mod container;
mod diagnosis;
mod events;
mod images;
mod layer;
mod list;
mod orphans;
mod rootfs;
mod seccomp;
mod shim;
mod spec;
mod task;
mod user;

pub use diagnosis::diagnose;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{CreateNamespaceRequest, Namespace};
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::broadcast;

use self::cgroup::Hierarchies;
use self::client::Client;
use self::events::Events;
use self::images::Images;
use self::orphans::Strays;
use self::user::User;
use super::{
    ContainerRecord, ContainerRequest, Disk, Footprint, Image, ImageRecord, LayerRequest, Loaded, Progress,
    ResolvedImage, Runtime, RuntimeError, RuntimeEvent, Stored, Usage,
};
use model::config::Config;
use model::function::{ImageRef, PullPolicy, ReplicaId, capability};
use model::sync::lock;

/// The oldest containerd that has what is used here, as major and minor version.
const OLDEST: (u32, u32) = (1, 6);
/// Users of images that are remembered; when full, they are looked up anew.
const MAX_USERS: usize = 256;

/// Images and containers in one namespace of one containerd.
pub struct Containerd {
    client: Client,
    /// containerd's socket, and the namespace in it.
    socket: PathBuf,
    namespace: String,
    images: Images,
    /// The OCI runtime's binary; the shim's default if `None`.
    oci_runtime: Option<String>,
    /// Capabilities of every function, with their `CAP_` prefix.
    capabilities: Vec<String>,
    hierarchies: Hierarchies,
    strays: Arc<Strays>,
    /// Paths that functions must not read, of those that not every machine has.
    masked: Vec<String>,
    open_files: u64,
    events: Events,
    /// What the user of an image means, by the image's chain id and the user as text.
    users: Mutex<HashMap<(String, String), User>>,
    /// The first process of each running replica.
    pids: Mutex<HashMap<ReplicaId, u32>>,
}

impl fmt::Debug for Containerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Containerd")
            .field("client", &self.client)
            .field("namespace", &self.namespace)
            .field("snapshotter", &self.images.snapshotter())
            .finish_non_exhaustive()
    }
}

impl Containerd {
    /// Meets containerd: checks its version, makes the namespace, finds the snapshotter and begins
    /// to listen for events.
    pub async fn connect(config: &Config) -> Result<Self, RuntimeError> {
        let namespace = config.containerd.namespace.clone();
        let client = Client::new(&config.containerd.socket, &namespace)?;
        check_version(&version(&client).await?)?;
        make_namespace(&client, &namespace).await?;
        let capabilities = capabilities(&config.functions.capabilities)?;
        let hierarchies = Hierarchies::detect()
            .map_err(|error| RuntimeError::failed("reading /proc/self/mountinfo", error))?;
        let snapshotter =
            images::detect_snapshotter(&client, config.containerd.snapshotter.as_deref()).await?;
        let images = Images::new(client.clone(), &config.images, snapshotter);
        let events = Events::subscribe(client.clone(), &namespace, hierarchies.clone()).await?;
        Ok(Self {
            client,
            socket: config.containerd.socket.clone(),
            images,
            oci_runtime: Some(config.containerd.oci_runtime.clone()).filter(|name| name != "runc"),
            capabilities,
            strays: Arc::new(Strays::new(&hierarchies, &namespace)),
            namespace,
            hierarchies,
            masked: thermal_throttles(Path::new("/sys/devices/system/cpu")),
            open_files: open_files(),
            events,
            users: Mutex::default(),
            pids: Mutex::default(),
        })
    }
}

#[async_trait]
impl Runtime for Containerd {
    async fn version(&self) -> Result<String, RuntimeError> {
        version(&self.client).await
    }

    async fn resolve(&self, image: &ImageRef, policy: PullPolicy) -> Result<ResolvedImage, RuntimeError> {
        self.images.resolve(image, policy).await
    }

    async fn pull(
        &self,
        image: &ResolvedImage,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<Arc<Image>, RuntimeError> {
        self.images.pull(image, policy, progress).await
    }

    async fn load(&self, archive: PathBuf, name: Option<&ImageRef>) -> Result<Loaded, RuntimeError> {
        self.images.load(archive, name).await
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, RuntimeError> {
        self.images.list().await
    }

    async fn mark_image(
        &self,
        name: &str,
        unused_since: Option<jiff::Timestamp>,
    ) -> Result<(), RuntimeError> {
        self.images.mark(name, unused_since).await
    }

    async fn remove_image(&self, name: &str, digest: &str) -> Result<bool, RuntimeError> {
        self.images.remove(name, digest).await
    }

    async fn discard_broken_pulls(&self, used: &BTreeSet<String>) -> Result<usize, RuntimeError> {
        self.images.discard_broken_pulls(used).await
    }

    async fn sweep(&self) -> Result<(), RuntimeError> {
        self.images.sweep().await
    }

    async fn disk(&self) -> Result<Option<Disk>, RuntimeError> {
        self.images.disk().await
    }

    async fn room_for(&self, image: &ResolvedImage) -> Result<u64, RuntimeError> {
        self.images.room_for(image).await
    }

    async fn stored(&self, used: &BTreeSet<String>) -> Result<Stored, RuntimeError> {
        self.images.stored(used).await
    }

    async fn prepare(&self, request: &LayerRequest) -> Result<(), RuntimeError> {
        self.make_layer(request).await.map(drop)
    }

    async fn create(&self, request: &ContainerRequest) -> Result<(), RuntimeError> {
        self.create_replica(request).await
    }

    async fn start(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        self.start_replica(id).await
    }

    async fn stop(&self, id: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        self.stop_replica(id, grace).await
    }

    async fn remove(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        self.remove_replica(id).await
    }

    async fn containers(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        self.list_replicas().await
    }

    async fn record(&self, id: &ReplicaId) -> Result<Option<Vec<u8>>, RuntimeError> {
        self.record_of(id).await
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.receiver()
    }

    async fn usage(&self, id: &ReplicaId) -> Result<Usage, RuntimeError> {
        self.usage_of(id).await
    }

    async fn footprint(&self, id: &ReplicaId) -> Result<Footprint, RuntimeError> {
        self.footprint_of(id).await
    }

    async fn oom_kills(&self, id: &ReplicaId) -> Result<u64, RuntimeError> {
        self.oom_kills_of(id).await
    }
}

/// What containerd says of itself, such as `1.6.20~ds1` or `v2.0.5`.
async fn version(client: &Client) -> Result<String, RuntimeError> {
    let answer = VersionClient::new(client.channel()).version(client.request(())).await;
    Ok(answer.map_err(|status| client.error("asking for containerd's version", status))?.into_inner().version)
}

/// Refuses a containerd that is too old. A version that cannot be read is one built by hand: it is
/// taken as it is.
fn check_version(version: &str) -> Result<(), RuntimeError> {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    if let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST
    {
        let (major, minor) = OLDEST;
        return Err(RuntimeError::BadRequest(format!(
            "containerd {version} is too old: install {major}.{minor} or a newer one"
        )));
    }
    Ok(())
}

async fn make_namespace(client: &Client, name: &str) -> Result<(), RuntimeError> {
    let namespace = Namespace { name: name.to_owned(), ..Namespace::default() };
    let request = client.request(CreateNamespaceRequest { namespace: Some(namespace) });
    let answer = NamespacesClient::new(client.channel()).create(request).await;
    client.made(answer, format_args!("making containerd namespace {name}")).map(drop)
}

/// The capabilities of the configuration, spelled as the kernel's documents do.
fn capabilities(configured: &[String]) -> Result<Vec<String>, RuntimeError> {
    let spelled = configured.iter().map(|word| capability(word)).collect::<Result<_, _>>();
    spelled.map_err(|reason| RuntimeError::BadRequest(format!("functions.capabilities: {reason}")))
}

/// Where each processor counts how often it got too hot, which tells one function what others do.
/// Docker hides them since it hides `/proc/interrupts`.
fn thermal_throttles(processors: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(processors).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path().join("thermal_throttle")).filter(|path| path.is_dir());
    let mut paths: Vec<String> = paths.filter_map(|path| path.to_str().map(str::to_owned)).collect();
    paths.sort_unstable();
    paths
}

/// How many files a function may open. Where resources are held short, as in a container, a runtime
/// may not raise the limit that it was started with, which is likely ours too.
fn open_files() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => spec::OPEN_FILES.min(hard),
        Err(_) => spec::OPEN_FILES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_containerd_is_refused_by_name() {
        for version in ["1.6.20~ds1", "v1.7.2", "2.0.5", "v10.1.0-rc.1", "dev"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        for version in ["1.5.18", "v1.4.13~ds1", "0.9.1"] {
            assert!(check_version(version).expect_err(version).to_string().contains(version));
        }
    }

    #[test]
    fn each_processor_that_has_counters_hides_them() {
        let processors = tempfile::tempdir().expect("a directory");
        for name in ["cpu0/thermal_throttle", "cpu1/thermal_throttle", "cpu2/topology", "cpufreq"] {
            std::fs::create_dir_all(processors.path().join(name)).expect("a directory");
        }
        let found = thermal_throttles(processors.path());
        let below = |name: &str| processors.path().join(name).display().to_string();
        assert_eq!(found, [below("cpu0/thermal_throttle"), below("cpu1/thermal_throttle")]);
        assert_eq!(thermal_throttles(&processors.path().join("none")), [""; 0]);
    }

    #[test]
    fn configured_capabilities_are_spelled_out_or_named() {
        let words = ["net_raw".to_owned(), "CAP_CHOWN".to_owned()];
        assert_eq!(capabilities(&words).expect("known"), ["CAP_NET_RAW", "CAP_CHOWN"]);
        let error = capabilities(&["fly".to_owned()]).expect_err("unknown");
        assert!(error.to_string().contains("\"fly\""), "{error}");
    }
}
