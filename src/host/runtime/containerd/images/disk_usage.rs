//! What images take of the disk, and giving it back.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::snapshots::UsageRequest;
use jiff::Timestamp;

use super::lease::Lease;
use super::{Images, Layout, lock, unique};
use crate::runtime::{Disk, ResolvedImage, RuntimeError, Stored, label};

impl Images {
    /// See [`crate::runtime::Runtime::mark_image`].
    pub(in crate::runtime::containerd) async fn mark(
        &self,
        name: &str,
        unused_since: Option<Timestamp>,
    ) -> Result<(), RuntimeError> {
        self.records.mark(name, unused_since).await
    }

    /// See [`crate::runtime::Runtime::remove_image`].
    pub(in crate::runtime::containerd) async fn remove(
        &self,
        name: &str,
        digest: &str,
    ) -> Result<bool, RuntimeError> {
        let removed = self.records.remove(name, digest).await?;
        // Its layers may stay for others, and would make it look ready without a record.
        lock(&self.ready).clear();
        Ok(removed)
    }

    /// See [`crate::runtime::Runtime::discard_broken_pulls`].
    pub(in crate::runtime::containerd) async fn discard_broken_pulls(
        &self,
        used: &BTreeSet<String>,
    ) -> Result<usize, RuntimeError> {
        let mut discarded = 0;
        for (lease, digest) in Lease::all(&self.client).await? {
            // Whoever pulls has the lock from before there is a lease.
            if !used.contains(&digest)
                && let Some(_alone) = self.locks.try_lock(lease.id())
            {
                lease.release().await?;
                discarded += 1;
            }
        }
        Ok(discarded)
    }

    /// See [`crate::runtime::Runtime::sweep`].
    pub(in crate::runtime::containerd) async fn sweep(&self) -> Result<(), RuntimeError> {
        // containerd collects at once when it is told to wait for the end of a lease.
        Lease::empty(&self.client).await?.discard().await
    }

    /// See [`crate::runtime::Runtime::disk`].
    pub(in crate::runtime::containerd) async fn disk(&self) -> Result<Option<Disk>, RuntimeError> {
        let mut disks: Vec<Disk> = self.roots().await?.into_iter().filter_map(measure).collect();
        disks.sort_by_key(|disk| disk.free);
        Ok(disks.into_iter().next())
    }

    /// Where blobs and layers are.
    async fn roots(&self) -> Result<Vec<PathBuf>, RuntimeError> {
        let filters = vec![
            "type==io.containerd.content.v1".into(),
            format!("type==io.containerd.snapshotter.v1,id=={}", self.snapshotter()),
        ];
        let request = self.client.request(PluginsRequest { filters });
        let answer = IntrospectionClient::new(self.client.channel()).plugins(request).await;
        let answer = answer.map_err(|status| self.client.error("asking containerd for its root", status))?;
        let plugins = answer.into_inner().plugins.into_iter();
        Ok(plugins.filter_map(|mut plugin| plugin.exports.remove("root")).map(PathBuf::from).collect())
    }

    /// See [`crate::runtime::Runtime::room_for`].
    pub(in crate::runtime::containerd) async fn room_for(
        &self,
        image: &ResolvedImage,
    ) -> Result<u64, RuntimeError> {
        if self.find_ready(image).await?.is_some() {
            return Ok(0);
        }
        let layout = Layout::read(image.image.as_str(), &image.digest, &self.content).await?;
        let ratio = self.settings.unpack_ratio;
        let Some(layout) = layout else { return Ok(image.size.saturating_mul(ratio.saturating_add(1))) };
        if self.unpacker.has(layout.chain_id()).await? {
            return Ok(0);
        }
        let mut need = 0u64;
        for layer in unique(&layout.manifest.layers) {
            if !self.content.has(&layer.digest).await? {
                need = need.saturating_add(layer.size);
            }
        }
        for (layer, chain_id) in layout.manifest.layers.iter().zip(&layout.chain_ids) {
            if !self.unpacker.has(chain_id).await? {
                let ratio = if layer.is_compressed() { ratio } else { 1 };
                need = need.saturating_add(layer.size.saturating_mul(ratio));
            }
        }
        Ok(need)
    }

    /// See [`crate::runtime::Runtime::stored`].
    pub(in crate::runtime::containerd) async fn stored(
        &self,
        used: &BTreeSet<String>,
    ) -> Result<Stored, RuntimeError> {
        let mut used_blobs = HashSet::new();
        let mut used_layers = HashSet::new();
        for digest in used {
            // One that is not here, or not whole, is of no use to anybody yet.
            let Ok(Some(layout)) = Layout::read(digest, digest, &self.content).await else { continue };
            used_blobs.extend([layout.target.digest, layout.manifest_digest, layout.manifest.config.digest]);
            used_blobs.extend(layout.manifest.layers.into_iter().map(|layer| layer.digest));
            used_layers.extend(layout.chain_ids);
        }
        let mut stored = Stored::default();
        for (digest, size) in self.content.list().await? {
            stored.images.add(size, used_blobs.contains(&digest));
        }
        stored.images.count = self.records.list().await?.len() as u64;
        for snapshot in self.client.list_snapshots(self.snapshotter(), Vec::new()).await? {
            let size = self.snapshot_size(&snapshot.name).await?;
            if snapshot.labels.contains_key(label::FUNCTION) {
                stored.replicas.add(size, true);
            } else {
                stored.layers.add(size, used_layers.contains(&snapshot.name));
            }
        }
        Ok(stored)
    }

    async fn snapshot_size(&self, key: &str) -> Result<u64, RuntimeError> {
        let request = UsageRequest { snapshotter: self.snapshotter().to_owned(), key: key.to_owned() };
        // That of a replica is counted file by file.
        let answer = self.client.snapshots().usage(self.client.unbounded(request)).await;
        // One that is not there was removed meanwhile.
        let usage = self.client.found(answer, format_args!("measuring snapshot {key}"))?;
        Ok(usage.and_then(|usage| u64::try_from(usage.size).ok()).unwrap_or_default())
    }
}

/// The file system that a directory is on; `None` if it cannot be seen from here.
fn measure(path: PathBuf) -> Option<Disk> {
    let disk = nix::sys::statvfs::statvfs(&path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    let free = bytes(disk.blocks_available());
    let used = bytes(disk.blocks().saturating_sub(disk.blocks_free()));
    let (inodes, inodes_free) = (disk.files(), disk.files_available());
    Some(Disk { path, size: used.saturating_add(free), free, inodes, inodes_free })
}
