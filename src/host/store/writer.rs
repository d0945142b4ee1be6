//! The one thread that writes: takes what is waiting, applies it as one batch, flushes, syncs, and
//! only then tells those who wait. Writers that come together share one flush.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, fstatvfs};
use tokio::sync::oneshot;

use super::ballast::{self, Ballast};
use super::blobs::{LargeValues, References};
use super::error::{StoreError, is_read_only};
use model::sync::lock;

/// Operations in one batch at most.
const MAX_BATCH: usize = 1024;
/// What must be free on the disk, in bytes, or nothing is written. sled takes no more writes after one that
/// failed, and could be opened anew only by a daemon that is started anew: a full disk must never be met.
/// More than is written between two looks.
const RESERVE: u64 = 16 << 20;
/// How long a write that nobody waits for may stay in memory.
const LAZY_FLUSH: Duration = Duration::from_millis(200);

/// One change.
#[derive(Debug)]
pub(super) enum Operation {
    Put {
        key: String,
        value: Vec<u8>,
    },
    /// Only if there is a value under `owner` by then: what belongs to it may have been deleted with it
    /// meanwhile.
    PutBeside {
        owner: String,
        key: String,
        value: Vec<u8>,
    },
    Delete {
        key: String,
    },
}

/// A key and what is to be under it.
type Change = (String, Option<Vec<u8>>);

/// What is to be applied at once.
#[derive(Default)]
struct Pending {
    /// In the order in which that was asked for.
    changes: Vec<Change>,
    /// Whether the keys that it touches have a value after it.
    there: HashMap<String, bool>,
    /// Some of it must be there as a whole, or not at all.
    whole: bool,
}

impl Pending {
    /// Takes these, too: in this order, after what it has.
    fn take(&mut self, changes: Vec<Change>) {
        self.whole |= changes.len() > 1;
        self.there.extend(changes.iter().map(|(key, change)| (key.clone(), change.is_some())));
        self.changes.extend(changes);
    }

    fn apply(self, db: &sled::Db) -> sled::Result<()> {
        if self.whole {
            let mut batch = sled::Batch::default();
            for (key, change) in self.changes {
                match change {
                    Some(value) => batch.insert(key.as_bytes(), value),
                    None => batch.remove(key.as_bytes()),
                }
            }
            return db.apply_batch(batch);
        }
        // A batch takes one more write to the disk, for its beginning, before that of what is in it.
        for (key, change) in self.changes {
            match change {
                Some(value) => db.insert(key, value)?,
                None => db.remove(key)?,
            };
        }
        Ok(())
    }
}

type Ack = oneshot::Sender<Result<(), Arc<StoreError>>>;

/// What the thread is sent.
#[derive(Debug)]
enum Message {
    Write { operations: Vec<Operation>, ack: Option<Ack> },
    Close { ack: Ack },
}

/// A handle to the writing thread.
///
/// The channel has no bound of its own: those who wait for their write are as many as there are
/// requests, and the others write one record per replica or function.
#[derive(Debug)]
pub(super) struct Writer {
    sender: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        db: sled::Db,
        dir: &Path,
        large: Arc<LargeValues>,
        references: References,
        ballast: Ballast,
    ) -> Result<Self, StoreError> {
        let path = dir.join("db");
        let file = File::open(&path)
            .map_err(|error| StoreError::failed(format!("opening {}", path.display()), error))?;
        let (sender, receiver) = channel();
        let writing = Thread {
            db,
            file,
            dir: dir.to_owned(),
            large,
            references,
            ballast,
            holds: false,
            dirty: false,
            fails: false,
            broken: None,
        };
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writing.run(&receiver))
            .map_err(|error| StoreError::failed("starting the store's writer", error))?;
        Ok(Self { sender, thread: Mutex::new(Some(thread)) })
    }

    /// Writes, and returns when it is on disk.
    pub(super) async fn write(&self, operations: Vec<Operation>) -> Result<(), StoreError> {
        let (ack, done) = oneshot::channel();
        self.send(Message::Write { operations, ack: Some(ack) })?;
        done.await.map_err(|_| StoreError::Closed)?.map_err(share)
    }

    /// Writes without waiting; a failure is logged by the writer.
    pub(super) fn write_soon(&self, operations: Vec<Operation>) {
        // After close there is nothing left to keep: the daemon has stopped.
        let _ = self.send(Message::Write { operations, ack: None });
    }

    /// Flushes and ends the thread.
    pub(super) async fn close(&self) {
        let (ack, done) = oneshot::channel();
        if self.send(Message::Close { ack }).is_ok() {
            let _ = done.await;
        }
        // It acknowledged as its last act, so this does not block for long.
        self.join();
    }

    fn join(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A panic of the thread was printed by the thread.
            let _ = thread.join();
        }
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        self.sender.send(message).map_err(|_| StoreError::Closed)
    }
}

