//! A state directory that is empty although containers of another one are on the machine: its disk is not mounted, or
//! `daemon.state_dir` names another place.
//!
//! Nothing is written to it until it is there, or a person has decided. Meanwhile a directory in the daemon's run
//! directory takes its place, and functions that run are served from the records that their containers carry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{StoreError, identity};
use crate::private_file;

/// The directory that waits.
#[derive(Debug)]
pub(super) struct Held {
    /// The directory that is in its place.
    pub(super) substitute: PathBuf,
    /// The directory that is empty.
    pub(super) directory: PathBuf,
    /// The identity that containers carry; absent if they are of an earlier version.
    pub(super) identity: Option<Box<str>>,
}

/// Reports whether nothing was ever kept in `state_dir`.
pub(super) fn is_new(state_dir: &Path) -> bool {
    let is_there = |name| state_dir.join(name).exists();
    !identity::is_given(state_dir) && !is_there("db") && !is_there("functions")
}

impl Held {
    pub(super) fn error(&self) -> StoreError {
        StoreError::Held { path: self.directory.clone(), identity: self.identity.clone() }
    }

    /// Has the directory go on with the functions whose containers are here.
    pub(super) fn adopt(&self) -> Result<(), StoreError> {
        self.decide(|| {
            for name in ["namespaces", "functions"] {
                let unfinished = self.directory.join(format!("{name}.adopting"));
                private_file::if_there(fs::remove_dir_all(&unfinished))?;
                private_file::copy(&self.substitute.join(name), &unfinished)?;
                private_file::sync_tree(&unfinished)?;
                fs::rename(&unfinished, self.directory.join(name))?;
            }
            private_file::sync_directory(&self.directory)
        })?;
        identity::give(&self.directory, self.identity.as_deref())
    }

    /// Has the directory begin anew.
    pub(super) fn abandon(&self) -> Result<(), StoreError> {
        self.decide(|| Ok(()))?;
        identity::give(&self.directory, None)
    }

    fn decide(&self, change: impl FnOnce() -> io::Result<()>) -> Result<(), StoreError> {
        let path = &self.directory;
        if !is_new(path) {
            let reason = "it is not empty any more: the daemon takes it up".to_owned();
            return Err(StoreError::Unusable { path: path.clone(), reason });
        }
        private_file::make_directory(path)
            .and_then(|()| change())
            .map_err(|error| StoreError::failed(format!("writing to {}", path.display()), error))
    }
}
