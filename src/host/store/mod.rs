//! What must survive: functions, namespaces, address leases and counts, on sled.
//!
//! sled 0.34 is used by rules that its defects call for (each was met while measuring it):
//! - One thread owns every write and every flush: seven flushes at the same time deadlock it.
//! - Its flush is no fsync, so the writer calls fdatasync on its file before it acknowledges.
//! - Values stay small, because large nodes go to files that it never syncs: a value over
//!   [`blobs::LIMIT`] goes to a file of ours, and sled holds its digest.
//! - A snapshot file that a killed process left half-written keeps it from opening: those files are
//!   removed first, and if it still finds itself corrupt, all snapshots are; the log has everything.
//!
//! Only this room names sled, so that another store can take its place.

mod ballast;
mod blobs;
mod error;
mod jobs;
mod record;
mod timers;
mod writer;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::StoreError;
pub use jobs::{LeftJob, StoredJob};
pub use record::{FunctionRecord, RevisionRecord, RevisionUse, UpdateFailure};
pub use timers::StoredTimer;

use ballast::Ballast;
use blobs::{LargeValues, References};
use model::function::{FunctionKey, NamespaceName, ReplicaId};
use model::wire;
use record::{FunctionDigests, RevisionDigests};
use writer::{Operation, Writer};

/// The format of what is stored; a store of a later version is refused.
const SCHEMA: u32 = 1;
/// How long to wait for another process to close the store.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Where the format is written down.
const SCHEMA_KEY: &str = "meta/schema";
/// Rows that belong to a function.
const OWNED: [&str; 3] = ["counts/", "revision/", timers::TIMERS];
/// The page cache: the working set is a few hundred small records.
const CACHE_BYTES: u64 = 4 << 20;

/// The store. Reads are direct, writes go through the one writer.
#[derive(Debug)]
pub struct Store {
    db: sled::Db,
    large: Arc<LargeValues>,
    writer: Writer,
}