impl Drop for Writer {
    /// Whoever opens the store next must find it closed: sled holds a file lock.
    fn drop(&mut self) {
        let (ack, _) = oneshot::channel();
        // It fails when the thread has ended.
        let _ = self.send(Message::Close { ack });
        self.join();
    }
}

/// A failure that everyone in the batch is told.
fn share(error: Arc<StoreError>) -> StoreError {
    match &*error {
        StoreError::Full { path, free, reserve } => {
            StoreError::Full { path: path.clone(), free: *free, reserve: *reserve }
        }
        StoreError::ReadOnly { path, begun } => StoreError::ReadOnly { path: path.clone(), begun: *begun },
        StoreError::Broken { path, begun } => StoreError::Broken { path: path.clone(), begun: *begun },
        _ => StoreError::failed("keeping the change", SharedError(error)),
    }
}

/// An error with several owners, as an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SharedError(#[source] Arc<StoreError>);

/// The state of the thread.
struct Thread {
    db: sled::Db,
    /// sled's log file, opened once more for the fdatasync that sled does not do.
    file: File,
    dir: PathBuf,
    large: Arc<LargeValues>,
    references: References,
    /// For the next start.
    ballast: Ballast,
    holds: bool,
    /// Something was applied and not flushed.
    dirty: bool,
    /// The last write failed, which was said.
    fails: bool,
    /// A write that was begun failed, so none is begun any more. sled takes none after an error of its own; and after
    /// one of fdatasync, nobody knows what is on the disk: the kernel may have forgotten what it could not write, and
    /// the next fdatasync would be true of what came after it alone.
    broken: Option<Cause>,
}

/// Why a write failed.
#[derive(Debug, Clone, Copy)]
enum Cause {
    /// The file system takes none.
    ReadOnly,
    /// Whatever the journal says.
    Other,
}

