//! Images, from real and misbehaving registries and from archives, into a containerd of the test's
//! own.

mod archives;
mod collecting;
mod differential;
mod hosts;
mod keeping;
mod pull;
mod refused;
mod resume;
mod slow;
mod tokens;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use host::runtime::containerd::Containerd;
use host::runtime::{Image, Progress, ResolvedImage, Runtime, RuntimeError};
use model::function::{ImageRef, PullPolicy};

use crate::support::PrivateContainerd;

/// A containerd and our runtime on it.
pub(crate) struct Place {
    pub(crate) containerd: PrivateContainerd,
    pub(crate) runtime: Arc<Containerd>,
}

impl Place {
    pub(crate) async fn start() -> Self {
        let containerd = PrivateContainerd::start().await;
        let runtime = connect(&containerd).await;
        Self { containerd, runtime }
    }

    /// Another daemon, after this one has gone.
    pub(crate) async fn restart(&mut self) {
        self.runtime = connect(&self.containerd).await;
    }

    /// Docker's credentials file of this place.
    pub(crate) fn docker_config(&self) -> PathBuf {
        self.containerd.path().join("docker.json")
    }

    /// Writes the `hosts.toml` of a registry.
    pub(crate) fn write_hosts(&self, registry: &str, text: &str) {
        let directory = self.containerd.path().join("certs.d").join(registry);
        fs::create_dir_all(&directory).expect("make certs.d");
        fs::write(directory.join("hosts.toml"), text).expect("write hosts.toml");
    }

    pub(crate) async fn resolve(&self, name: &str) -> Result<ResolvedImage, RuntimeError> {
        self.runtime.resolve(&image(name), PullPolicy::Always).await
    }

    /// Resolves and pulls.
    pub(crate) async fn pull(&self, name: &str) -> Result<Arc<Image>, RuntimeError> {
        let resolved = self.resolve(name).await?;
        self.runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await
    }

    /// The digests in the content store.
    pub(crate) fn blobs(&self) -> Vec<String> {
        lines(&self.containerd.ctr(&["content", "ls", "-q"]))
    }

    /// Names of snapshots.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let listed = lines(&self.containerd.ctr(&["snapshots", "ls"]));
        listed.iter().skip(1).filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    }

    /// Unfinished writes, with how much there is of them as `ctr` shows it.
    pub(crate) fn ingests(&self) -> Vec<String> {
        let listed = lines(&self.containerd.ctr(&["content", "active"]));
        listed.into_iter().skip(1).filter(|line| !line.trim().is_empty()).collect()
    }

    pub(crate) fn leases(&self) -> Vec<String> {
        lines(&self.containerd.ctr(&["leases", "ls", "-q"]))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        lines(&self.containerd.ctr(&["images", "ls", "-q"]))
    }

    /// Makes containerd collect what nothing refers to, now.
    pub(crate) fn collect_garbage(&self) {
        let made = self.containerd.ctr(&["leases", "create", "--id", "nothing"]);
        assert!(made.status.success(), "{made:?}");
        let deleted = self.containerd.ctr(&["leases", "delete", "--sync", "nothing"]);
        assert!(deleted.status.success(), "{deleted:?}");
    }

    /// Asserts that there is nothing of any image here.
    pub(crate) fn assert_empty(&self) {
        self.collect_garbage();
        assert_eq!(self.names(), [""; 0], "images");
        assert_eq!(self.snapshots(), [""; 0], "snapshots");
        assert_eq!(self.ingests(), [""; 0], "ingests");
        assert_eq!(self.leases(), [""; 0], "leases");
        assert_eq!(self.blobs(), [""; 0], "blobs");
    }
}

async fn connect(containerd: &PrivateContainerd) -> Arc<Containerd> {
    let config = containerd.config(&format!(
        "[images]\ndocker_config = {:?}\ncerts_dir = {:?}\n",
        containerd.path().join("docker.json"),
        containerd.path().join("certs.d"),
    ));
    Arc::new(Containerd::connect(&config).await.expect("containerd"))
}

pub(crate) fn image(name: &str) -> ImageRef {
    name.parse().expect(name)
}

fn lines(output: &std::process::Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
