//! Why the fleet did not do what was asked.

use std::path::PathBuf;

use crate::images::DiskError;
use host::bundles::HandlerError;
use host::runtime::RuntimeError;
use host::secrets::SecretError;
use host::store::StoreError;
use model::function::{FunctionKey, Invalid, NamespaceName};

/// An error of deploy, update, rollback, scale or remove.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The request itself is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such function.
    #[error("function {0} was not found: see 'ingle list{option}'", option = .0.namespace.option())]
    NotFound(FunctionKey),
    /// No revision served before.
    #[error(
        "function {function} is at revision {revision}, and none that served before it is kept: there is nothing to go back to"
    )]
    NothingBefore {
        /// The function.
        function: FunctionKey,
        /// The revision that is wanted now.
        revision: u64,
    },
    /// It is at that revision.
    #[error("function {function} is at revision {revision} already")]
    RevisionWanted {
        /// The function.
        function: FunctionKey,
        /// The revision.
        revision: u64,
    },
    /// That revision never served, or is not kept any more.
    #[error("function {function} has no revision {revision} to go back to: it never served, or is not kept any more; {}", list(.kept))]
    RevisionNotFound {
        /// The function.
        function: FunctionKey,
        /// The revision.
        revision: u64,
        /// Those that are kept.
        kept: Vec<u64>,
    },
    /// There is no such namespace.
    #[error("namespace {0} was not found: create it with 'ingle namespace create {0}'")]
    NamespaceNotFound(NamespaceName),
    /// No file of the function was set aside.
    #[error("no file of function {0} was set aside: see 'ingle store check'")]
    NothingSetAside(FunctionKey),
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
    /// Its code is not here.
    #[error(transparent)]
    Handler(HandlerError),
    /// The image cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The change could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its image does not fit on the disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The function needs a watchdog, and there is none here.
    #[error(
        "envProcess is given and the image has no watchdog, so that of this machine is to run it, which is not at {path}: \
         run install.sh again, or set functions.watchdog",
        path = .0.display()
    )]
    NoWatchdog(PathBuf),
    /// What looks after the function panicked over this, and has begun anew.
    #[error("the daemon failed while it worked on this; its log says more")]
    BrokeOff,
    /// The daemon is stopping.
    #[error("the daemon is shutting down; try again")]
    ShuttingDown,
}

fn list(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    if numbers.is_empty() { "none is kept yet".into() } else { format!("kept are {}", numbers.join(", ")) }
}
