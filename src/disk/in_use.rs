//! Which images are in use, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::DiskError;
use crate::function::ImageRef;
use crate::runtime::{ImageRecord, Runtime, label};
use crate::store::Store;

/// The images that must stay.
///
/// The store is asked, not the fleet: a revision is there from the moment in which it was accepted,
/// and also when this version cannot run its function.
#[derive(Debug)]
pub(super) struct InUse {
    /// By digest: the function.
    functions: BTreeMap<String, String>,
    /// Images that are being deployed.
    pinned: Vec<ImageRef>,
}

impl InUse {
    pub(super) async fn find(runtime: &dyn Runtime, store: &Store, pins: &Pins) -> Result<Self, DiskError> {
        // In this order: a deploy lets go of its pin after its record is written, and a function that
        // is removed has replicas for a while after its record is gone.
        let pinned = pins.all();
        let mut functions = BTreeMap::new();
        for record in store.functions()? {
            for digest in record.digests() {
                functions.insert(digest.to_owned(), format!("function {}", record.key));
            }
        }
        for container in runtime.containers().await? {
            if let Some(digest) = container.labels.get(label::IMAGE) {
                let replica = format!("replica {}, which is being removed", container.id);
                functions.entry(digest.clone()).or_insert(replica);
            }
        }
        Ok(Self { functions, pinned })
    }

    /// Who uses an image.
    pub(super) fn user(&self, image: &ImageRecord) -> Option<String> {
        let is_pinned = |pinned: &ImageRef| {
            pinned.canonical() == image.name || pinned.reference().digest() == Some(&image.digest)
        };
        if self.pinned.iter().any(is_pinned) {
            return Some("a deploy that is under way".to_owned());
        }
        self.functions.get(&image.digest).cloned()
    }

    pub(super) fn digests(&self) -> BTreeSet<String> {
        self.functions.keys().cloned().collect()
    }
}

/// Images that are being deployed: they are in use before any record says so.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Arc<Mutex<Vec<ImageRef>>>);

/// Keeps an image from being removed for as long as it lives.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    image: ImageRef,
}

impl Pins {
    pub(super) fn add(&self, image: &ImageRef) -> Pin {
        self.lock(|pins| pins.push(image.clone()));
        Pin { pins: self.clone(), image: image.clone() }
    }

    fn all(&self) -> Vec<ImageRef> {
        self.lock(|pins| pins.clone())
    }

    fn lock<T>(&self, work: impl FnOnce(&mut Vec<ImageRef>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.lock(|pins| {
            if let Some(place) = pins.iter().position(|pinned| *pinned == self.image) {
                pins.swap_remove(place);
            }
        });
    }
}
