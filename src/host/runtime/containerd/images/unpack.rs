//! Layers to snapshots: each layer is applied on top of the one below and committed under its chain
//! id, which says what is in it, so that images share what they have in common.
//!
//! Invariant: a snapshot with a chain id for a name is complete and is what the digests in the
//! image's config say. Unfinished ones have names of ours and are removed by whoever comes next.

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::types::{Descriptor as DiffDescriptor, Mount};

use super::super::client::{Client, already_exists};
use super::lease::Lease;
use super::locks::Locks;
use super::manifest::{Descriptor, OCI_LAYER};
use super::resolved::Layout;
use crate::runtime::RuntimeError;

/// Makes snapshots of layers.
#[derive(Debug)]
pub(super) struct Unpacker {
    client: Client,
    snapshotter: String,
    /// By chain id: two images that share a layer unpack it once.
    locks: Locks,
}

impl Unpacker {
    pub(super) fn new(client: Client, snapshotter: String) -> Self {
        Self { client, snapshotter, locks: Locks::default() }
    }

    pub(super) fn snapshotter(&self) -> &str {
        &self.snapshotter
    }

    /// Whether the layers up to `chain_id` are unpacked.
    pub(super) async fn has(&self, chain_id: &str) -> Result<bool, RuntimeError> {
        let request = StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: chain_id.to_owned() };
        let answer = self.client.snapshots().stat(self.client.request(request)).await;
        Ok(self.client.found(answer, format_args!("looking for snapshot {chain_id}"))?.is_some())
    }

    /// Unpacks what is not unpacked. All layers must be in the content store.
    pub(super) async fn unpack(
        &self,
        lease: &Lease,
        image: &str,
        layout: &Layout,
    ) -> Result<(), RuntimeError> {
        let mut first_missing = layout.chain_ids.len();
        while first_missing > 0 && !self.has_and_holds(lease, &layout.chain_ids[first_missing - 1]).await? {
            first_missing -= 1;
        }
        for position in first_missing..layout.chain_ids.len() {
            let chain_id = &layout.chain_ids[position];
            let _alone = self.locks.lock(chain_id).await;
            lease.hold_snapshot(&self.snapshotter, chain_id).await?;
            if self.has(chain_id).await? {
                continue;
            }
            let parent = position.checked_sub(1).map_or("", |below| &layout.chain_ids[below]);
            self.unpack_layer(
                lease,
                image,
                &layout.manifest.layers[position],
                &layout.diff_ids[position],
                parent,
                chain_id,
            )
            .await?;
        }
        Ok(())
    }

    /// Whether a snapshot is there, which then stays. Seen before it is held, it might be collected in between, when
    /// the last image that had it is removed.
    async fn has_and_holds(&self, lease: &Lease, chain_id: &str) -> Result<bool, RuntimeError> {
        if !self.has(chain_id).await? {
            return Ok(false);
        }
        lease.hold_snapshot(&self.snapshotter, chain_id).await?;
        self.has(chain_id).await
    }

    async fn unpack_layer(
        &self,
        lease: &Lease,
        image: &str,
        layer: &Descriptor,
        diff_id: &str,
        parent: &str,
        chain_id: &str,
    ) -> Result<(), RuntimeError> {
        let key = format!("ingle-unpack-{chain_id}");
        let mounts = self.prepare(lease, &key, parent).await?;
        let outcome = async {
            self.apply(lease, image, layer, diff_id, mounts).await?;
            let request = CommitSnapshotRequest {
                snapshotter: self.snapshotter.clone(),
                name: chain_id.to_owned(),
                key: key.clone(),
                ..CommitSnapshotRequest::default()
            };
            let answer = self.client.snapshots().commit(lease.request(request)).await;
            self.client.made(answer, format_args!("committing snapshot {chain_id}"))
        }
        .await;
        if !matches!(outcome, Ok(Some(()))) {
            self.remove(&key).await?;
        }
        outcome.map(drop)
    }

    /// A writable snapshot; one that a killed daemon left half-done is thrown away first.
    async fn prepare(&self, lease: &Lease, key: &str, parent: &str) -> Result<Vec<Mount>, RuntimeError> {
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..PrepareSnapshotRequest::default()
        };
        let prepared = match self.client.snapshots().prepare(lease.request(request.clone())).await {
            Err(status) if already_exists(&status) => {
                self.remove(key).await?;
                self.client.snapshots().prepare(lease.request(request)).await
            }
            other => other,
        };
        let failed = |status| self.client.error(format!("preparing snapshot {key}"), status);
        Ok(prepared.map_err(failed)?.into_inner().mounts)
    }

    async fn apply(
        &self,
        lease: &Lease,
        image: &str,
        layer: &Descriptor,
        diff_id: &str,
        mounts: Vec<Mount>,
    ) -> Result<(), RuntimeError> {
        let diff = DiffDescriptor {
            // With this type containerd looks at the bytes for what they are compressed with, as Docker does,
            // where a manifest may name another compression, or a type that only later versions know.
            media_type: format!("{OCI_LAYER}+gzip"),
            digest: layer.digest.clone(),
            size: i64::try_from(layer.size).unwrap_or(i64::MAX),
            ..DiffDescriptor::default()
        };
        let request = ApplyRequest { diff: Some(diff), mounts, ..ApplyRequest::default() };
        let bad = |reason| RuntimeError::BadImage { image: image.to_owned(), reason };
        let applied = match DiffClient::new(self.client.channel()).apply(lease.unbounded(request)).await {
            Ok(response) => response.into_inner().applied.unwrap_or_default(),
            Err(status) if is_bad_layer(&status) => {
                return Err(bad(format!("layer {} cannot be unpacked: {}", layer.digest, status.message())));
            }
            Err(status) => {
                return Err(self.client.error(format!("unpacking layer {}", layer.digest), status));
            }
        };
        if applied.digest != diff_id {
            return Err(bad(format!(
                "layer {} unpacks to {}, the image's config says {diff_id}",
                layer.digest, applied.digest
            )));
        }
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<(), RuntimeError> {
        let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key: key.to_owned() };
        let answer = self.client.snapshots().remove(self.client.request(request)).await;
        self.client.found(answer, format_args!("removing snapshot {key}")).map(drop)
    }
}

/// Whether containerd blames the bytes. It has no code for it, only the words of Go's archive readers.
fn is_bad_layer(status: &tonic::Status) -> bool {
    ["archive/tar", "gzip", "zstd", "unexpected EOF", "magic number", "flate"]
        .iter()
        .any(|word| status.message().contains(word))
}
