//! Which images are in use, and by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::DiskError;
use host::runtime::{ImageRecord, Runtime, label};
use host::store::Store;
use model::function::{FunctionKey, ImageRef};
use model::sync::lock;

/// Who uses an image, in words.
pub(super) type Users = Vec<String>;

/// The images and handlers that must stay.
///
/// The store is asked, not the fleet: a revision is there from the moment in which it was accepted,
/// and also when this version cannot run its function.
#[derive(Debug, Default)]
pub(super) struct InUse {
    /// By digest.
    digests: BTreeMap<String, UsersOfDigest>,
    /// The handlers of revisions and containers.
    handlers: BTreeSet<String>,
    /// Images that are being deployed.
    pinned: Vec<Pinned>,
}

/// Who uses one digest.
#[derive(Debug, Default)]
struct UsersOfDigest {
    /// Functions that are started from it.
    functions: BTreeSet<FunctionKey>,
    /// Functions that keep it to go back to, with the revisions.
    old: BTreeMap<FunctionKey, BTreeSet<u64>>,
    /// Containers.
    replicas: BTreeSet<String>,
}

impl InUse {
    pub(super) async fn find(runtime: &dyn Runtime, store: &Store, pins: &Pins) -> Result<Self, DiskError> {
        // In this order: a deploy lets go of its pin after its record is written, and a function that
        // is removed has replicas for a while after its record is gone.
        let mut found = Self { pinned: pins.all(), ..Self::default() };
        for used in store.revisions_in_use() {
            found.handlers.extend(used.handler);
            let users = found.digests.entry(used.digest).or_default();
            if used.is_old {
                users.old.entry(used.function).or_default().insert(used.revision);
            } else {
                users.functions.insert(used.function);
            }
        }
        for container in runtime.containers().await? {
            found.handlers.extend(container.labels.get(label::HANDLER).cloned());
            if let Some(digest) = container.labels.get(label::IMAGE) {
                let users = found.digests.entry(digest.clone()).or_default();
                users.replicas.insert(container.id.to_string());
            }
        }
        Ok(found)
    }

    /// Who uses an image; empty if nobody does.
    pub(super) fn users(&self, image: &ImageRecord) -> Users {
        let mut users = self.digests.get(&image.digest).map(UsersOfDigest::in_words).unwrap_or_default();
        if self.pinned.iter().any(|pinned| pinned.is(image)) {
            users.push("a deploy that is under way".to_owned());
        }
        users
    }

    pub(super) fn is_used(&self, image: &ImageRecord) -> bool {
        self.digests.contains_key(&image.digest) || self.pinned.iter().any(|pinned| pinned.is(image))
    }

    /// The digests of handlers that must stay.
    pub(super) fn into_handlers(self) -> BTreeSet<String> {
        self.handlers
    }

    /// Their digests, as far as they are known.
    pub(super) fn digests(&self) -> BTreeSet<String> {
        let pinned = self.pinned.iter().filter_map(|pinned| pinned.digest().map(str::to_owned));
        self.digests.keys().cloned().chain(pinned).collect()
    }
}

impl UsersOfDigest {
    fn in_words(&self) -> Users {
        let mut users: Users = self.functions.iter().map(|function| format!("function {function}")).collect();
        for (function, revisions) in
            self.old.iter().filter(|(function, _)| !self.functions.contains(*function))
        {
            let numbers: Vec<String> = revisions.iter().map(u64::to_string).collect();
            users.push(format!(
                "function {function}, which keeps revision {} to go back to",
                numbers.join(" and ")
            ));
        }
        // Those of a function that is there are no news.
        if users.is_empty() {
            users.extend(self.replicas.iter().map(|id| format!("replica {id}, which is being removed")));
        }
        users
    }
}

/// Images that are being deployed: they are in use before any record says so.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Arc<Mutex<Vec<Pinned>>>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pinned {
    image: ImageRef,
    /// What its name was resolved to.
    resolved: Option<String>,
}

