//! The one thread that writes: takes what is waiting, applies it as one batch, flushes, syncs, and
//! only then tells those who wait. Writers that come together share one flush.

use std::collections::HashSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::ballast::{self, Ballast};
use super::blobs::{LargeValues, References};
use super::database::{Absence, Database};
use super::error::{StoreError, is_read_only};
use super::functions::Functions;
use super::{backup, disk, functions, mark, numbers, understand};
use model::function::{FunctionKey, Incarnation};
use model::sync::lock;

/// Operations in one batch at most.
const MAX_BATCH: usize = 1024;
/// The first pause before a database is opened anew that took no writes, and the longest.
const REOPEN_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a write that nobody waits for may stay in memory.
const LAZY_FLUSH: Duration = Duration::from_millis(200);

/// One change.
#[derive(Debug)]
pub(super) enum Operation {
    Put {
        key: String,
        value: Vec<u8>,
    },
    /// Rows of a function, all of them or none: none if that life of it has ended by then.
    PutOwned {
        function: FunctionKey,
        incarnation: Incarnation,
        rows: Vec<(String, Vec<u8>)>,
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
    /// The keys that it touches.
    keys: HashSet<String>,
    /// Some of it must be there as a whole, or not at all.
    whole: bool,
}

impl Pending {
    /// Takes these, too: in this order, after what it has.
    fn take(&mut self, changes: Vec<Change>) {
        self.whole |= changes.len() > 1;
        self.keys.extend(changes.iter().map(|(key, _)| key.clone()));
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
    Freeze { state_dir: PathBuf, to: PathBuf, ack: oneshot::Sender<Result<(), StoreError>> },
    Repair { ack: oneshot::Sender<Result<PathBuf, StoreError>> },
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
        database: Arc<Database>,
        open: Option<Open>,
        large: Arc<LargeValues>,
        ballast: Ballast,
        functions: Functions,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = channel();
        let writing = Thread {
            database,
            open,
            large,
            ballast,
            functions,
            reopen_at: Instant::now(),
            pause: REOPEN_PAUSES.0,
            holds: false,
            dirty: false,
            fails: false,
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

    /// Has a copy taken of what is stored, between two writes.
    pub(super) async fn freeze(&self, state_dir: PathBuf, to: PathBuf) -> Result<(), StoreError> {
        let (ack, done) = oneshot::channel();
        self.send(Message::Freeze { state_dir, to, ack })?;
        done.await.map_err(|_| StoreError::Closed)?
    }

    /// Puts a database aside that cannot be opened, and begins with an empty one; returns where it is then.
    pub(super) async fn repair(&self) -> Result<PathBuf, StoreError> {
        let (ack, done) = oneshot::channel();
        self.send(Message::Repair { ack })?;
        done.await.map_err(|_| StoreError::Closed)?
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
        StoreError::OutOfService { path, reason } => {
            StoreError::OutOfService { path: path.clone(), reason: reason.clone() }
        }
        StoreError::Closed => StoreError::Closed,
        _ => StoreError::failed("keeping the change", SharedError(error)),
    }
}

/// An error with several owners, as an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SharedError(#[source] Arc<StoreError>);

/// The state of the thread.
struct Thread {
    database: Arc<Database>,
    /// Absent while the database is away. sled takes no more writes after one that failed; and after an fdatasync that
    /// failed nobody knows what is on the disk: the kernel may have forgotten what it could not write, and the next
    /// fdatasync would be true of what came after it alone. So the database is closed, and opened anew.
    open: Option<Open>,
    large: Arc<LargeValues>,
    /// For the next start.
    ballast: Ballast,
    /// The functions whose rows may be written.
    functions: Functions,
    holds: bool,
    /// Something was applied and not flushed.
    dirty: bool,
    /// The last write failed, which was said.
    fails: bool,
    /// When it is tried next to open the database anew, and how long to wait after that.
    reopen_at: Instant,
    pause: Duration,
}

/// The database while it is open.
pub(super) struct Open {
    pub(super) db: sled::Db,
    /// sled's log file, opened once more for the fdatasync that sled does not do.
    pub(super) file: File,
    pub(super) references: References,
    /// The mark of the numbers of calls.
    reserved: u64,
}

impl Thread {
    fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            let patience = match (&self.open, self.dirty) {
                (Some(_), true) => LAZY_FLUSH,
                (Some(_), false) => Duration::MAX,
                (None, _) => self.pause,
            };
            let first = match receiver.recv_timeout(patience) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    self.flush_and_log();
                    if self.open.is_none() {
                        // It was said when it failed.
                        let _ = self.look();
                    }
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
            let mut freezing = Vec::new();
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
                    Message::Freeze { state_dir, to, ack } => freezing.push((state_dir, to, ack)),
                    Message::Repair { ack } => {
                        // What is in this batch meets the store that was made in its place.
                        let _ = ack.send(self.repair());
                    }
                    Message::Close { ack } => closing = Some(ack),
                }
            }
            let flush = !acks.is_empty() || closing.is_some() || !freezing.is_empty();
            let result = looked.and_then(|()| self.write(pending, flush));
            self.say(&result);
            let result = result.map_err(Arc::new);
            for (state_dir, to, ack) in freezing {
                let frozen = match &result {
                    Ok(()) => backup::freeze(&state_dir, &self.functions, &to)
                        .map_err(|error| functions::failed("copying to", &to, error)),
                    Err(error) => Err(share(error.clone())),
                };
                let _ = ack.send(frozen);
            }
            for ack in acks {
                // Whoever asked may have gone away; the write stands.
                let _ = ack.send(result.clone());
            }
            if let Some(ack) = closing {
                self.database.withdraw(Absence::Closed);
                drop(self);
                let _ = ack.send(result);
                return;
            }
        }
    }

    /// Whether writes are taken now.
    fn look(&mut self) -> Result<(), StoreError> {
        let free = disk::check(self.database.dir())?;
        if self.open.is_none() {
            self.reopen()?;
        }
        let Some(free) = free else { return Ok(()) };
        if !self.holds && free >= disk::RESERVE + ballast::SIZE {
            self.holds = self.ballast.hold().is_ok();
        }
        Ok(())
    }

    /// Opens the database anew after a write that failed. Rows of changes that were refused may be there: whoever
    /// asked for them repeats them, or takes them back.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let absence = self.database.absence().unwrap_or(Absence::Broken);
        let error = absence.error(self.database.dir(), false);
        let may_be_tried = matches!(absence, Absence::Broken | Absence::ReadOnly);
        if !may_be_tried || Instant::now() < self.reopen_at {
            return Err(error);
        }
        let opened = self.database.guarded(|| {
            let (db, file) = self.database.open(&self.ballast)?;
            Open::new(db, file, &self.large)
        });
        match opened {
            Ok(open) => {
                tracing::warn!(store = %self.database.dir().display(), "the store was opened anew after a write that failed");
                self.database.publish(open.db.clone());
                self.open = Some(open);
                self.pause = REOPEN_PAUSES.0;
                Ok(())
            }
            Err(reason) => {
                tracing::error!(
                    error = &reason as &dyn std::error::Error,
                    "the store could not be opened anew; trying again"
                );
                self.reopen_at = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(REOPEN_PAUSES.1);
                Err(error)
            }
        }
    }

    /// Puts a database aside that cannot be opened, and makes an empty one in its place.
    fn repair(&mut self) -> Result<PathBuf, StoreError> {
        if self.open.is_some() {
            return Err(StoreError::Unusable {
                path: self.database.dir().to_owned(),
                reason: "it is open and in use, and needs no repair".into(),
            });
        }
        let damaged = self.database.set_aside()?;
        let (db, file) = self.database.open(&self.ballast)?;
        mark(&db, &self.large)?;
        self.database.publish(db.clone());
        self.open = Some(Open::new(db, file, &self.large)?);
        tracing::warn!(damaged = %damaged.display(), "the store of queued calls was set aside, and begins anew");
        Ok(damaged)
    }

    /// Says once that writing fails, and once that it does not any more: counts alone are written every few
    /// seconds, and a full disk would fill with words about it.
    fn say(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) if self.fails => tracing::info!("the store can be written again"),
            // Said when it was opened.
            Err(StoreError::OutOfService { .. } | StoreError::Held { .. }) => {}
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
                Operation::PutOwned { function, incarnation, rows } => {
                    if self.functions.incarnation(&function) == Some(incarnation) {
                        for (key, value) in rows {
                            changes.push((key, Some(self.stored(&value)?)));
                        }
                    }
                }
                Operation::Delete { key } => changes.push((key, None)),
            }
        }
        self.reserve_numbers(&mut changes)?;
        // All of them, or none.
        pending.take(changes);
        Ok(())
    }

    /// Adds the mark of the numbers of calls where one comes near to it.
    fn reserve_numbers(&mut self, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let keys = changes.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key);
        let Some(mark) = keys.filter_map(|key| numbers::reserve(open.reserved, key)).max() else {
            return Ok(());
        };
        open.reserved = mark;
        let value = self.stored(mark.to_string().as_bytes())?;
        changes.push((numbers::KEY.to_owned(), Some(value)));
        Ok(())
    }

    /// What stands for a value in the database.
    fn stored(&mut self, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let stored = self.large.store(value).map_err(|error| match error {
            error if is_read_only(&error) => Absence::ReadOnly.error(self.database.dir(), false),
            error => error,
        })?;
        if let Some(open) = &mut self.open {
            open.references.expect(&stored);
        }
        Ok(stored)
    }

    /// Applies what there is, and has it on disk if somebody waits for that.
    fn write(&mut self, pending: Pending, flush: bool) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else {
            return Err(StoreError::Broken { path: self.database.dir().to_owned(), begun: false });
        };
        self.dirty = true;
        let large = &self.large;
        // sled panics where it finds damage.
        let done = catch_unwind(AssertUnwindSafe(|| {
            open.apply(pending).map_err(|error| StoreError::failed("writing to the store", error))?;
            if flush { open.flush(large) } else { Ok(()) }
        }));
        let done =
            done.unwrap_or_else(|_| Err(StoreError::failed("writing to the store", "sled has panicked")));
        self.dirty &= !flush;
        done.map_err(|error| self.close(&error))
    }

    /// Closes the database after a write that was begun has failed.
    fn close(&mut self, error: &StoreError) -> StoreError {
        tracing::error!(error = error as &dyn std::error::Error, "a change that was begun has failed");
        let absence = if is_read_only(error) { Absence::ReadOnly } else { Absence::Broken };
        let refusal = absence.error(self.database.dir(), true);
        self.database.withdraw(absence);
        self.dirty = false;
        self.open = None;
        self.reopen_at = Instant::now() + self.pause;
        refusal
    }

    fn flush_and_log(&mut self) {
        if self.dirty
            && let Some(open) = &mut self.open
        {
            self.dirty = false;
            if let Err(error) = open.flush(&self.large) {
                self.close(&error);
            }
        }
    }
}

impl Open {
    /// Reads of an open database what its writer has to know. Must run before there is one.
    pub(super) fn new(db: sled::Db, file: File, large: &LargeValues) -> Result<Self, StoreError> {
        let failed = |error| StoreError::failed("reading the store", error);
        let mut references = References::default();
        for row in db.iter() {
            references.add(&row.map_err(failed)?.1);
        }
        let mark = db.get(numbers::KEY).map_err(failed)?;
        let mark = mark.map(|stored| understand(numbers::KEY, &large.resolve(&stored)?)).transpose()?;
        Ok(Self { db, file, references, reserved: mark.unwrap_or(0) })
    }

    /// Applies the pending operations, and updates the counts of the files that the rows name.
    fn apply(&mut self, pending: Pending) -> sled::Result<()> {
        let keys: Vec<String> = pending.keys.iter().cloned().collect();
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

    fn flush(&mut self, large: &LargeValues) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| StoreError::failed("flushing the store", error))?;
        self.file.sync_data().map_err(|error| StoreError::failed("syncing the store", error))?;
        large.remove_dropped(&mut self.references);
        Ok(())
    }
}
