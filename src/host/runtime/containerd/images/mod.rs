//! Images: from a registry or an archive into containerd's content store, and from there into
//! snapshots.
//!
//! ```text
//! resolve   name -> digest -> index -> manifest -> config           (small documents, kept)
//! pull      layers in parallel -> content store -> snapshots -> record
//! load      archive -> content store -> snapshots -> record
//! ```
//!
//! Invariants
//! - Everything is under one lease from its first byte until the record is written ([`lease`]), so a
//!   daemon that is killed leaves only what a later attempt goes on with, or [`Images::discard_broken_pulls`] removes.
//! - What a name was resolved to is what is pulled: a tag is never looked up twice.
//! - An image goes when the control plane says so, which knows what is in use, and never by itself.
//! - An image that is here is started from without any network. What is missing of one is fetched by
//!   its digest, under [`PullPolicy::Never`] not even that.

mod archive;
mod challenge;
mod content_store;
mod credentials;
mod disk_usage;
mod error;
mod fetch;
mod hosts;
mod image_store;
mod json;
mod lease;
mod load;
mod locks;
mod manifest;
mod platform;
mod registry;
mod resolved;
mod session;
mod snapshotter;
mod token;
mod trust;
mod unpack;
mod web;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;

pub(super) use snapshotter::detect_snapshotter;

use self::content_store::{CommitError, Content};
use self::fetch::Fetcher;
use self::image_store::{Naming, Notes, Records};
use self::lease::Lease;
use self::locks::Locks;
use self::manifest::Descriptor;
use self::registry::Registry;
use self::resolved::{Documents, Layout, Wanted};
use self::unpack::Unpacker;
use super::client::Client;
use crate::runtime::{Image, ImageRecord, Loaded, Progress, ResolvedImage, RuntimeError};
use model::config;
use model::function::{ImageRef, PullPolicy};
use model::sync::lock;

/// Images that are remembered as ready. More than any small machine runs; when there are more, all
/// are forgotten and looked up again.
const REMEMBERED: usize = 256;

/// The images of this machine.
#[derive(Debug)]
pub(super) struct Images {
    client: Client,
    settings: config::Images,
    content: Content,
    records: Records,
    unpacker: Unpacker,
    fetcher: Fetcher,
    /// By lease: two pulls of one image from one registry follow each other, and share it.
    locks: Locks,
    /// What was ready to run when last looked at, by name and manifest digest.
    ready: Mutex<HashMap<(String, String), Arc<Image>>>,
    /// What names were resolved to at a registry and do not point to yet, perhaps. A name moves on
    /// when that is pulled, and not back when an older image is started once more.
    moving: Mutex<HashMap<String, String>>,
}

impl Images {
    /// Images that are unpacked with `snapshotter`.
    pub(super) fn new(client: Client, settings: &config::Images, snapshotter: String) -> Self {
        // reqwest has no TLS of its own; a second installation is refused, and means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let content = Content::new(client.clone());
        Self {
            records: Records::new(client.clone()),
            unpacker: Unpacker::new(client.clone(), snapshotter),
            fetcher: Fetcher::new(content.clone(), settings),
            content,
            client,
            settings: settings.clone(),
            locks: Locks::default(),
            ready: Mutex::default(),
            moving: Mutex::default(),
        }
    }

    /// The snapshotter that layers are unpacked with.
    pub(super) fn snapshotter(&self) -> &str {
        self.unpacker.snapshotter()
    }

