//! What is stored on the disk: which images go and when, whether another one fits, and how much there
//! is of everything.
//!
//! ```text
//! every five minutes   earlier images of a name beyond the last two; output of functions that are gone;
//!                      handlers that no revision names; once a day what pulls that broke off have left
//!                      above images.disk_watermark: what pulls that broke off have left, then unused
//!                      images, until below images.disk_target
//! a deploy             the same, if its image does not fit otherwise
//! on request           one image; or all that is unused (prune)
//! ```
//!
//! Invariants
//! - An image that a stored revision or a replica uses, or that is being deployed, is never removed.
//! - Who uses an image is found out, and its record removed, in one step, which no deploy falls into.

mod decide;
mod error;
mod in_use;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use error::DiskError;
pub use in_use::Pin;

use self::decide::{Plan, decide};
use self::in_use::{InUse, Pins};
use host::bundles::Handlers;
use host::logs::Logs;
use host::runtime::{Disk as FileSystem, ImageRecord, ResolvedImage, Runtime};
use host::store::Store;
use model::config;
use model::function::ImageRef;
use model::wire;

/// What an image must leave free when it is deployed: for logs, the store, and what functions write.
const RESERVE: u64 = 256 << 20;
/// How often pulls that broke off and that no function waits for are given up.
const KEEP_BROKEN: Duration = Duration::from_secs(24 * 60 * 60);

/// What is on the disk.
#[derive(Debug)]
pub struct Disk {
    runtime: Arc<dyn Runtime>,
    store: Arc<Store>,
    logs: Arc<Logs>,
    handlers: Handlers,
    config: config::Images,
    pins: Pins,
    /// Held while it is found out whether an image is in use and its record is removed, and while an
    /// image is pinned.
    gate: Mutex<()>,
    /// One collection at a time. When broken pulls were given up last, by no clock that is set.
    collecting: Mutex<Instant>,
    /// Images that were found to fit and may not be here yet. Held while another one is weighed.
    accepted: Mutex<Vec<ResolvedImage>>,
}

impl Disk {
    /// The disk of this machine.
    pub fn new(
        config: &config::Images,
        runtime: Arc<dyn Runtime>,
        store: Arc<Store>,
        logs: Arc<Logs>,
        handlers: Handlers,
    ) -> Self {
        Self {
            runtime,
            store,
            logs,
            handlers,
            config: config.clone(),
            pins: Pins::default(),
            gate: Mutex::default(),
            collecting: Mutex::new(Instant::now()),
            accepted: Mutex::default(),
        }
    }

    /// The largest archive that is taken in, in bytes.
    pub fn max_archive(&self) -> u64 {
        self.config.max_archive
    }

    /// Keeps an image that is about to be deployed. To be taken before its name is resolved, and held
    /// until the revision is stored.
    pub async fn pin(&self, image: &ImageRef) -> Pin {
        let _gate = self.gate.lock().await;
        self.pins.add(image)
    }

    async fn in_use(&self) -> Result<InUse, DiskError> {
        InUse::find(&*self.runtime, &self.store, &self.pins).await
    }

    /// Removes what is too much, and makes notes of what is not used any more.
    pub async fn collect(&self) -> Result<(), DiskError> {
        let mut given_up = self.collecting.lock().await;
        if given_up.elapsed() >= KEEP_BROKEN {
            self.discard_broken_pulls().await?;
            *given_up = Instant::now();
        }
        let plan = self.plan().await?;
        for (name, unused_since) in &plan.notes {
            if let Err(error) = self.runtime.mark_image(name, *unused_since).await {
                // On a full disk a note may fail, and what was noted before may go all the same.
                tracing::warn!(error = &error as &dyn std::error::Error, "not noted, and tried again later");
                break;
            }
        }
        self.handlers.collect(self.in_use().await?.into_handlers()).await?;
        self.remove_all(&plan.surplus).await?;
        let Some(disk) = self.runtime.disk().await? else { return Ok(()) };
        if disk.used_percent() <= self.config.disk_watermark {
            return Ok(());
        }
        let target = self.config.disk_target;
        let disk = self.make_room(disk, plan.expendable, |disk| disk.used_percent() <= target).await?;
        if disk.used_percent() > self.config.disk_watermark {
            tracing::warn!(
                path = %disk.path.display(), used_percent = disk.used_percent(), free = disk.free,
                "the disk is over images.disk_watermark, and no image is left that may go"
            );
        }
        Ok(())
    }

