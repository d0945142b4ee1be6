//! Functions and namespaces, a file each.
//!
//! ```text
//! functions/<namespace>/<name>.json                    a function, with the revisions that it keeps
//! functions/<namespace>/<name>.<incarnation>.removed   a tombstone: its removal has begun
//! functions/<namespace>/<name>.aside-<n>               a file that could not be used, for a person to look at
//! namespaces/<name>.json                               a namespace that was made
//! ```
//!
//! Invariants
//! - A change is one rename: after a crash there is the old file or the new one.
//! - A removal renames the record to its tombstone first. The tombstone goes last, once nothing is left of
//!   the function. So a record that is missing without a tombstone was lost, and was never removed.
//! - A file that cannot be used is renamed and named. It is never deleted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use nix::errno::Errno;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::sealed::{self, Unsealed};
use super::{FunctionRecord, RevisionUse, StoreError, disk};
use crate::private_file::{self, if_there, names_in};
use model::function::{FunctionKey, Incarnation, NamespaceName};
use model::sync::lock;
use model::wire;

/// Name's end of a record.
const RECORD: &str = ".json";
/// Name's end of a tombstone.
const REMOVED: &str = ".removed";
/// Name's end of a file that was set aside, before its number.
const ASIDE: &str = ".aside-";

/// A function whose removal has begun and has not ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tombstone {
    /// The function's name.
    pub key: FunctionKey,
    /// The life that has ended.
    pub incarnation: Incarnation,
}

/// A stored function or namespace that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// `function NAME` or `namespace NAME`.
    pub subject: String,
    /// The function, if it is one.
    pub function: Option<FunctionKey>,
    /// The file.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
}

/// The files of all functions and namespaces. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Functions(Arc<Files>);

#[derive(Debug)]
struct Files {
    functions: PathBuf,
    namespaces: PathBuf,
    known: Mutex<Known>,
    /// Held for reading over each change.
    changing: RwLock<()>,
}

#[derive(Debug, Default)]
struct Known {
    live: BTreeMap<FunctionKey, Live>,
    removed: Vec<Tombstone>,
    aside: Vec<SetAside>,
}

/// A function with a record.
#[derive(Debug)]
struct Live {
    incarnation: Incarnation,
    uses: Vec<RevisionUse>,
    /// The hash of the file as it was read or written last.
    text: [u8; 32],
}

impl Live {
    fn new(record: &FunctionRecord, text: &[u8]) -> Self {
        Self {
            incarnation: record.incarnation.clone(),
            uses: record.uses().collect(),
            text: Sha256::digest(text).into(),
        }
    }
}

