//! The identity of a state directory.
//!
//! Containers carry it. So a directory that is empty, because its disk is not mounted or its path was changed, is
//! told from that of a new machine: containers of another identity are there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sealed::{self, Unsealed};
use super::{StoreError, new_incarnation};
use crate::private_file;

/// The file that holds it. It is written when functions are in files, and is the mark of that.
const FILE: &str = "identity";

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    id: Box<str>,
}

/// Reports whether a state directory has an identity.
pub(super) fn is_given(state_dir: &Path) -> bool {
    state_dir.join(FILE).exists()
}

/// Returns the identity of a state directory that has one.
pub(super) fn read(state_dir: &Path) -> Result<Box<str>, StoreError> {
    let path = state_dir.join(FILE);
    sealed::open::<Identity>(&path).map(|identity| identity.id).map_err(|error| match error {
        error @ Unsealed::Broken(_) => StoreError::Unusable {
            reason: format!("{error}; move it away, and the next start gives the directory another identity"),
            path,
        },
        error => StoreError::Unusable { reason: model::error::chain(&error), path },
    })
}

/// Gives a state directory an identity: this one, or one drawn at random.
pub(super) fn give(state_dir: &Path, id: Option<&str>) -> Result<(), StoreError> {
    let id = id.map_or_else(|| new_incarnation().to_string(), str::to_owned).into();
    let failed = |error| StoreError::failed(format!("writing {}", state_dir.join(FILE).display()), error);
    let text = sealed::seal(&Identity { id }).map_err(|error| failed(error.into()))?;
    private_file::write(state_dir, FILE, text.as_bytes(), 0o600).map_err(failed)
}
