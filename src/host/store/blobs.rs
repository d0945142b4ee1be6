//! Values too large for sled, each in a file named by the SHA-256 of its content.
//!
//! A file is complete and on disk before its name is stored, so a stored name always resolves. The file is
//! removed once no row on disk names it any more. A reader that has read the row before finds no file, and
//! reads the row again ([`super::Sled::value`]). Files left by a crash are removed when the store opens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::StoreError;
use crate::private_file;

/// The largest value that sled is given, in bytes.
pub(super) const LIMIT: usize = 8 << 10;

/// First byte of a stored value: the rest is the value.
const INLINE: u8 = b'=';
/// First byte of a stored value: the rest is the name of its file.
const FILE: u8 = b'@';

/// The directory of large values.
#[derive(Debug)]
pub(super) struct LargeValues {
    dir: PathBuf,
}

/// The file that a stored value refers to, if it does.
pub(super) fn reference(stored: &[u8]) -> Option<String> {
    match stored.split_first() {
        Some((&FILE, name)) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    }
}

/// The number of rows that name each file, and the files that may have no row any more.
#[derive(Debug, Default)]
pub(super) struct References {
    rows: HashMap<String, usize>,
    dropped: Vec<String>,
}

impl References {
    /// Adds a row with this value to the count.
    pub(super) fn add(&mut self, stored: &[u8]) {
        if let Some(name) = reference(stored) {
            *self.rows.entry(name).or_default() += 1;
        }
    }

    /// Notes a value whose file is written but whose row may not be, because the rows written with it may fail.
    pub(super) fn expect(&mut self, stored: &[u8]) {
        self.dropped.extend(reference(stored));
    }

    /// Removes a row with this value from the count.
    pub(super) fn drop(&mut self, stored: &[u8]) {
        let Some(name) = reference(stored) else { return };
        if let Some(rows) = self.rows.get_mut(&name) {
            *rows -= 1;
            if *rows == 0 {
                self.rows.remove(&name);
            }
        }
        self.dropped.push(name);
    }
}

impl LargeValues {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        private_file::make_directory(dir)
            .map_err(|error| StoreError::failed(format!("making {}", dir.display()), error))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// What to store for `value`; a large one is on disk when this returns.
    pub(super) fn store(&self, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        if value.len() <= LIMIT {
            return Ok([&[INLINE], value].concat());
        }
        let name = hex::encode(Sha256::digest(value));
        let path = self.dir.join(&name);
        if !path.exists() {
            self.write(&path, value)
                .map_err(|error| StoreError::failed(format!("writing {}", path.display()), error))?;
        }
        Ok([&[FILE], name.as_bytes()].concat())
    }

    fn write(&self, path: &Path, value: &[u8]) -> std::io::Result<()> {
        let partial = path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(value)?;
        file.sync_data()?;
        fs::rename(&partial, path)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Returns the size of all files in bytes.
    pub(super) fn size(&self) -> u64 {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
    }

    /// Returns the value that was stored.
    pub(super) fn resolve<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, StoreError> {
        match stored.split_first() {
            Some((&INLINE, value)) => Ok(Cow::Borrowed(value)),
            Some((&FILE, name)) => {
                let path = self.dir.join(String::from_utf8_lossy(name).as_ref());
                let value = fs::read(&path)
                    .map_err(|error| StoreError::failed(format!("reading {}", path.display()), error))?;
                Ok(Cow::Owned(value))
            }
            _ => Err(StoreError::failed("reading a record", "it has no known form")),
        }
    }

    /// Removes every file that no row names.
    pub(super) fn retain(&self, references: &References) -> Result<(), StoreError> {
        let failed = |error| StoreError::failed(format!("cleaning {}", self.dir.display()), error);
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !references.rows.contains_key(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Removes dropped files that no row names. The rows must be on disk.
    pub(super) fn remove_dropped(&self, references: &mut References) {
        for name in references.dropped.drain(..) {
            if references.rows.contains_key(&name) {
                continue;
            }
            let path = self.dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(file = %path.display(), %error, "the file of a replaced value was not removed; the next start will remove it");
                }
                _ => {}
            }
        }
    }
}