impl Functions {
    /// Reads what there is under `state_dir`, and sets aside what cannot be used.
    pub(super) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let files = Files {
            functions: state_dir.join("functions"),
            namespaces: state_dir.join("namespaces"),
            known: Mutex::default(),
            changing: RwLock::default(),
        };
        for directory in [&files.functions, &files.namespaces] {
            make_directory(directory)?;
        }
        files.read().map_err(|error| failed("reading", &files.functions, error))?;
        Ok(Self(Arc::new(files)))
    }

    /// Returns every function that can be read.
    pub(super) fn all(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        let keys: Vec<_> = lock(&self.0.known).live.keys().cloned().collect();
        keys.iter().filter_map(|key| self.get(key).transpose()).collect()
    }

    /// Returns a function, if it is there.
    pub(super) fn get(&self, key: &FunctionKey) -> Result<Option<FunctionRecord>, StoreError> {
        if !lock(&self.0.known).live.contains_key(key) {
            return Ok(None);
        }
        let path = self.0.record(key);
        match sealed::open(&path) {
            Ok(record) => Ok(Some(record)),
            Err(Unsealed::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::failed(format!("reading {}", path.display()), error)),
        }
    }

    /// Returns the number of functions.
    pub(super) fn count(&self) -> u64 {
        lock(&self.0.known).live.len() as u64
    }

    /// Reports whether there is such a function, or a file that may be its record.
    pub(super) fn has(&self, key: &FunctionKey) -> bool {
        let known = lock(&self.0.known);
        known.live.contains_key(key) || known.aside.iter().any(|aside| aside.function.as_ref() == Some(key))
    }

    /// Returns the life of a function, if it has one.
    pub(super) fn incarnation(&self, key: &FunctionKey) -> Option<Incarnation> {
        lock(&self.0.known).live.get(key).map(|live| live.incarnation.clone())
    }

    /// Returns what all functions may be started from.
    pub(super) fn uses(&self) -> Vec<RevisionUse> {
        lock(&self.0.known).live.values().flat_map(|live| live.uses.iter().cloned()).collect()
    }

    /// Returns the bytes of all files.
    pub(super) fn size(&self) -> u64 {
        let sizes = |directory: &Path| -> u64 {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries
                .filter_map(|entry| entry.metadata().ok())
                .filter(fs::Metadata::is_file)
                .map(|file| file.len())
                .sum()
        };
        let namespaces = fs::read_dir(&self.0.functions).into_iter().flatten().flatten();
        namespaces.map(|namespace| sizes(&namespace.path())).sum::<u64>() + sizes(&self.0.namespaces)
    }

    /// Keeps a function; returns when it is on disk.
    pub(super) async fn put(&self, record: &FunctionRecord) -> Result<(), StoreError> {
        let text = encode(record)?;
        let (files, record) = (self.0.clone(), record.clone());
        blocking(move || files.put(&record, text.as_bytes())).await
    }

    /// The same at once; blocks.
    pub(super) fn write(&self, record: &FunctionRecord) -> Result<(), StoreError> {
        self.0.put(record, encode(record)?.as_bytes())
    }

    /// Keeps a namespace at once; blocks.
    pub(super) fn write_namespace(&self, namespace: &wire::Namespace) -> Result<(), StoreError> {
        let name = format!("{}{RECORD}", namespace.name);
        write(&self.0.namespaces, &name, encode(namespace)?.as_bytes())
    }

    /// Does `work` while no function and no namespace changes.
    pub(super) fn frozen<T>(&self, work: impl FnOnce() -> T) -> T {
        let _frozen = self.0.changing.write().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Notes the removal of a function of another state directory, whose containers are here.
    pub(super) fn bury(&self, key: &FunctionKey, incarnation: &Incarnation) -> Result<(), StoreError> {
        let tombstone = Tombstone { key: key.clone(), incarnation: incarnation.clone() };
        make_directory(&self.0.directory(key))?;
        write(&self.0.directory(key), &file_name(&self.0.tombstone(&tombstone)), b"")
    }

    /// Begins the removal of a function; returns its tombstone when that is on disk, or nothing if there is
    /// no such function.
    pub(super) async fn remove(&self, key: &FunctionKey) -> Result<Option<Tombstone>, StoreError> {
        let (files, key) = (self.0.clone(), key.clone());
        blocking(move || files.remove(&key)).await
    }

    /// Ends a removal: forgets the tombstone.
    pub(super) async fn forget(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        let (files, tombstone) = (self.0.clone(), tombstone.clone());
        blocking(move || {
            let _change = files.change();
            let path = files.tombstone(&tombstone);
            remove(&path)?;
            lock(&files.known).removed.retain(|removed| *removed != tombstone);
            Ok(())
        })
        .await
    }

    /// Returns the removals that have not ended.
    pub(super) fn tombstones(&self) -> Vec<Tombstone> {
        lock(&self.0.known).removed.clone()
    }

    /// Returns the files that cannot be used.
    pub(super) fn set_aside(&self) -> Vec<SetAside> {
        lock(&self.0.known).aside.clone()
    }

    /// Reads the newest file that was set aside of a function, whatever its checksum says.
    pub(super) fn edited(&self, key: &FunctionKey) -> Result<Option<(PathBuf, FunctionRecord)>, StoreError> {
        let aside = self.set_aside().into_iter().rev().find(|aside| aside.function.as_ref() == Some(key));
        let Some(SetAside { path, .. }) = aside else { return Ok(None) };
        match sealed::open_edited::<FunctionRecord>(&path) {
            Ok(record) if record.key == *key => Ok(Some((path, record))),
            Ok(record) => {
                Err(StoreError::Unusable { path, reason: format!("it is that of function {}", record.key) })
            }
            Err(error) => Err(StoreError::Unusable { reason: model::error::chain(&error), path }),
        }
    }

    /// Removes a file that was set aside, and is not needed any more.
    pub(super) async fn discard(&self, path: PathBuf) -> Result<(), StoreError> {
        let files = self.0.clone();
        blocking(move || {
            remove(&path)?;
            lock(&files.known).aside.retain(|aside| aside.path != path);
            Ok(())
        })
        .await
    }

    /// Returns every namespace that was made.
    pub(super) fn namespaces(&self) -> Result<Vec<wire::Namespace>, StoreError> {
        let directory = &self.0.namespaces;
        let names = names_in(directory).map_err(|error| failed("reading", directory, error))?;
        let paths = names.iter().filter(|name| name.ends_with(RECORD)).map(|name| directory.join(name));
        // Files that cannot be used were named, and hide no other.
        let unusable: Vec<_> = self.set_aside().into_iter().map(|aside| aside.path).collect();
        let read = paths.filter(|path| !unusable.contains(path)).map(|path| {
            sealed::open(&path)
                .map_err(|error| StoreError::failed(format!("reading {}", path.display()), error))
        });
        read.collect()
    }

    /// Keeps a namespace; returns when it is on disk.
    pub(super) async fn put_namespace(
        &self,
        name: &NamespaceName,
        namespace: &wire::Namespace,
    ) -> Result<(), StoreError> {
        let text = encode(namespace)?;
        let (files, name) = (self.0.clone(), format!("{name}{RECORD}"));
        blocking(move || {
            let _change = files.change();
            write(&files.namespaces, &name, text.as_bytes())
        })
        .await
    }

    /// Forgets a namespace; returns when that is on disk.
    pub(super) async fn delete_namespace(&self, name: &NamespaceName) -> Result<(), StoreError> {
        let (files, name) = (self.0.clone(), name.clone());
        blocking(move || {
            let _change = files.change();
            // Files that were set aside keep it.
            let _ = fs::remove_dir(files.functions.join(name.as_str()));
            remove(&files.namespaces.join(format!("{name}{RECORD}")))
        })
        .await
    }
}