impl Thread {
    fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            let first = match receiver.recv_timeout(if self.dirty { LAZY_FLUSH } else { Duration::MAX }) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    self.flush_and_log();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush_and_log();
                    return;
                }
            };
            let mut pending = Pending::default();
            let mut acks = Vec::new();
            let mut closing = None;
            let looked = self.look();
            for message in std::iter::once(first).chain(receiver.try_iter().take(MAX_BATCH)) {
                match message {
                    Message::Write { operations, ack } => {
                        // What one of them needs beside the database may fail for it alone.
                        if looked.is_ok()
                            && let Err(error) = self.add(&mut pending, operations)
                        {
                            tracing::error!(
                                error = &error as &dyn std::error::Error,
                                "a change could not be kept"
                            );
                            // As below.
                            let _ = ack.map(|ack| ack.send(Err(Arc::new(error))));
                            continue;
                        }
                        acks.extend(ack);
                    }
                    Message::Close { ack } => closing = Some(ack),
                }
            }
            let flush = !acks.is_empty() || closing.is_some();
            let result = looked.and_then(|()| self.write(pending, flush));
            self.say(&result);
            let result = result.map_err(Arc::new);
            for ack in acks {
                // Whoever asked may have gone away; the write stands.
                let _ = ack.send(result.clone());
            }
            if let Some(ack) = closing {
                drop(self);
                let _ = ack.send(result);
                return;
            }
        }
    }

    /// Whether writes are taken now.
    fn look(&mut self) -> Result<(), StoreError> {
        // A file system that does not answer is met by the write.
        let stat = fstatvfs(&self.file).ok();
        if stat.is_some_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY)) {
            return Err(StoreError::ReadOnly { path: self.dir.clone(), begun: false });
        }
        if let Some(cause) = self.broken {
            return Err(self.refusal(cause, false));
        }
        let Some(stat) = stat else { return Ok(()) };
        let free = stat.blocks_available() * stat.fragment_size();
        if free < RESERVE {
            let megabytes = |bytes: u64| bytes / 1_000_000;
            let (free, reserve) = (megabytes(free), megabytes(RESERVE));
            return Err(StoreError::Full { path: self.dir.clone(), free, reserve });
        }
        if !self.holds && free >= RESERVE + ballast::SIZE {
            self.holds = self.ballast.hold().is_ok();
        }
        Ok(())
    }

    /// Says once that writing fails, and once that it does not any more: counts alone are written every few
    /// seconds, and a full disk would fill with words about it.
    fn say(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) if self.fails => tracing::info!("the store can be written again"),
            Err(error) if !self.fails => {
                tracing::error!(error = error as &dyn std::error::Error, "the store could not be written");
            }
            _ => {}
        }
        self.fails = result.is_err();
    }

    fn add(&mut self, pending: &mut Pending, operations: Vec<Operation>) -> Result<(), StoreError> {
        let mut changes: Vec<Change> = Vec::with_capacity(operations.len());
        for operation in operations {
            match operation {
                Operation::Put { key, value } => changes.push((key, Some(self.stored(&value)?))),
                Operation::PutBeside { owner, key, value } => {
                    let changed = changes.iter().rev().find(|(key, _)| *key == owner);
                    let changed = changed.map(|(_, change)| change.is_some());
                    let there = match changed.or_else(|| pending.there.get(&owner).copied()) {
                        Some(there) => there,
                        None => self
                            .db
                            .contains_key(&owner)
                            .map_err(|error| StoreError::failed(format!("reading {owner}"), error))?,
                    };
                    if there {
                        changes.push((key, Some(self.stored(&value)?)));
                    }
                }
                Operation::Delete { key } => changes.push((key, None)),
            }
        }
        // All of them, or none.
        pending.take(changes);
        Ok(())
    }

    /// What stands for a value in the database.
    fn stored(&mut self, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let stored = self.large.store(value).map_err(|error| match error {
            error if is_read_only(&error) => StoreError::ReadOnly { path: self.dir.clone(), begun: false },
            error => error,
        })?;
        self.references.expect(&stored);
        Ok(stored)
    }

    /// Applies what there is, and has it on disk if somebody waits for that.
    fn write(&mut self, pending: Pending, flush: bool) -> Result<(), StoreError> {
        self.dirty = true;
        let applied = self.apply(pending).map_err(|error| StoreError::failed("writing to the store", error));
        applied.and_then(|()| if flush { self.flush() } else { Ok(()) }).map_err(|error| {
            let cause = self.breaks(&error);
            self.refusal(cause, true)
        })
    }

    /// Applies the pending operations, and updates the counts of the files that the rows name.
    fn apply(&mut self, pending: Pending) -> sled::Result<()> {
        let keys: Vec<String> = pending.there.keys().cloned().collect();
        for key in &keys {
            if let Some(old) = self.db.get(key)? {
                self.references.drop(&old);
            }
        }
        pending.apply(&self.db)?;
        for key in &keys {
            if let Some(new) = self.db.get(key)? {
                self.references.add(&new);
            }
        }
        Ok(())
    }

    /// A write has failed that was begun.
    fn breaks(&mut self, error: &StoreError) -> Cause {
        tracing::error!(error = error as &dyn std::error::Error, "a change that was begun has failed");
        let cause = if is_read_only(error) { Cause::ReadOnly } else { Cause::Other };
        (self.broken, self.dirty) = (Some(cause), false);
        cause
    }

    fn refusal(&self, cause: Cause, begun: bool) -> StoreError {
        let path = self.dir.clone();
        match cause {
            Cause::ReadOnly => StoreError::ReadOnly { path, begun },
            Cause::Other => StoreError::Broken { path, begun },
        }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| StoreError::failed("flushing the store", error))?;
        self.file.sync_data().map_err(|error| StoreError::failed("syncing the store", error))?;
        self.dirty = false;
        self.large.remove_dropped(&mut self.references);
        Ok(())
    }

    fn flush_and_log(&mut self) {
        if self.dirty
            && let Err(error) = self.flush()
        {
            self.breaks(&error);
        }
    }
}
