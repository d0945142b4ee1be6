//! The store of all that must survive: functions and namespaces, a file each; calls, timers, counts and address leases, on sled.
//!
//! Functions do not depend on sled ([`functions`] says how they are kept). When sled cannot be opened, what is in it
//! is out of service, and functions are served.
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

mod backup;
mod ballast;
mod blobs;
mod database;
mod disk;
mod error;
mod functions;
mod held;
mod identity;
mod jobs;
mod numbers;
mod record;
mod sealed;
mod takeover;
mod timers;
mod writer;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use backup::finish_restore;
pub use error::StoreError;
pub use functions::{SetAside, Tombstone};
pub use jobs::{LeftJob, StoredJob};
pub use record::{FunctionRecord, RevisionRecord, RevisionUse, UpdateFailure, new_incarnation};
pub use timers::StoredTimer;

use ballast::Ballast;
use blobs::LargeValues;
use database::{Absence, Database};
use functions::Functions;
use held::Held;
use model::function::{FunctionKey, Incarnation, NamespaceName, ReplicaId};
use model::wire;
use writer::{Open, Operation, Writer};

/// The format of what is stored; a store of a later version is refused. 1 had functions and namespaces on sled.
const SCHEMA: u32 = 2;
/// Where the format is written down.
const SCHEMA_KEY: &str = "meta/schema";
/// Rows of counts.
const COUNTS: &str = "counts/";
/// The store. Reads are direct, writes go through the one writer.
#[derive(Debug)]
pub struct Store {
    state_dir: PathBuf,
    identity: Box<str>,
    functions: Functions,
    sled: Sled,
    held: Option<Held>,
}

/// The part on sled.
#[derive(Debug)]
struct Sled {
    database: Arc<Database>,
    large: Arc<LargeValues>,
    writer: Writer,
}