    async fn plan(&self) -> Result<Plan, DiskError> {
        let images = self.runtime.images().await?;
        let in_use = self.in_use().await?;
        Ok(decide(&images, |image| in_use.is_used(image), Timestamp::now(), self.config.keep_unused))
    }

    /// Removes what pulls that broke off have left, and then images in this order, as long as there is
    /// not enough room; the disk as it is then.
    async fn make_room(
        &self,
        mut disk: FileSystem,
        images: Vec<ImageRecord>,
        is_enough: impl Fn(&FileSystem) -> bool,
    ) -> Result<FileSystem, DiskError> {
        if self.discard_broken_pulls().await? > 0 {
            self.runtime.sweep().await?;
            disk = self.runtime.disk().await?.unwrap_or(disk);
        }
        for image in images {
            if is_enough(&disk) {
                break;
            }
            // Images share layers: what it frees is known when it is gone.
            self.remove_all(&[image]).await?;
            disk = self.runtime.disk().await?.unwrap_or(disk);
        }
        Ok(disk)
    }

    /// Gives up what pulls that broke off have left for the next attempt, where there will be none; of
    /// how many.
    async fn discard_broken_pulls(&self) -> Result<usize, DiskError> {
        // What is resolved meanwhile, and then kept for its pull, would be taken for such a rest.
        let _gate = self.gate.lock().await;
        let in_use = self.in_use().await?;
        Ok(self.runtime.discard_broken_pulls(&in_use.digests()).await?)
    }

    /// Removes those of these images that nobody uses, and their bytes.
    async fn remove_all(&self, images: &[ImageRecord]) -> Result<(), DiskError> {
        let mut removed = Vec::new();
        let result = self.remove_records(images, &mut removed).await;
        if !removed.is_empty() {
            self.runtime.sweep().await?;
        }
        result
    }

