//! sled's database, which may be away: it could not be opened, or a write has failed and it is opened anew.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::ballast::Ballast;
use super::{StoreError, error};
use crate::private_file;
use model::sync::lock;

/// How long to wait for another process to close the database.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// The page cache: the working set is a few hundred small records.
const CACHE_BYTES: u64 = 4 << 20;

/// The database in a directory.
#[derive(Debug)]
pub(super) struct Database {
    dir: PathBuf,
    open: ArcSwapOption<sled::Db>,
    absence: Mutex<Absence>,
}

/// Why the database is away.
#[derive(Debug, Clone)]
pub(super) enum Absence {
    /// A write that failed. The database is opened anew as soon as the disk allows.
    Broken,
    /// The same, because the file system took no writes.
    ReadOnly,
    /// Damage, for a person to look at.
    OutOfService(String),
    /// The daemon stops.
    Closed,
}

impl Absence {
    /// Returns the error of who needs the database; `begun` if it was this change that has failed.
    pub(super) fn error(&self, dir: &Path, begun: bool) -> StoreError {
        let path = dir.to_owned();
        match self {
            Self::Broken => StoreError::Broken { path, begun },
            Self::ReadOnly => StoreError::ReadOnly { path, begun },
            Self::OutOfService(reason) => StoreError::OutOfService { path, reason: reason.clone() },
            Self::Closed => StoreError::Closed,
        }
    }
}

impl Database {
    /// Returns the database in `dir`, not open yet.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, open: ArcSwapOption::empty(), absence: Mutex::new(Absence::Broken) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the database, if it is open.
    pub(super) fn db(&self) -> Result<Arc<sled::Db>, StoreError> {
        self.open.load_full().ok_or_else(|| lock(&self.absence).error(&self.dir, false))
    }

    /// Returns why the database is away; `None` if it is open.
    pub(super) fn absence(&self) -> Option<Absence> {
        // The reason is set first.
        let absence = lock(&self.absence);
        self.open.load().is_none().then(|| absence.clone())
    }

    /// Gives the database to those who read.
    pub(super) fn publish(&self, db: sled::Db) {
        let _absence = lock(&self.absence);
        self.open.store(Some(Arc::new(db)));
    }

    /// Takes the database away.
    pub(super) fn withdraw(&self, absence: Absence) {
        *lock(&self.absence) = absence;
        self.open.store(None);
    }

    /// Opens the database, or makes it, and the log's file once more for fdatasync, which sled does not do.
    pub(super) fn open(&self, ballast: &Ballast) -> Result<(sled::Db, File), StoreError> {
        self.guarded(|| self.try_open(ballast))
    }

    /// Does what reads the whole database: sled panics at some kinds of damage.
    pub(super) fn guarded<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
            let reason = "its log is damaged, and sled has panicked";
            Err(StoreError::failed(format!("reading {}", self.dir.display()), reason))
        })
    }

    fn try_open(&self, ballast: &Ballast) -> Result<(sled::Db, File), StoreError> {
        let dir = &self.dir;
        private_file::make_directory(dir)
            .map_err(|error| StoreError::failed(format!("making {}", dir.display()), error))?;
        remove_snapshots(dir, |name| name.ends_with(".generating"))?;
        let db = match open_when_free(dir) {
            Err(error) if error::is_full(&error) && ballast.release() => {
                tracing::warn!(store = %dir.display(), "the disk is full; the store is opened in the room that was held for it");
                open_when_free(dir)
            }
            other => other,
        };
        let db = match db {
            Err(sled::Error::Corruption { .. }) => {
                tracing::warn!(store = %dir.display(), "the store's snapshot is damaged; rebuilding it from the log");
                remove_snapshots(dir, |_| true)?;
                open_when_free(dir)
            }
            other => other,
        }
        .map_err(|error| StoreError::open(dir, error))?;
        let path = dir.join("db");
        let file = File::open(&path)
            .map_err(|error| StoreError::failed(format!("opening {}", path.display()), error))?;
        // sled syncs neither its settings nor names.
        let synced = File::open(dir.join("conf")).and_then(|conf| conf.sync_all());
        synced
            .and_then(|()| private_file::sync_directory(dir))
            .map_err(|error| StoreError::failed(format!("syncing {}", dir.display()), error))?;
        Ok((db, file))
    }

    /// Puts the database's directory out of the way; returns where it is then.
    pub(super) fn set_aside(&self) -> Result<PathBuf, StoreError> {
        let mut free = (1u32..).map(|number| self.dir.with_extension(format!("damaged-{number}")));
        let to = free.find(|path| !path.exists()).unwrap_or_default();
        let renamed = std::fs::rename(&self.dir, &to)
            .and_then(|()| private_file::sync_directory(self.dir.parent().unwrap_or(&self.dir)));
        renamed.map_err(|error| StoreError::failed(format!("renaming {}", self.dir.display()), error))?;
        Ok(to)
    }
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
                #[expect(clippy::disallowed_methods, reason = "the calling thread does nothing else yet")]
                std::thread::sleep(LOCK_POLL);
            }
            other => return other,
        }
    }
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