impl Store {
    /// Opens the store in `state_dir`, or makes it, and takes over what an earlier version has left there. Blocks;
    /// call it before serving.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let database = Arc::new(Database::new(state_dir.join("db")));
        let ballast = Ballast::of(database.dir());
        let large = Arc::new(LargeValues::open(&state_dir.join("large"))?);
        let mut opened = database.open(&ballast);
        if let Err(error) = &opened
            && !matches!(error, StoreError::InUse { .. })
            && was_never_used(state_dir)
        {
            let damaged = database.set_aside()?;
            tracing::warn!(damaged = %damaged.display(), "a first start was cut off while it made the store; it is made anew");
            opened = database.open(&ballast);
        }
        let opened = opened.and_then(|(db, file)| {
            database.guarded(|| {
                let functions = takeover::open(state_dir, &db, &large)?;
                let open = Open::new(db, file, &large)?;
                large.retain(&open.references)?;
                Ok((functions, open))
            })
        });
        let (functions, open) = match opened {
            Ok((functions, open)) => {
                database.publish(open.db.clone());
                (functions, Some(open))
            }
            Err(error @ (StoreError::InUse { .. } | StoreError::Newer { .. })) => return Err(error),
            // Without files of functions there is nothing that could be served.
            Err(error) if !identity::is_given(state_dir) => return Err(error),
            Err(error) => {
                let absence = Absence::OutOfService(model::error::chain(&error));
                tracing::error!("{}", absence.error(database.dir(), false));
                database.withdraw(absence);
                (Functions::open(state_dir)?, None)
            }
        };
        let identity = identity::read(state_dir)?;
        let writer = Writer::start(database.clone(), open, large.clone(), ballast, functions.clone())?;
        let sled = Sled { database, large, writer };
        Ok(Self { state_dir: state_dir.to_owned(), identity, functions, sled, held: None })
    }

    /// Reports whether nothing was ever kept in `state_dir`.
    pub fn is_new(state_dir: &Path) -> bool {
        held::is_new(state_dir)
    }

    /// Opens a store in `substitute` for the time in which `state_dir` is empty and must stay so, because containers of
    /// another one are here, with this identity if they carry one. It holds functions alone.
    pub fn hold(substitute: &Path, state_dir: &Path, identity: Option<&str>) -> Result<Self, StoreError> {
        identity::give(substitute, identity)?;
        let database = Arc::new(Database::new(substitute.join("db")));
        let held = Held {
            substitute: substitute.to_owned(),
            directory: state_dir.to_owned(),
            identity: identity.map(Into::into),
        };
        database.withdraw(Absence::OutOfService(held.error().to_string()));
        let large = Arc::new(LargeValues::open(&substitute.join("large"))?);
        let functions = Functions::open(substitute)?;
        let identity = identity::read(substitute)?;
        let ballast = Ballast::of(database.dir());
        let writer = Writer::start(database.clone(), None, large.clone(), ballast, functions.clone())?;
        let sled = Sled { database, large, writer };
        Ok(Self { state_dir: substitute.to_owned(), identity, functions, sled, held: Some(held) })
    }

    /// Reports whether this store only takes the place of another one.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Has the empty state directory go on with the functions that are here. The next start finds them.
    pub fn adopt(&self) -> Result<(), StoreError> {
        self.held()?.adopt()
    }

    /// Has the empty state directory begin anew, with nothing in it.
    pub fn abandon(&self) -> Result<(), StoreError> {
        self.held()?.abandon()
    }

    fn held(&self) -> Result<&Held, StoreError> {
        self.held.as_ref().ok_or_else(|| StoreError::Unusable {
            path: self.sled.database.dir().to_owned(),
            reason: "its state directory is in use, and waits for no decision".into(),
        })
    }

    /// Returns the identity of the state directory.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Returns why calls, timers and records cannot be read or kept now, if that is so.
    pub fn absence(&self) -> Option<StoreError> {
        if let Some(held) = &self.held {
            return Some(held.error());
        }
        let Sled { database, .. } = &self.sled;
        database.absence().map(|absence| absence.error(database.dir(), false))
    }

    /// Fails if no call can be accepted now.
    pub fn check(&self) -> Result<(), StoreError> {
        self.absence().map_or(Ok(()), Err)?;
        disk::check(self.sled.database.dir()).map(drop)
    }

    /// Puts a part on sled aside that cannot be opened, and begins with an empty one; returns where it is then.
    pub async fn repair(&self) -> Result<PathBuf, StoreError> {
        self.sled.writer.repair().await
    }

    /// Every function.
    pub fn functions(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        self.functions.all()
    }

    /// What functions may be started from: images and handlers of revisions that are wanted or serve, and of those
    /// that are kept to go back to.
    pub fn revisions_in_use(&self) -> Vec<RevisionUse> {
        self.functions.uses()
    }

    /// Bytes that the store takes of the disk.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        let files = self.functions.size();
        let Sled { database, large, .. } = &self.sled;
        let Ok(db) = database.db() else { return Ok(files + large.size()) };
        let small = db.size_on_disk().map_err(|error| StoreError::failed("measuring the store", error))?;
        Ok(files + small + large.size())
    }

    /// How many functions there are.
    pub fn functions_count(&self) -> u64 {
        self.functions.count()
    }

    /// Whether there is such a function, or a file that may be its record.
    pub fn has_function(&self, key: &FunctionKey) -> bool {
        self.functions.has(key)
    }

    /// Returns the life of a function that it is in, if it is there.
    pub fn incarnation(&self, key: &FunctionKey) -> Option<Incarnation> {
        self.functions.incarnation(key)
    }

    /// Keeps a function; returns when it is on disk.
    pub async fn put_function(&self, record: &FunctionRecord) -> Result<(), StoreError> {
        self.functions.put(record).await
    }

    /// A function, if it is there.
    pub fn function(&self, key: &FunctionKey) -> Result<Option<FunctionRecord>, StoreError> {
        self.functions.get(key)
    }

    /// Begins the removal of a function, with its counts and its timer. Returns when that is on disk: the next start
    /// does not find the function, and goes on with the removal until [`Store::forget`] ends it. `None` if there is
    /// no such function.
    pub async fn delete_function(&self, key: &FunctionKey) -> Result<Option<Tombstone>, StoreError> {
        let tombstone = self.functions.remove(key).await?;
        if let Some(tombstone) = &tombstone {
            self.sled.writer.write_soon(rows_of(tombstone));
        }
        Ok(tombstone)
    }

    /// Ends the removal of a function of which nothing is left.
    pub async fn forget(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        self.sled.writer.write(rows_of(tombstone)).await?;
        self.functions.forget(tombstone).await
    }

    /// Removes the rows of functions that an earlier version has left, and that were taken over into files; returns
    /// how many.
    pub async fn prune(&self) -> Result<usize, StoreError> {
        let rows = takeover::kept(&*self.sled.database.db()?)?;
        let count = rows.len();
        self.sled.writer.write(rows.iter().map(|key| delete(key)).collect()).await?;
        Ok(count)
    }

    /// The removals that have not ended.
    pub fn tombstones(&self) -> Vec<Tombstone> {
        self.functions.tombstones()
    }

    /// The files of functions and namespaces that cannot be used.
    pub fn set_aside(&self) -> Vec<SetAside> {
        self.functions.set_aside()
    }

    /// The record in the newest file of a function that was set aside, whatever its checksum says, and the file.
    pub fn edited_function(
        &self,
        key: &FunctionKey,
    ) -> Result<Option<(PathBuf, FunctionRecord)>, StoreError> {
        self.functions.edited(key)
    }

    /// Removes a file that was set aside.
    pub async fn discard(&self, path: PathBuf) -> Result<(), StoreError> {
        self.functions.discard(path).await
    }

    /// Every namespace that was made.
    pub fn namespaces(&self) -> Result<Vec<wire::Namespace>, StoreError> {
        self.functions.namespaces()
    }

    /// Keeps a namespace; returns when it is on disk.
    pub async fn put_namespace(
        &self,
        name: &NamespaceName,
        namespace: &wire::Namespace,
    ) -> Result<(), StoreError> {
        self.functions.put_namespace(name, namespace).await
    }

    /// Forgets a namespace; returns when that is on disk.
    pub async fn delete_namespace(&self, name: &NamespaceName) -> Result<(), StoreError> {
        self.functions.delete_namespace(name).await
    }

    /// The counts of a function's calls, as [`Store::put_counts`] was given them.
    pub fn counts<T: DeserializeOwned>(
        &self,
        key: &FunctionKey,
        incarnation: &Incarnation,
    ) -> Result<Option<T>, StoreError> {
        self.sled.get(&owned_key(COUNTS, key, incarnation))
    }

    /// Keeps counts soon: they reach the disk with the next flush, and nobody waits for it. Those of a
    /// life of a function that has ended by then are dropped.
    pub fn put_counts<T: Serialize>(
        &self,
        counts: &[(FunctionKey, Incarnation, T)],
    ) -> Result<(), StoreError> {
        let operations = counts
            .iter()
            .map(|(function, incarnation, counts)| {
                let key = owned_key(COUNTS, function, incarnation);
                let value = encode(&key, counts)?;
                Ok(owned(function, incarnation, vec![(key, value)]))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        self.sled.writer.write_soon(operations);
        Ok(())
    }

    /// Every address lease.
    pub fn leases(&self) -> Result<Vec<(IpAddr, ReplicaId)>, StoreError> {
        let rows = self.sled.scan::<ReplicaId>("lease/")?;
        Ok(rows.into_iter().filter_map(|(address, id)| Some((address.parse().ok()?, id))).collect())
    }

    /// Writes what is waiting and ends the writer. Later writes fail.
    pub async fn close(&self) {
        self.sled.writer.close().await;
    }
}

impl Sled {
    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.bytes(key)?.map(|bytes| understand(key, &bytes)).transpose()
    }

    /// Returns the value of a key.
    fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self
            .database
            .db()?
            .get(key)
            .map_err(|error| StoreError::failed(format!("reading {key}"), error))?;
        row.map_or(Ok(None), |stored| self.value(key.as_bytes(), stored))
    }

    /// Returns the value of a row. If its file is gone, the row was replaced or deleted meanwhile, and is read again.
    fn value(&self, key: &[u8], mut stored: sled::IVec) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let error = match self.large.resolve(&stored) {
                Ok(value) => return Ok(Some(value.into_owned())),
                Err(error) => error,
            };
            let now = self
                .database
                .db()?
                .get(key)
                .map_err(|error| StoreError::failed("reading the store", error))?;
            match now {
                None => return Ok(None),
                Some(now) if now == stored => return Err(error),
                Some(now) => stored = now,
            }
        }
    }

    fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>, StoreError> {
        let mut rows = Vec::new();
        for row in self.database.db()?.scan_prefix(prefix) {
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

/// Reports whether no start has come as far as to keep anything: the password is made after the store.
fn was_never_used(state_dir: &Path) -> bool {
    ["secrets", "functions"].iter().all(|name| !state_dir.join(name).exists())
        && !identity::is_given(state_dir)
}

/// Marks an empty database as one of this version.
fn mark(db: &sled::Db, large: &LargeValues) -> Result<(), StoreError> {
    let marked = db.insert(SCHEMA_KEY, large.store(SCHEMA.to_string().as_bytes())?);
    marked.map(drop).map_err(|error| StoreError::failed("writing the store's format", error))
}

impl crate::network::Leases for Store {
    fn put(&self, address: IpAddr, id: &ReplicaId) {
        // What runs carries its address as a label, and what does not run needs none: nobody waits for the disk.
        if let Ok(operation) = put(&format!("lease/{address}"), id) {
            self.sled.writer.write_soon(vec![operation]);
        }
    }

    fn delete(&self, address: IpAddr) {
        self.sled.writer.write_soon(vec![delete(&format!("lease/{address}"))]);
    }

    fn all(&self) -> Vec<(IpAddr, ReplicaId)> {
        if self.absence().is_some() {
            // Which was said.
            return Vec::new();
        }
        self.leases().unwrap_or_else(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "address leases cannot be read; taking them from what runs"
            );
            Vec::new()
        })
    }
}

/// The key of a row that belongs to one life of a function.
fn owned_key(prefix: &str, function: &FunctionKey, incarnation: &Incarnation) -> String {
    format!("{prefix}{}/{}/{incarnation}", function.namespace, function.name)
}

/// The life of a function that a row belongs to; the prefix is gone from its key.
fn owner_of(row: &str) -> Option<(FunctionKey, Incarnation)> {
    let mut parts = row.split('/');
    let (namespace, name, incarnation) = (parts.next()?, parts.next()?, parts.next()?);
    let key = FunctionKey::new(name.parse().ok()?, namespace.parse().ok()?);
    Some((key, Incarnation::from_existing(incarnation)?))
}

/// Removes all rows of a life that has ended.
fn rows_of(Tombstone { key, incarnation }: &Tombstone) -> Vec<Operation> {
    [COUNTS, timers::TIMERS].map(|prefix| delete(&owned_key(prefix, key, incarnation))).into()
}

fn owned(function: &FunctionKey, incarnation: &Incarnation, rows: Vec<(String, Vec<u8>)>) -> Operation {
    Operation::PutOwned { function: function.clone(), incarnation: incarnation.clone(), rows }
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

#[cfg(test)]
mod tests;