    /// See [`crate::runtime::Runtime::resolve`].
    pub(super) async fn resolve(
        &self,
        image: &ImageRef,
        policy: PullPolicy,
    ) -> Result<ResolvedImage, RuntimeError> {
        if policy != PullPolicy::Always
            && let Some(resolved) = self.local(image).await?
        {
            return Ok(resolved);
        }
        if policy == PullPolicy::Never {
            return Err(RuntimeError::ImageNotLoaded { image: image.to_string() });
        }
        let registry = Registry::new(&self.settings, image)?;
        // A digest means the same for ever, and needs no asking.
        let digest = match image.reference().digest() {
            Some(digest) => {
                manifest::check_digest(digest)
                    .map_err(|reason| RuntimeError::BadImage { image: image.to_string(), reason })?;
                digest.to_owned()
            }
            None => registry.digest().await?,
        };
        remember(&self.moving, image.canonical(), digest.clone());
        // All is here when this is not the first deploy of the image.
        if let Some(resolved) = self.known(image, &digest).await? {
            return Ok(resolved);
        }
        let own = Lease::name(image.reference().registry(), &digest);
        let _alone = self.locks.lock(&own).await;
        let lease = Lease::open(&self.client, &own, &digest).await?;
        match self.documents(Some(&registry), &lease, image, &digest).await {
            Ok(layout) => Ok(layout.resolved(image)),
            Err(error) => {
                give_up(lease).await;
                Err(error)
            }
        }
    }

    /// Returns the image that the name points to here, if all its documents are here. A digest in it means that digest, whatever
    /// there is a record of.
    async fn local(&self, image: &ImageRef) -> Result<Option<ResolvedImage>, RuntimeError> {
        let digest = match image.reference().digest() {
            Some(digest) => Some(digest.to_owned()),
            None => self.records.digest(&image.canonical()).await?,
        };
        match digest {
            Some(digest) => self.known(image, &digest).await,
            None => Ok(None),
        }
    }

    /// Returns the image with this digest, if all its documents are here. Those of one that was found ready are not
    /// read again.
    async fn known(&self, image: &ImageRef, digest: &str) -> Result<Option<ResolvedImage>, RuntimeError> {
        let name = image.canonical();
        let found = lock(&self.ready)
            .iter()
            .find(|(key, ready)| key.0 == name && ready.resolved.digest == digest)
            .map(|(_, ready)| ready.clone());
        if let Some(ready) = found
            && self.unpacker.has(&ready.chain_id).await?
        {
            return Ok(Some(ResolvedImage { image: image.clone(), ..ready.resolved.clone() }));
        }
        let layout = Layout::read(image.as_str(), digest, &self.content).await?;
        Ok(layout.map(|layout| layout.resolved(image)))
    }

    /// Reads an image's documents from here or the registry, and keeps them. Without a registry, all must be here.
    async fn documents(
        &self,
        registry: Option<&Registry>,
        lease: &Lease,
        image: &ImageRef,
        digest: &str,
    ) -> Result<Layout, RuntimeError> {
        let documents = Through { content: &self.content, registry, lease };
        Layout::read(image.as_str(), digest, &documents).await?.ok_or_else(|| match registry {
            Some(_) => RuntimeError::ImageNotFound {
                image: image.to_string(),
                registry: image.reference().registry().to_owned(),
            },
            None => gone(image, digest),
        })
    }