impl Store {
    /// Opens the store in `<state_dir>/db`, or makes it. Blocks; call it before serving.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join("db");
        std::fs::create_dir_all(&dir)
            .map_err(|error| StoreError::failed(format!("making {}", dir.display()), error))?;
        remove_snapshots(&dir, |name| name.ends_with(".generating"))?;
        let ballast = Ballast::of(&dir);
        let db = match open_when_free(&dir) {
            Err(error) if error::is_full(&error) && ballast.release() => {
                tracing::warn!(store = %dir.display(), "the disk is full; the store is opened in the room that was held for it");
                open_when_free(&dir)
            }
            other => other,
        };
        let db = match db {
            Err(sled::Error::Corruption { .. }) => {
                tracing::warn!(store = %dir.display(), "the store's snapshot is damaged; rebuilding it from the log");
                remove_snapshots(&dir, |_| true)?;
                open_when_free(&dir)
            }
            other => other,
        }
        .map_err(|error| StoreError::open(&dir, error))?;
        let large = Arc::new(LargeValues::open(&state_dir.join("large"))?);
        check_schema(&db, &large)?;
        drop_orphans(&db)?;
        let references = references(&db)?;
        large.retain(&references)?;
        let writer = Writer::start(db.clone(), &dir, large.clone(), references, ballast)?;
        Ok(Self { db, large, writer })
    }

    /// Every function.
    pub fn functions(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        self.scan("function/").map(|rows| rows.into_iter().map(|(_, record)| record).collect())
    }

    /// What functions may be started from: images and handlers of revisions that are wanted or serve, and of those
    /// that are kept to go back to.
    pub fn revisions_in_use(&self) -> Result<Vec<RevisionUse>, StoreError> {
        let mut uses = Vec::new();
        // Functions first: a rollback takes a revision that is kept into the function's record, and one
        // that is then forgotten has left its image to a later row.
        for (_, FunctionDigests { key, wanted, serving }) in self.scan("function/")? {
            let revisions = std::iter::once(wanted).chain(serving);
            uses.extend(revisions.map(|revision| revision.used_by(key.clone(), false)));
        }
        for (row, revision) in self.scan::<RevisionDigests>("revision/")? {
            let function = function_of(&row).ok_or_else(|| {
                StoreError::failed("reading the store", format!("revision/{row} belongs to no function"))
            })?;
            uses.push(revision.used_by(function, true));
        }
        Ok(uses)
    }

    /// Bytes that the store takes of the disk.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        let small = self.db.size_on_disk();
        Ok(small.map_err(|error| StoreError::failed("measuring the store", error))? + self.large.size())
    }

    /// How many functions there are.
    pub fn functions_count(&self) -> Result<u64, StoreError> {
        let rows = self.db.scan_prefix("function/").keys();
        let count = rows.map(|row| row.map(|_| 1)).sum::<sled::Result<u64>>();
        count.map_err(|error| StoreError::failed("reading the store", error))
    }

    /// Whether there is such a function.
    pub fn has_function(&self, key: &FunctionKey) -> Result<bool, StoreError> {
        let found = self.db.contains_key(function_key(key));
        found.map_err(|error| StoreError::failed("reading the store", error))
    }

    /// Keeps a function; returns when it is on disk.
    pub async fn put_function(&self, record: &FunctionRecord) -> Result<(), StoreError> {
        self.writer.write(vec![put(&function_key(&record.key), record)?]).await
    }

    /// Keeps a function with a revision that has begun to serve, and forgets those of its revisions that
    /// are named in `dropped`; returns when all of it is on disk.
    pub async fn put_served(
        &self,
        record: &FunctionRecord,
        served: &RevisionRecord,
        dropped: &[u64],
    ) -> Result<(), StoreError> {
        let key = &record.key;
        let mut operations =
            vec![put(&function_key(key), record)?, put(&revision_key(key, served.number), served)?];
        operations.extend(dropped.iter().map(|number| delete(&revision_key(key, *number))));
        self.writer.write(operations).await
    }

    /// A function, if it is there.
    pub fn function(&self, key: &FunctionKey) -> Result<Option<FunctionRecord>, StoreError> {
        self.get(&function_key(key))
    }

    /// The revisions of a function that are kept because they served, oldest first.
    pub fn revisions(&self, key: &FunctionKey) -> Result<Vec<RevisionRecord>, StoreError> {
        let rows = self.scan(&format!("revision/{}/{}/", key.namespace, key.name))?;
        Ok(rows.into_iter().map(|(_, record)| record).collect())
    }

    /// One of those revisions.
    pub fn revision(&self, key: &FunctionKey, number: u64) -> Result<Option<RevisionRecord>, StoreError> {
        self.get(&revision_key(key, number))
    }

    /// Forgets a function, its counts, its timer and these revisions of it; returns when that is on disk.
    pub async fn delete_function(&self, key: &FunctionKey, revisions: &[u64]) -> Result<(), StoreError> {
        let mut operations =
            vec![delete(&function_key(key)), delete(&counts_key(key)), delete(&timers::key(key))];
        operations.extend(revisions.iter().map(|number| delete(&revision_key(key, *number))));
        self.writer.write(operations).await
    }

    /// Every namespace that was made.
    pub fn namespaces(&self) -> Result<Vec<wire::Namespace>, StoreError> {
        self.scan("namespace/").map(|rows| rows.into_iter().map(|(_, record)| record).collect())
    }

    /// Keeps a namespace; returns when it is on disk.
    pub async fn put_namespace(
        &self,
        name: &NamespaceName,
        namespace: &wire::Namespace,
    ) -> Result<(), StoreError> {
        self.writer.write(vec![put(&format!("namespace/{name}"), namespace)?]).await
    }

    /// Forgets a namespace; returns when that is on disk.
    pub async fn delete_namespace(&self, name: &NamespaceName) -> Result<(), StoreError> {
        self.writer.write(vec![delete(&format!("namespace/{name}"))]).await
    }

    /// The counts of a function's calls, as [`Store::put_counts`] was given them.
    pub fn counts<T: DeserializeOwned>(&self, key: &FunctionKey) -> Result<Option<T>, StoreError> {
        self.get(&counts_key(key))
    }

    /// Keeps counts soon: they reach the disk with the next flush, and nobody waits for it. Those of a
    /// function that is deleted by then are dropped.
    pub fn put_counts<T: Serialize>(&self, counts: &[(FunctionKey, T)]) -> Result<(), StoreError> {
        let operations = counts
            .iter()
            .map(|(key, counts)| {
                let (owner, key) = (function_key(key), counts_key(key));
                Ok(Operation::PutBeside { owner, value: encode(&key, counts)?, key })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        self.writer.write_soon(operations);
        Ok(())
    }

    /// Every address lease.
    pub fn leases(&self) -> Result<Vec<(IpAddr, ReplicaId)>, StoreError> {
        let rows = self.scan::<ReplicaId>("lease/")?;
        Ok(rows.into_iter().filter_map(|(address, id)| Some((address.parse().ok()?, id))).collect())
    }

    /// Writes what is waiting and ends the writer. Later writes fail.
    pub async fn close(&self) {
        self.writer.close().await;
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.bytes(key)?.map(|bytes| understand(key, &bytes)).transpose()
    }

    /// Returns the value of a key.
    fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.db.get(key).map_err(|error| StoreError::failed(format!("reading {key}"), error))?;
        row.map_or(Ok(None), |stored| self.value(key.as_bytes(), stored))
    }

    /// Returns the value of a row. If its file is gone, the row was replaced or deleted meanwhile, and is read again.
    fn value(&self, key: &[u8], mut stored: sled::IVec) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let error = match self.large.resolve(&stored) {
                Ok(value) => return Ok(Some(value.into_owned())),
                Err(error) => error,
            };
            let now = self.db.get(key).map_err(|error| StoreError::failed("reading the store", error))?;
            match now {
                None => return Ok(None),
                Some(now) if now == stored => return Err(error),
                Some(now) => stored = now,
            }
        }
    }

    fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>, StoreError> {
        let mut rows = Vec::new();
        for row in self.db.scan_prefix(prefix) {
            let (key, value) = row.map_err(|error| StoreError::failed(format!("reading {prefix}"), error))?;
            let Some(value) = self.value(&key, value)? else { continue };
            let key = String::from_utf8_lossy(&key);
            rows.push((key[prefix.len()..].to_owned(), understand(&key, &value)?));
        }
        Ok(rows)
    }
}

