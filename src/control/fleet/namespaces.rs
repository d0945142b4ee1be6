//! The namespaces: few, kept in memory, written through to the store.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::FleetError;
use host::store::{Store, StoreError};
use model::function::NamespaceName;
use model::sync::lock;
use model::wire;

/// The label that marks a namespace for functions.
const MARK: &str = "openfaas";

/// All namespaces by name.
#[derive(Debug)]
pub(super) struct Namespaces {
    by_name: Mutex<BTreeMap<NamespaceName, wire::Namespace>>,
    /// Held over a change and its write, so that what is in memory is what is on disk.
    changing: tokio::sync::Mutex<()>,
}

impl Namespaces {
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut by_name = BTreeMap::new();
        let default = NamespaceName::default();
        by_name.insert(
            default.clone(),
            marked(wire::Namespace { name: default.to_string(), ..Default::default() }),
        );
        for namespace in store.namespaces()? {
            if let Ok(name) = namespace.name.parse() {
                by_name.insert(name, namespace);
            }
        }
        Ok(Self { by_name: Mutex::new(by_name), changing: tokio::sync::Mutex::default() })
    }

    pub(super) fn all(&self) -> Vec<wire::Namespace> {
        lock(&self.by_name).values().cloned().collect()
    }

    pub(super) fn check(&self, name: &NamespaceName) -> Result<(), FleetError> {
        if lock(&self.by_name).contains_key(name) {
            Ok(())
        } else {
            Err(FleetError::NamespaceNotFound(name.clone()))
        }
    }

    /// Keeps a namespace: one that is not there, or another form of one that is.
    pub(super) async fn put(
        &self,
        store: &Store,
        namespace: wire::Namespace,
        is_new: bool,
    ) -> Result<(), FleetError> {
        let name: NamespaceName = namespace.name.parse()?;
        let _changing = self.changing.lock().await;
        match self.check(&name) {
            Ok(()) if is_new => return Err(FleetError::NamespaceExists(name)),
            Err(error) if !is_new => return Err(error),
            _ => {}
        }
        let namespace = marked(namespace);
        store.put_namespace(&name, &namespace).await?;
        lock(&self.by_name).insert(name, namespace);
        Ok(())
    }

    /// Waits until no other namespace is being changed.
    pub(super) async fn begin_delete(&self) -> Deletion<'_> {
        Deletion { namespaces: self, _changing: self.changing.lock().await }
    }
}

/// The right to delete a namespace.
#[derive(Debug)]
pub(super) struct Deletion<'a> {
    namespaces: &'a Namespaces,
    _changing: tokio::sync::MutexGuard<'a, ()>,
}

/// A namespace that cannot be found any more, and is still on disk.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    deletion: Deletion<'a>,
    name: NamespaceName,
    namespace: wire::Namespace,
}

impl<'a> Deletion<'a> {
    /// Takes a namespace out: from now on nothing is deployed into it.
    pub(super) fn take(self, name: &NamespaceName) -> Result<Taken<'a>, FleetError> {
        self.namespaces.check(name)?;
        if *name == NamespaceName::default() {
            return Err(FleetError::NamespaceInUse {
                namespace: name.clone(),
                reason: "it is the default namespace".into(),
            });
        }
        let namespace = lock(&self.namespaces.by_name).remove(name);
        let namespace = namespace.ok_or_else(|| FleetError::NamespaceNotFound(name.clone()))?;
        Ok(Taken { deletion: self, name: name.clone(), namespace })
    }
}

impl Taken<'_> {
    /// Deletes it, or else puts it back.
    pub(super) async fn delete(self, store: &Store) -> Result<(), FleetError> {
        let deleted = store.delete_namespace(&self.name).await;
        if deleted.is_err() {
            lock(&self.deletion.namespaces.by_name).insert(self.name, self.namespace);
        }
        Ok(deleted?)
    }
}

/// The namespace with the label that clients look for.
fn marked(mut namespace: wire::Namespace) -> wire::Namespace {
    namespace.labels.get_or_insert_default().entry(MARK.into()).or_insert_with(|| "1".into());
    namespace
}