impl Pinned {
    /// Whether a record may be that of the image: by its digest; by its name, which may be about to be
    /// looked up; and by the name that it had, which may have moved on since it was looked up.
    fn is(&self, record: &ImageRecord) -> bool {
        let name = self.image.canonical();
        name == record.name
            || record.superseded.as_ref() == Some(&name)
            || self.digest() == Some(record.digest.as_str())
    }

    fn digest(&self) -> Option<&str> {
        self.resolved.as_deref().or_else(|| self.image.reference().digest())
    }
}

/// Keeps an image from being removed for as long as it lives.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    pinned: Pinned,
}

impl Pin {
    /// Keeps what the name was resolved to as well, under whatever name it is here.
    pub fn resolved(&mut self, digest: &str) {
        let resolved = Pinned { resolved: Some(digest.to_owned()), ..self.pinned.clone() };
        self.pins.lock(|pins| {
            if let Some(pinned) = pins.iter_mut().find(|pinned| **pinned == self.pinned) {
                pinned.clone_from(&resolved);
            }
        });
        self.pinned = resolved;
    }
}

impl Pins {
    pub(super) fn add(&self, image: &ImageRef) -> Pin {
        let pinned = Pinned { image: image.clone(), resolved: None };
        self.lock(|pins| pins.push(pinned.clone()));
        Pin { pins: self.clone(), pinned }
    }

    fn all(&self) -> Vec<Pinned> {
        self.lock(|pins| pins.clone())
    }

    fn lock<T>(&self, work: impl FnOnce(&mut Vec<Pinned>) -> T) -> T {
        work(&mut lock(&self.0))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.lock(|pins| {
            if let Some(place) = pins.iter().position(|pinned| *pinned == self.pinned) {
                pins.swap_remove(place);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, digest: &str, superseded: Option<&str>) -> ImageRecord {
        ImageRecord {
            name: name.into(),
            digest: digest.into(),
            platform: "linux/amd64".into(),
            size: 1,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            superseded: superseded.map(str::to_owned),
            unused_since: None,
        }
    }

    #[test]
    fn a_deploy_keeps_what_its_name_means_and_meant() {
        let pins = Pins::default();
        let is_used = |record: &ImageRecord| InUse { pinned: pins.all(), ..InUse::default() }.is_used(record);
        let name = "docker.io/you/env:1";
        let here = record(name, "sha256:1", None);
        // Another deploy of the name may have moved it on between this one's look-up and its record.
        let moved = record("docker.io/you/env@sha256:0", "sha256:0", Some(name));
        let elsewhere = record("docker.io/you/other:1", "sha256:2", None);
        let mut pin = pins.add(&"you/env:1".parse().expect("a name"));
        let second = pins.add(&"you/env:1".parse().expect("a name"));
        assert!(is_used(&here) && is_used(&moved) && !is_used(&elsewhere));
        pin.resolved("sha256:2");
        assert!(is_used(&here) && is_used(&moved) && is_used(&elsewhere));
        drop(second);
        assert!(is_used(&elsewhere), "each has a pin of its own");
        drop(pin);
        assert!(!is_used(&here) && !is_used(&moved) && !is_used(&elsewhere));
        assert_eq!(pins.all(), []);
    }

    #[test]
    fn users_are_named_by_what_they_do_with_the_image() {
        let key = |name: &str| FunctionKey::parse(name).expect("a name");
        let mut users = UsersOfDigest::default();
        users.replicas.insert("old-0000000001".into());
        assert_eq!(users.in_words(), ["replica old-0000000001, which is being removed"]);
        users.functions.extend([key("b"), key("a")]);
        users.old.insert(key("a"), [1].into());
        users.old.insert(key("c"), [3, 7].into());
        assert_eq!(
            users.in_words(),
            [
                "function a.openfaas-fn",
                "function b.openfaas-fn",
                "function c.openfaas-fn, which keeps revision 3 and 7 to go back to"
            ]
        );
    }
}