fn understand<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::failed(format!("understanding {key}"), error))
}

/// Counts the rows that name each file. Must run before there is a writer.
fn references(db: &sled::Db) -> Result<References, StoreError> {
    let mut references = References::default();
    for row in db.iter() {
        let (_, stored) = row.map_err(|error| StoreError::failed("reading the store", error))?;
        references.add(&stored);
    }
    Ok(references)
}

impl crate::network::Leases for Store {
    fn put(&self, address: IpAddr, id: &ReplicaId) {
        // What runs carries its address as a label, and what does not run needs none: nobody waits for the disk.
        if let Ok(operation) = put(&format!("lease/{address}"), id) {
            self.writer.write_soon(vec![operation]);
        }
    }

    fn delete(&self, address: IpAddr) {
        self.writer.write_soon(vec![delete(&format!("lease/{address}"))]);
    }

    fn all(&self) -> Vec<(IpAddr, ReplicaId)> {
        self.leases().unwrap_or_else(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "address leases cannot be read; taking them from what runs"
            );
            Vec::new()
        })
    }
}

fn function_key(key: &FunctionKey) -> String {
    format!("function/{}/{}", key.namespace, key.name)
}

fn counts_key(key: &FunctionKey) -> String {
    format!("counts/{}/{}", key.namespace, key.name)
}

/// Sorts as the numbers do.
fn revision_key(key: &FunctionKey, number: u64) -> String {
    format!("revision/{}/{}/{number:020}", key.namespace, key.name)
}

/// The key of the function that a row belongs to, if it belongs to one.
fn owner_of(key: &str) -> Option<String> {
    let rest = OWNED.iter().find_map(|prefix| key.strip_prefix(prefix))?;
    let mut parts = rest.split('/');
    Some(format!("function/{}/{}", parts.next()?, parts.next()?))
}

/// The function in `<namespace>/<name>/…`.
fn function_of(row: &str) -> Option<FunctionKey> {
    let mut parts = row.split('/');
    let (namespace, name) = (parts.next()?, parts.next()?);
    Some(FunctionKey::new(name.parse().ok()?, namespace.parse().ok()?))
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::failed(format!("writing {key}"), error))
}

fn put<T: Serialize>(key: &str, value: &T) -> Result<Operation, StoreError> {
    Ok(Operation::Put { key: key.to_owned(), value: encode(key, value)? })
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.to_owned() }
}

fn open(dir: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace)
        .open()
}

/// Opens it, and waits a little for whoever is just closing it: a daemon that is being replaced, or
/// sled's own threads, which let go of its lock some time after it was dropped.
fn open_when_free(dir: &Path) -> sled::Result<sled::Db> {
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match open(dir) {
            Err(error) if error::is_locked(&error) && Instant::now() < end => {
                #[expect(clippy::disallowed_methods, reason = "the daemon does nothing else yet")]
                std::thread::sleep(LOCK_POLL);
            }
            other => return other,
        }
    }
}

/// Refuses a store of a later version, and marks a new one. Runs before there is a writer.
fn check_schema(db: &sled::Db, large: &LargeValues) -> Result<(), StoreError> {
    let failed = |error: sled::Error| StoreError::failed(format!("reading {SCHEMA_KEY}"), error);
    match db.get(SCHEMA_KEY).map_err(failed)? {
        None => {
            let value = large.store(SCHEMA.to_string().as_bytes())?;
            db.insert(SCHEMA_KEY, value).map_err(failed)?;
        }
        Some(stored) => {
            let value = large.resolve(&stored)?;
            let found = serde_json::from_slice(&value)
                .map_err(|error| StoreError::failed(format!("understanding {SCHEMA_KEY}"), error))?;
            if found > SCHEMA {
                return Err(StoreError::Newer { found, known: SCHEMA });
            }
        }
    }
    Ok(())
}

/// Removes what belongs to functions that are gone. Runs before there is a writer.
fn drop_orphans(db: &sled::Db) -> Result<(), StoreError> {
    let failed = |error: sled::Error| StoreError::failed("reading the store", error);
    for row in OWNED.iter().flat_map(|prefix| db.scan_prefix(prefix)) {
        let (key, _) = row.map_err(failed)?;
        if let Some(owner) = owner_of(&String::from_utf8_lossy(&key))
            && !db.contains_key(owner).map_err(failed)?
        {
            db.remove(key).map_err(failed)?;
        }
    }
    Ok(())
}

/// Removes those of sled's snapshot files whose name `which` picks.
fn remove_snapshots(dir: &Path, which: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let failed = |path: &Path, error| StoreError::failed(format!("cleaning {}", path.display()), error);
    for entry in std::fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        let path: PathBuf = entry.map_err(|error| failed(dir, error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && which(name) {
            std::fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