    /// See [`crate::runtime::Runtime::pull`].
    pub(super) async fn pull(
        &self,
        resolved: &ResolvedImage,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<Arc<Image>, RuntimeError> {
        if let Some(image) = self.find_ready(resolved).await? {
            return Ok(finish(image, progress));
        }
        let own = Lease::name(resolved.image.reference().registry(), &resolved.digest);
        let _alone = self.locks.lock(&own).await;
        // The one that was waited for may have done it.
        if let Some(image) = self.find_ready(resolved).await? {
            return Ok(finish(image, progress));
        }
        let lease = Lease::open(&self.client, &own, &resolved.digest).await?;
        match self.bring_in(resolved, policy, &lease, progress).await {
            Ok(layout) => {
                lease.release().await?;
                Ok(finish(self.remember(resolved, &layout), progress))
            }
            Err(error) => {
                // What has arrived waits for the next attempt, unless that must end in the same way.
                if !is_passing(&error) {
                    give_up(lease).await;
                }
                Err(error)
            }
        }
    }

    async fn bring_in(
        &self,
        resolved: &ResolvedImage,
        policy: PullPolicy,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<Layout, RuntimeError> {
        let asks = policy != PullPolicy::Never;
        let registry = asks.then(|| Registry::new(&self.settings, &resolved.image)).transpose()?;
        let layout = self.documents(registry.as_ref(), lease, &resolved.image, &resolved.digest).await?;
        // An attempt before this one may have counted what is counted anew.
        progress.subtract(progress.report().done);
        progress.set_total(layout.size());
        lease.hold_snapshot(self.snapshotter(), layout.chain_id()).await?;
        if !self.unpacker.has(layout.chain_id()).await? {
            let fetches = unique(&layout.manifest.layers).map(async |layer| match &registry {
                Some(registry) => self.fetcher.fetch(registry, lease, layer, progress).await,
                None => {
                    lease.hold_blob(&layer.digest).await?;
                    if self.content.has(&layer.digest).await? {
                        Ok(())
                    } else {
                        Err(gone(&resolved.image, &resolved.digest))
                    }
                }
            });
            try_join_all(fetches).await?;
            self.unpacker.unpack(lease, resolved.image.as_str(), &layout).await?;
        }
        let naming = self.naming(&resolved.image.canonical(), &resolved.digest);
        self.settle(&resolved.image, &layout, naming).await?;
        Ok(layout)
    }

    /// The image, if it is unpacked and recorded: then there is nothing to do.
    async fn find_ready(&self, resolved: &ResolvedImage) -> Result<Option<Arc<Image>>, RuntimeError> {
        let name = resolved.image.canonical();
        let naming = self.naming(&name, &resolved.digest);
        if naming == Naming::Stays {
            let key = (name.clone(), resolved.manifest_digest.clone());
            let known = lock(&self.ready).get(&key).cloned();
            if let Some(image) = known.filter(|image| image.resolved == *resolved) {
                // Somebody may have removed it behind our back.
                return Ok(self.unpacker.has(&image.chain_id).await?.then_some(image));
            }
        }
        if !self.records.keeps(&resolved.image, &resolved.digest, naming).await? {
            return Ok(None);
        }
        let Some(layout) = Layout::read(resolved.image.as_str(), &resolved.digest, &self.content).await?
        else {
            return Ok(None);
        };
        if !self.unpacker.has(layout.chain_id()).await? {
            return Ok(None);
        }
        Ok(Some(self.remember(resolved, &layout)))
    }

    /// Whether the name is to point to `digest` from now on.
    fn naming(&self, name: &str, digest: &str) -> Naming {
        match lock(&self.moving).get(name) {
            Some(newest) if newest == digest => Naming::Moves,
            _ => Naming::Stays,
        }
    }

    fn remember(&self, resolved: &ResolvedImage, layout: &Layout) -> Arc<Image> {
        let image = Arc::new(Image { resolved: resolved.clone(), chain_id: layout.chain_id().to_owned() });
        let key = (resolved.image.canonical(), resolved.manifest_digest.clone());
        let mut moving = lock(&self.moving);
        if moving.get(&key.0) == Some(&resolved.digest) {
            moving.remove(&key.0);
        }
        drop(moving);
        remember(&self.ready, key, image.clone());
        image
    }

    /// Ties an image together, so that its name keeps all of it, and gives it the name.
    async fn settle(&self, image: &ImageRef, layout: &Layout, naming: Naming) -> Result<(), RuntimeError> {
        let snapshot = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter());
        let config = &layout.manifest.config.digest;
        self.content.label(config, [(snapshot, layout.chain_id().to_owned())].into()).await?;
        let mut parts: HashMap<String, String> =
            [("containerd.io/gc.ref.content.config".to_owned(), config.clone())].into();
        for (position, layer) in layout.manifest.layers.iter().enumerate() {
            parts.insert(format!("containerd.io/gc.ref.content.l.{position}"), layer.digest.clone());
        }
        self.content.label(&layout.manifest_digest, parts).await?;
        // Each index keeps what leads on.
        let steps = layout.indexes.iter().skip(1).map(|(digest, _)| digest).chain([&layout.manifest_digest]);
        for ((index, position), next) in layout.indexes.iter().zip(steps) {
            let entry = format!("containerd.io/gc.ref.content.m.{position}");
            self.content.label(index, [(entry, next.clone())].into()).await?;
        }
        self.records.put(image, &layout.target, naming).await
    }

    /// See [`crate::runtime::Runtime::load`].
    pub(super) async fn load(
        &self,
        archive: PathBuf,
        name: Option<&ImageRef>,
    ) -> Result<Loaded, RuntimeError> {
        load::load(self, archive, name).await
    }

    /// See [`crate::runtime::Runtime::images`].
    pub(super) async fn list(&self) -> Result<Vec<ImageRecord>, RuntimeError> {
        let mut list = Vec::new();
        for record in self.records.list().await? {
            let notes = Notes::of(&record);
            let Some(target) = record.target else { continue };
            // An image for another machine, or half of one, is on this machine all the same.
            let (platform, size) = match Layout::read(&record.name, &target.digest, &self.content).await {
                Ok(Some(layout)) => (layout.platform.to_string(), layout.size()),
                Ok(None) | Err(RuntimeError::BadImage { .. } | RuntimeError::WrongPlatform { .. }) => {
                    ("unknown".to_owned(), 0)
                }
                Err(error) => return Err(error),
            };
            list.push(ImageRecord {
                name: record.name,
                digest: target.digest,
                platform,
                size,
                created_at: notes.recorded_at,
                superseded: notes.superseded,
                unused_since: notes.unused_since,
            });
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }
}

/// Puts into a map that must not grow for ever.
fn remember<K: std::hash::Hash + Eq, V>(map: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut map = lock(map);
    if map.len() >= REMEMBERED {
        map.clear();
    }
    map.insert(key, value);
}

/// Each layer once: an image may have the same one twice.
fn unique(layers: &[Descriptor]) -> impl Iterator<Item = &Descriptor> {
    layers
        .iter()
        .enumerate()
        .filter(|(position, layer)| !layers[..*position].iter().any(|other| other.digest == layer.digest))
        .map(|(_, layer)| layer)
}

fn gone(image: &ImageRef, digest: &str) -> RuntimeError {
    RuntimeError::ImageGone { image: image.to_string(), digest: digest.to_owned() }
}

/// Whether the next attempt may end in another way.
fn is_passing(error: &RuntimeError) -> bool {
    matches!(
        error,
        RuntimeError::RegistryUnreachable { .. }
            | RuntimeError::Unauthorized { .. }
            | RuntimeError::Down { .. }
            | RuntimeError::Timeout { .. }
    )
}

/// Lets go of what nobody will come back for. The error that led here is the one to report.
async fn give_up(lease: Lease) {
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "a lease stays until broken pulls are discarded");
    }
}