    /// Removes the records of those of these images that nobody uses, and adds their names to `removed`.
    async fn remove_records(
        &self,
        images: &[ImageRecord],
        removed: &mut Vec<String>,
    ) -> Result<(), DiskError> {
        for image in images {
            match self.remove_record(image).await {
                Ok(()) => {
                    tracing::info!(image = image.name, "removed, as no function uses it");
                    removed.push(image.name.clone());
                }
                // Somebody was faster, in one way or the other.
                Err(DiskError::ImageInUse { .. } | DiskError::ImageNotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes an image's record, if nobody uses the image.
    async fn remove_record(&self, image: &ImageRecord) -> Result<(), DiskError> {
        let _gate = self.gate.lock().await;
        let name = || image.name.clone();
        let users = self.in_use().await?.users(image);
        if !users.is_empty() {
            return Err(DiskError::ImageInUse { image: name(), users });
        }
        if self.runtime.remove_image(&image.name, &image.digest).await? {
            Ok(())
        } else {
            Err(DiskError::ImageNotFound(name()))
        }
    }

    /// Removes an image that nobody uses, by its name as it is listed or as people write it.
    pub async fn remove(&self, name: &str) -> Result<(), DiskError> {
        let images = self.runtime.images().await?;
        let full = name.parse::<ImageRef>().map(|image| image.canonical()).ok();
        let named = |wanted: &str| images.iter().find(|image| image.name == wanted);
        let image = named(name).or_else(|| named(full.as_deref()?));
        let image = image.ok_or_else(|| DiskError::ImageNotFound(name.to_owned()))?;
        self.remove_record(image).await?;
        tracing::info!(image = image.name, "removed");
        Ok(self.runtime.sweep().await?)
    }

    /// Keeps room for images that were accepted before the daemon started: they may not be here yet.
    pub async fn expect(&self, images: impl IntoIterator<Item = ResolvedImage>) {
        let mut accepted = self.accepted.lock().await;
        for image in images {
            if !accepted.iter().any(|known| known.digest == image.digest) {
                accepted.push(image);
            }
        }
    }

    /// Refuses an image for which there is no room, after what nobody uses has made way. The room for
    /// images that were accepted before, and are not here yet, is not given away again.
    pub async fn check_room(&self, image: &ResolvedImage) -> Result<(), DiskError> {
        let need = self.runtime.room_for(image).await?;
        if need == 0 {
            return Ok(());
        }
        let mut accepted = self.accepted.lock().await;
        let coming = self.still_to_come(&mut accepted, &image.digest).await?;
        let Some(mut disk) = self.runtime.disk().await? else { return Ok(()) };
        let wanted = need.saturating_add(coming).saturating_add(RESERVE);
        let fits = |disk: &FileSystem| disk.free >= wanted;
        if !fits(&disk) {
            let _one = self.collecting.lock().await;
            let plan = self.plan().await?;
            let images = plan.surplus.into_iter().chain(plan.expendable).collect();
            disk = self.make_room(disk, images, fits).await?;
        }
        if fits(&disk) {
            accepted.push(image.clone());
            return Ok(());
        }
        let (image, path) = (image.image.to_string(), disk.path);
        Err(DiskError::NoRoom { image, need, free: disk.free, reserve: RESERVE, coming, path })
    }

    /// Bytes that images which were accepted have yet to take, but for the one with this digest. Those
    /// that are here, or that no function wants any more, are forgotten.
    async fn still_to_come(&self, accepted: &mut Vec<ResolvedImage>, digest: &str) -> Result<u64, DiskError> {
        accepted.retain(|image| image.digest != digest);
        if accepted.is_empty() {
            return Ok(0);
        }
        let in_use = self.in_use().await?.digests();
        let mut sum = 0u64;
        let mut missing = Vec::new();
        for image in accepted.iter().filter(|image| in_use.contains(&image.digest)) {
            // One that cannot be read is not the fault of whoever deploys another.
            let need = self.runtime.room_for(image).await.unwrap_or_else(|error| {
                let name = image.image.to_string();
                tracing::warn!(
                    image = name,
                    error = &error as &dyn std::error::Error,
                    "its room is not known"
                );
                0
            });
            if need > 0 {
                sum = sum.saturating_add(need);
                missing.push(image.clone());
            }
        }
        *accepted = missing;
        Ok(sum)
    }

    /// How much there is of everything.
    pub async fn usage(&self) -> Result<wire::DiskUsage, DiskError> {
        let stored = self.runtime.stored(&self.in_use().await?.digests()).await?;
        let disk = self.runtime.disk().await?;
        let functions = self.store.functions_count();
        let mut logs = wire::Share::default();
        for key in self.logs.kept() {
            logs.add(self.logs.size_of(&key), self.store.has_function(&key));
        }
        let handlers = self.handlers.stored(self.in_use().await?.into_handlers()).await?;
        let store = wire::Share { count: functions, size: self.store.size_on_disk()?, unused: 0 };
        Ok(wire::DiskUsage {
            queue: wire::QueueUsage::default(),
            disk: disk.map(|disk| wire::FileSystem {
                path: disk.path.display().to_string(),
                size: disk.size,
                free: disk.free,
            }),
            images: stored.images,
            layers: stored.layers,
            replicas: stored.replicas,
            handlers,
            logs,
            store,
        })
    }

    /// Removes all that nobody uses, whatever its age: images, what pulls that were broken off left,
    /// output of functions that are gone.
    pub async fn prune(&self) -> Result<wire::Pruned, DiskError> {
        let _one = self.collecting.lock().await;
        let before = self.runtime.stored(&BTreeSet::new()).await?.size();
        self.discard_broken_pulls().await?;
        let images = self.runtime.images().await?;
        let mut removed = Vec::new();
        let result = self.remove_records(&images, &mut removed).await;
        self.runtime.sweep().await?;
        result?;
        // Of these, what was asked for lately stays: its deployment may be on its way.
        self.handlers.collect(self.in_use().await?.into_handlers()).await?;
        let after = self.runtime.stored(&BTreeSet::new()).await?.size();
        let freed = before.saturating_sub(after).saturating_add(self.discard_output().await?);
        Ok(wire::Pruned { images: removed, freed })
    }

    /// Removes the output of functions that are gone; its bytes.
    pub async fn discard_output(&self) -> Result<u64, DiskError> {
        let mut freed = 0u64;
        // Listed before the store is asked: a function is stored before it writes anything.
        for key in self.logs.kept() {
            if !self.store.has_function(&key) {
                freed = freed.saturating_add(self.logs.size_of(&key));
                self.logs.remove(&key).await;
            }
        }
        Ok(freed)
    }
}
