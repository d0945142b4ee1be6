//! What is stored on the disk: which images go and when, whether another one fits, and how much there
//! is of everything.
//!
//! ```text
//! every five minutes   earlier images of a name beyond the last two
//!                      above images.disk_watermark: unused ones, until below images.disk_target
//! a deploy             unused ones, if its image does not fit otherwise
//! on request           one image; or all that are unused (prune)
//! ```
//!
//! Invariants
//! - An image that a stored revision or a replica uses, or that is being deployed, is never removed.
//! - Who uses an image is found out, and its record removed, in one step, which no deploy falls into.

mod decide;
mod error;
mod in_use;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Mutex;

pub use error::DiskError;
pub use in_use::Pin;

use self::decide::{Plan, decide};
use self::in_use::{InUse, Pins};
use crate::config;
use crate::function::ImageRef;
use crate::logs::Logs;
use crate::runtime::{Disk as FileSystem, ImageRecord, ResolvedImage, Runtime};
use crate::store::Store;
use crate::wire;

/// What an image must leave free when it is deployed: for logs, the store, and what functions write.
const RESERVE: u64 = 256 << 20;

/// What is on the disk.
#[derive(Debug)]
pub struct Disk {
    runtime: Arc<dyn Runtime>,
    store: Arc<Store>,
    logs: Arc<Logs>,
    config: config::Images,
    pins: Pins,
    /// Held while it is found out whether an image is in use and its record is removed, and while an
    /// image is pinned.
    gate: Mutex<()>,
    /// One collection at a time.
    collecting: Mutex<()>,
}

impl Disk {
    /// The disk of this machine.
    pub fn new(
        config: &config::Images,
        runtime: Arc<dyn Runtime>,
        store: Arc<Store>,
        logs: Arc<Logs>,
    ) -> Self {
        let (pins, gate, collecting) = (Pins::default(), Mutex::default(), Mutex::default());
        Self { runtime, store, logs, config: config.clone(), pins, gate, collecting }
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
        let _one = self.collecting.lock().await;
        let plan = self.plan().await?;
        for (name, unused_since) in &plan.notes {
            self.runtime.mark_image(name, *unused_since).await?;
        }
        self.remove_all(&plan.surplus).await?;
        let Some(disk) = self.runtime.disk().await? else { return Ok(()) };
        if disk.used_percent() <= self.config.disk_watermark {
            return Ok(());
        }
        let target = self.config.disk_target;
        let disk = self.remove_until(disk, plan.expendable, |disk| disk.used_percent() <= target).await?;
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
        let is_used = |image: &ImageRecord| in_use.user(image).is_some();
        Ok(decide(&images, is_used, Timestamp::now(), self.config.keep_unused))
    }

    /// Removes images in this order, as long as there is not enough room; the disk as it is then.
    async fn remove_until(
        &self,
        mut disk: FileSystem,
        images: Vec<ImageRecord>,
        is_enough: impl Fn(&FileSystem) -> bool,
    ) -> Result<FileSystem, DiskError> {
        for image in images {
            if is_enough(&disk) {
                break;
            }
            // Images share layers: what it frees is known when it is gone.
            self.remove_all(&[image]).await?;
            match self.runtime.disk().await? {
                Some(now) => disk = now,
                None => break,
            }
        }
        Ok(disk)
    }

    /// Removes those of these images that nobody uses; their names.
    async fn remove_all(&self, images: &[ImageRecord]) -> Result<Vec<String>, DiskError> {
        let mut removed = Vec::new();
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
        if !removed.is_empty() {
            self.runtime.sweep().await?;
        }
        Ok(removed)
    }

    /// Removes an image's record, if nobody uses the image.
    async fn remove_record(&self, image: &ImageRecord) -> Result<(), DiskError> {
        let _gate = self.gate.lock().await;
        let name = || image.name.clone();
        if let Some(user) = self.in_use().await?.user(image) {
            return Err(DiskError::ImageInUse { image: name(), user });
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

    /// Refuses an image for which there is no room, after what nobody uses has made way.
    pub async fn check_room(&self, image: &ResolvedImage) -> Result<(), DiskError> {
        let need = self.runtime.room_for(image).await?;
        let fits = |disk: &FileSystem| disk.free >= need.saturating_add(RESERVE);
        if need == 0 {
            return Ok(());
        }
        let Some(mut disk) = self.runtime.disk().await? else { return Ok(()) };
        if !fits(&disk) {
            let _one = self.collecting.lock().await;
            let plan = self.plan().await?;
            let images = plan.surplus.into_iter().chain(plan.expendable).collect();
            disk = self.remove_until(disk, images, fits).await?;
        }
        if fits(&disk) {
            return Ok(());
        }
        let (image, path) = (image.image.to_string(), disk.path);
        Err(DiskError::NoRoom { image, need, free: disk.free, reserve: RESERVE, path })
    }

    /// How much there is of everything.
    pub async fn usage(&self) -> Result<wire::DiskUsage, DiskError> {
        let stored = self.runtime.stored(&self.in_use().await?.digests()).await?;
        let disk = self.runtime.disk().await?;
        // Asked first: a function is stored before it writes anything.
        let kept = self.logs.kept();
        let functions = self.store.functions()?;
        let mut logs = crate::runtime::Share::default();
        for key in &kept {
            logs.add(self.logs.size_of(key), functions.iter().any(|record| record.key == *key));
        }
        let store =
            wire::Share { count: functions.len() as u64, size: self.store.size_on_disk()?, unused: 0 };
        Ok(wire::DiskUsage {
            disk: disk.map(|disk| wire::FileSystem {
                path: disk.path.display().to_string(),
                size: disk.size,
                free: disk.free,
            }),
            images: stored.images.into(),
            layers: stored.layers.into(),
            replicas: stored.replicas.into(),
            logs: logs.into(),
            store,
        })
    }

    /// Removes all that nobody uses, whatever its age: images, what pulls that were broken off left,
    /// output of functions that are gone.
    pub async fn prune(&self) -> Result<wire::Pruned, DiskError> {
        let _one = self.collecting.lock().await;
        let in_use = self.in_use().await?;
        let before = self.runtime.stored(&in_use.digests()).await?.size();
        let images = self.runtime.images().await?.into_iter();
        let unused: Vec<ImageRecord> = images.filter(|image| in_use.user(image).is_none()).collect();
        self.runtime.discard_broken_pulls(&in_use.digests()).await?;
        let removed = self.remove_all(&unused).await?;
        let kept = self.logs.kept();
        let functions = self.store.functions()?;
        let mut logs = 0u64;
        for key in kept.iter().filter(|key| !functions.iter().any(|record| record.key == **key)) {
            logs = logs.saturating_add(self.logs.size_of(key));
            self.logs.remove(key).await;
        }
        self.runtime.sweep().await?;
        let after = self.runtime.stored(&in_use.digests()).await?.size();
        let freed = before.saturating_sub(after).saturating_add(logs);
        Ok(wire::Pruned { images: removed, freed })
    }
}

impl From<crate::runtime::Share> for wire::Share {
    fn from(share: crate::runtime::Share) -> Self {
        Self { count: share.count, size: share.size, unused: share.unused }
    }
}