/// Shows an image that was there as wholly arrived.
fn finish(image: Arc<Image>, progress: &Progress) -> Arc<Image> {
    let missing = image.resolved.size.saturating_sub(progress.report().done);
    progress.set_total(image.resolved.size);
    progress.add(missing);
    image
}

#[async_trait]
impl Documents for Content {
    async fn read(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Option<Bytes>, RuntimeError> {
        Content::read(self, wanted.digest, limit).await
    }
}

/// Documents from the content store, else from the registry and then kept.
struct Through<'a> {
    content: &'a Content,
    /// `None`: what is not in the content store is not there.
    registry: Option<&'a Registry>,
    lease: &'a Lease,
}

#[async_trait]
impl Documents for Through<'_> {
    async fn read(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Option<Bytes>, RuntimeError> {
        self.lease.hold_blob(wanted.digest).await?;
        if let Some(bytes) = self.content.read(wanted.digest, limit).await? {
            return Ok(Some(bytes));
        }
        let Some(registry) = self.registry else { return Ok(None) };
        let bytes = registry.document(wanted, limit).await?;
        let descriptor = Descriptor { digest: wanted.digest.to_owned(), ..Descriptor::of("", &bytes) };
        match self.content.put(self.lease, &descriptor, bytes.clone()).await {
            Ok(()) => Ok(Some(bytes)),
            // Said of every document by whoever asked for it, with the image's name.
            Err(CommitError::Mismatch(_)) => Ok(Some(bytes)),
            Err(CommitError::Other(error)) => Err(error),
        }
    }
}
