//! Why the fleet did not do what was asked.

use crate::disk::DiskError;
use crate::function::{FunctionKey, Invalid, NamespaceName};
use crate::runtime::RuntimeError;
use crate::secrets::SecretError;
use crate::store::StoreError;

/// An error of deploy, update, scale or remove.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The request itself is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such function.
    #[error("function {0} was not found: see 'ingle list{option}'", option = .0.namespace.option())]
    NotFound(FunctionKey),
    /// There is no such namespace.
    #[error("namespace {0} was not found: create it with 'ingle namespace create {0}'")]
    NamespaceNotFound(NamespaceName),
    /// The namespace is there already.
    #[error("namespace {0} exists already")]
    NamespaceExists(NamespaceName),
    /// The namespace has functions, or is the default one.
    #[error("namespace {namespace} cannot be deleted: {reason}")]
    NamespaceInUse {
        /// Its name.
        namespace: NamespaceName,
        /// What keeps it.
        reason: String,
    },
    /// A secret that the function asks for is not there.
    #[error(
        "secret {secret} was not found in namespace {namespace}: create it with 'ingle secret create {secret}{}'",
        namespace.option()
    )]
    SecretNotFound {
        /// Its name.
        secret: String,
        /// Where it was looked for.
        namespace: NamespaceName,
    },
    /// Secrets could not be read or removed.
    #[error(transparent)]
    Secrets(SecretError),
    /// The image cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The change could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its image does not fit on the disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The daemon is stopping.
    #[error("the daemon is shutting down; try again")]
    ShuttingDown,
}