impl Files {
    fn directory(&self, key: &FunctionKey) -> PathBuf {
        self.functions.join(key.namespace.as_str())
    }

    fn record(&self, key: &FunctionKey) -> PathBuf {
        self.directory(key).join(format!("{}{RECORD}", key.name))
    }

    fn tombstone(&self, Tombstone { key, incarnation }: &Tombstone) -> PathBuf {
        self.directory(key).join(format!("{}.{incarnation}{REMOVED}", key.name))
    }

    fn read(&self) -> io::Result<()> {
        for name in names_in(&self.functions)? {
            let directory = self.functions.join(&name);
            if let (Ok(namespace), true) = (name.parse::<NamespaceName>(), directory.is_dir()) {
                private_file::remove_unfinished(&directory)?;
                for name in names_in(&directory)? {
                    self.read_file(&directory, &namespace, &name)?;
                }
            }
        }
        private_file::remove_unfinished(&self.namespaces)?;
        for name in names_in(&self.namespaces)? {
            let Some(namespace) = name.strip_suffix(RECORD) else { continue };
            let subject = format!("namespace {namespace}");
            match sealed::open::<wire::Namespace>(&self.namespaces.join(&name)) {
                Ok(found) if found.name == namespace => {}
                Ok(found) => {
                    let reason = format!("it is that of namespace {}", found.name);
                    self.put_aside(&self.namespaces, namespace, subject, None, reason)?;
                }
                Err(error) => self.unusable(&self.namespaces, namespace, subject, None, &error)?,
            }
        }
        Ok(())
    }

    fn read_file(&self, directory: &Path, namespace: &NamespaceName, name: &str) -> io::Result<()> {
        let key = |name: &str| Some(FunctionKey::new(name.parse().ok()?, namespace.clone()));
        if let Some(function) = name.strip_suffix(RECORD) {
            let Some(key) = key(function) else { return Ok(()) };
            let subject = format!("function {key}");
            let path = directory.join(name);
            match sealed::open::<FunctionRecord>(&path) {
                Ok(record) if record.key == key => {
                    let live = Live::new(&record, &fs::read(&path)?);
                    lock(&self.known).live.insert(key, live);
                }
                Ok(record) => {
                    let reason = format!("it is that of function {}", record.key);
                    self.put_aside(directory, function, subject, Some(key), reason)?;
                }
                Err(error) => self.unusable(directory, function, subject, Some(key), &error)?,
            }
        } else if let Some(removed) = name.strip_suffix(REMOVED) {
            let tombstone = removed.rsplit_once('.').and_then(|(name, incarnation)| {
                Some(Tombstone { key: key(name)?, incarnation: Incarnation::from_existing(incarnation)? })
            });
            lock(&self.known).removed.extend(tombstone);
        } else if let Some((function, _)) = name.rsplit_once(ASIDE)
            && let Some(key) = key(function)
        {
            let aside = SetAside {
                subject: format!("function {key}"),
                function: Some(key),
                path: directory.join(name),
                reason: "it was set aside earlier, because it is damaged or was edited".into(),
            };
            lock(&self.known).aside.push(aside);
        }
        Ok(())
    }

