//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the store; the text names the thing and the way out.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store in {path} is in use: another ingle is running (systemctl status ingle)")]
    InUse {
        /// Where it is.
        path: PathBuf,
    },
    /// It was written by a later version of ingle.
    #[error(
        "the store was written by a later version (format {found}, this one knows {known}): install that version"
    )]
    Newer {
        /// Its format.
        found: u32,
        /// The latest known format.
        known: u32,
    },
    /// The writer has ended.
    #[error(
        "the store is closed: the daemon is stopping, or has met an error of its own ('journalctl -u ingle' has \
         which), and is to be restarted (systemctl restart ingle)"
    )]
    Closed,
    /// The disk is nearly full: nothing was written.
    #[error(
        "the disk of {path} is full: {free} MB are free, and changes are kept while there are {reserve}; \
         make room ('ingle system df', 'ingle system prune'), and it goes on by itself"
    )]
    Full {
        /// The store's directory.
        path: PathBuf,
        /// Megabytes that are free.
        free: u64,
        /// Megabytes that must be.
        reserve: u64,
    },
    /// The file system takes no writes.
    #[error(
        "the file system of {path} is read-only, as after an error of the disk (dmesg says which): \
         repair it, and the store goes on by itself; functions run on meanwhile"
    )]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
        /// That was found out by writing.
        begun: bool,
    },
    /// A write has failed, this one or one before it, and the store is not open again yet.
    #[error(
        "the store in {path} takes no changes after one that failed ('journalctl -u ingle' has why); it is opened \
         anew as soon as the disk allows; functions run on meanwhile"
    )]
    Broken {
        /// The store's directory.
        path: PathBuf,
        /// It was this one.
        begun: bool,
    },
    /// The queue's part cannot be opened. Functions are in files of their own.
    #[error(
        "the queue's store in {path} cannot be opened ({reason}): async calls, schedules and records are out of \
         service, and functions are served; 'ingle store check' looks at it, and 'ingle store repair' sets it aside"
    )]
    OutOfService {
        /// The store's directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The state directory is empty, and containers of another one are here.
    #[error(
        "the state directory {path} is empty, and containers of another one{of} are on this machine: mount its disk, or \
         set daemon.state_dir; or go on with the functions that run ('ingle store adopt'), or remove them ('ingle \
         system prune --orphans'). Until then functions that run are served, and nothing is changed",
        of = .identity.as_ref().map(|identity| format!(" (identity {identity})")).unwrap_or_default()
    )]
    Held {
        /// The directory.
        path: PathBuf,
        /// The identity that the containers carry.
        identity: Option<Box<str>>,
    },
    /// A file cannot be used as it is.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Anything else: the operation, and what sled or the kernel said.
    #[error("{operation} failed")]
    Failed {
        /// What was being done.
        operation: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub(super) fn failed(
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { operation: operation.into(), source: source.into() }
    }

    /// Whether the next start may find the change all the same.
    pub fn was_begun(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::InUse { .. }
            | Self::Newer { .. }
            | Self::OutOfService { .. }
            | Self::Held { .. }
            | Self::Unusable { .. } => false,
            Self::ReadOnly { begun, .. } | Self::Broken { begun, .. } => *begun,
            // Closed before it was written, or after.
            Self::Closed | Self::Failed { .. } => true,
        }
    }

    /// Whether this process cannot write any more.
    pub fn needs_restart(&self) -> bool {
        matches!(self, Self::Closed | Self::OutOfService { .. } | Self::Held { .. })
    }

    pub(super) fn open(dir: &Path, error: sled::Error) -> Self {
        if is_locked(&error) {
            return Self::InUse { path: dir.to_owned() };
        }
        Self::failed(format!("opening the store in {}", dir.display()), error)
    }
}

/// Whether another process, or an earlier handle of this one, has the store open.
pub(super) fn is_locked(error: &sled::Error) -> bool {
    // sled wraps the kernel's answer in an error of its own that keeps only the text.
    matches!(error, sled::Error::Io(io) if io.to_string().contains("could not acquire lock"))
}

/// Whether the file system took no write, in an error or one that caused it.
pub(super) fn is_read_only(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|error| match (error.downcast_ref::<io::Error>(), error.downcast_ref::<sled::Error>()) {
        (Some(io), _) | (_, Some(sled::Error::Io(io))) => io.kind() == io::ErrorKind::ReadOnlyFilesystem,
        _ => false,
    })
}

/// Whether there was no room on the disk.
pub(super) fn is_full(error: &sled::Error) -> bool {
    // As above: sometimes the text is all that is left.
    matches!(error, sled::Error::Io(io) if io.kind() == io::ErrorKind::StorageFull
        || io.to_string().contains("No space left"))
}
