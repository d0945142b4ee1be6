//! What should run against what runs: one owner task per function.
//!
//! Invariant: a function's owner is the only writer of its [`View`]; everyone else reads it through
//! the [`Directory`], without a lock and without waiting.

mod directory;
mod error;

pub use directory::{Directory, Endpoint, Entry, Phase, View};
pub use error::FleetError;

use std::sync::Arc;

use crate::function::{FunctionKey, NamespaceName};
use crate::wire;

/// The functions of this machine: what the API asks, and what changes them.
#[derive(Debug)]
pub struct Fleet {
    directory: Arc<Directory>,
}

#[expect(clippy::todo, reason = "being written")]
#[expect(clippy::unused_async, reason = "being written")]
impl Fleet {
    /// What can be called.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Takes a deployment: returns once it is valid, its image's manifest is resolved and it is on
    /// disk. Pulling and starting go on. With `only_update`, a function that is not there is an error.
    pub async fn deploy(&self, _deployment: wire::Deployment, _only_update: bool) -> Result<(), FleetError> {
        todo!()
    }

    /// Removes a function: calls get 404 from now on, its replicas drain and go.
    pub async fn remove(&self, _key: &FunctionKey) -> Result<(), FleetError> {
        todo!()
    }

    /// Sets how many replicas there should be, within the function's own bounds; 0 stops it.
    pub async fn scale(&self, _key: &FunctionKey, _replicas: u32) -> Result<(), FleetError> {
        todo!()
    }

    /// How the functions of a namespace are.
    pub fn list(&self, _namespace: &NamespaceName) -> Result<Vec<wire::FunctionStatus>, FleetError> {
        todo!()
    }

    /// How a function is.
    pub fn describe(&self, _key: &FunctionKey) -> Result<wire::FunctionStatus, FleetError> {
        todo!()
    }

    /// What a function uses, measured over a short while.
    pub async fn usage(&self, _key: &FunctionKey) -> Result<wire::Usage, FleetError> {
        todo!()
    }

    /// All namespaces, the default one included, sorted.
    pub fn namespaces(&self) -> Vec<wire::Namespace> {
        todo!()
    }

    /// Makes a namespace.
    pub async fn create_namespace(&self, _namespace: wire::Namespace) -> Result<(), FleetError> {
        todo!()
    }

    /// Replaces a namespace's labels and annotations.
    pub async fn update_namespace(&self, _namespace: wire::Namespace) -> Result<(), FleetError> {
        todo!()
    }

    /// Deletes an empty namespace.
    pub async fn delete_namespace(&self, _name: &NamespaceName) -> Result<(), FleetError> {
        todo!()
    }
}