    /// Handles a record that cannot be used: sets it aside, unless it may be sound.
    fn unusable(
        &self,
        directory: &Path,
        name: &str,
        subject: String,
        function: Option<FunctionKey>,
        error: &Unsealed,
    ) -> io::Result<()> {
        let reason = model::error::chain(error);
        if let Unsealed::Broken(_) = error {
            return self.put_aside(directory, name, subject, function, reason);
        }
        let path = directory.join(format!("{name}{RECORD}"));
        tracing::error!(file = %path.display(), reason, "{subject} cannot be used");
        lock(&self.known).aside.push(SetAside { subject, function, path, reason });
        Ok(())
    }

    /// Renames a record that is not valid, so that a person finds it and nothing overwrites it.
    fn put_aside(
        &self,
        directory: &Path,
        name: &str,
        subject: String,
        function: Option<FunctionKey>,
        reason: String,
    ) -> io::Result<()> {
        let from = directory.join(format!("{name}{RECORD}"));
        let mut free = (1u32..).map(|number| directory.join(format!("{name}{ASIDE}{number}")));
        let path = free.find(|path| !path.exists()).unwrap_or_default();
        fs::rename(&from, &path)?;
        private_file::sync_directory(directory)?;
        tracing::error!(file = %path.display(), reason, "the record of {subject} is set aside");
        lock(&self.known).aside.push(SetAside { subject, function, path, reason });
        Ok(())
    }

    fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.changing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, record: &FunctionRecord, text: &[u8]) -> Result<(), StoreError> {
        let _change = self.change();
        let key = &record.key;
        let directory = self.directory(key);
        make_directory(&directory)?;
        disk::check(&directory)?;
        let path = self.record(key);
        let before = if_there(fs::read(&path)).map_err(|error| failed("reading", &path, error))?;
        let expected = lock(&self.known).live.get(key).map(|live| live.text);
        if let Some(found) = before
            && expected != Some(Sha256::digest(&found).into())
        {
            if let Err(error @ Unsealed::Later(_)) = sealed::open::<FunctionRecord>(&path) {
                return Err(StoreError::Unusable { path, reason: model::error::chain(&error) });
            }
            let reason = "it was edited while the daemon was running".to_owned();
            self.put_aside(
                &directory,
                key.name.as_str(),
                format!("function {key}"),
                Some(key.clone()),
                reason,
            )
            .map_err(|error| failed("renaming", &path, error))?;
        }
        write(&directory, &format!("{}{RECORD}", key.name), text)?;
        lock(&self.known).live.insert(key.clone(), Live::new(record, text));
        Ok(())
    }

    fn remove(&self, key: &FunctionKey) -> Result<Option<Tombstone>, StoreError> {
        let _change = self.change();
        let Some(incarnation) = lock(&self.known).live.get(key).map(|live| live.incarnation.clone()) else {
            return Ok(None);
        };
        let tombstone = Tombstone { key: key.clone(), incarnation };
        let (from, to) = (self.record(key), self.tombstone(&tombstone));
        match if_there(fs::rename(&from, &to)).map_err(|error| failed("renaming", &from, error))? {
            Some(()) => {}
            // A person has deleted the file: the removal must be known all the same.
            None => write(&self.directory(key), &file_name(&to), b"")?,
        }
        private_file::sync_directory(&self.directory(key)).map_err(|error| failed("writing", &to, error))?;
        let mut known = lock(&self.known);
        known.live.remove(key);
        known.removed.push(tombstone.clone());
        Ok(Some(tombstone))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn encode(content: &impl Serialize) -> Result<String, StoreError> {
    sealed::seal(content).map_err(|error| StoreError::failed("writing a record", error))
}

/// Makes a directory, so that it is there after a power cut.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    private_file::make_directory(path).map_err(|error| failed("making", path, error))
}

fn write(directory: &Path, name: &str, text: &[u8]) -> Result<(), StoreError> {
    private_file::write(directory, name, text, 0o600)
        .map_err(|error| failed("writing", &directory.join(name), error))
}

fn remove(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(path);
    if_there(fs::remove_file(path))
        .and_then(|_| private_file::sync_directory(directory))
        .map_err(|error| failed("removing", path, error))
}

/// Returns the error of a file operation, with the way out where there is one.
pub(super) fn failed(operation: &str, path: &Path, error: io::Error) -> StoreError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => disk::full(path, 0),
        Some(Errno::EROFS) => StoreError::ReadOnly { path: path.to_owned(), begun: false },
        _ => StoreError::failed(format!("{operation} {}", path.display()), error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::failed("keeping a record", error)))
}
