//! Function output: read from FIFOs, kept in bounded files, sent to journald, served by the API.
//!
//! ```text
//! shim -> FIFO -> reader -> split into lines -> Output -> batch -> current.log, previous.log
//!                                      |           `-> followers
//!                                      |-> recent lines, in memory
//!                                      `-> journald
//! ```
//!
//! Invariants
//! - Nothing that a function writes, and nothing that disk, journald or client do, stops a reader.
//!   Lines that have no place to go are dropped, counted, and spoken of once a minute.
//! - Memory is bounded for each replica, function and client, and next to nothing while all are
//!   silent.
//! - The end of the daemon, by `kill -9` too, loses no more than the lines of the last 200 ms and a
//!   line that had no end yet: all else is in the files, or still in the pipe for the next daemon.

mod error;
mod fifo;
mod files;
mod follower;
mod history;
mod journal;
mod lines;
mod output;
mod query;
mod rate_limit;
mod reader;
mod record;

pub use error::LogError;
pub use query::Query;

use std::collections::{HashMap, VecDeque};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::Stream;
use tokio_util::sync::CancellationToken;

use crate::private_file::names_in;
use crate::runtime;
use journal::Journal;
use model::function::{FunctionKey, FunctionName, NamespaceName, ReplicaId};
use model::sync::lock;
use model::{config, wire};
use output::{Common, Output};
use reader::{Recent, Sink};

/// The smallest bound of a function's files that is kept to.
const SMALLEST_FILES: u64 = 64 * 1024;
/// Lines are never longer, whatever the configuration says.
const LONGEST_LINE: usize = 1024 * 1024;
/// Replicas whose last lines are remembered after they are gone.
const REMEMBERED: usize = 32;
/// How long containerd's shim may take to pass on the last output of a process that has ended. It
/// tells of the end without waiting for the output.
const SHIM: Duration = Duration::from_millis(50);
/// How long the end of the daemon may wait for the disk.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// The output of all functions.
#[derive(Debug)]
pub struct Logs {
    /// `<state_dir>/logs`, with `<namespace>/<name>` in it.
    files: PathBuf,
    /// `<run_dir>/io`, with a directory for each replica in it.
    fifos: PathBuf,
    file_limit: u64,
    line_limit: usize,
    journal: Option<Arc<Journal>>,
    common: Arc<Common>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outputs: HashMap<FunctionKey, Arc<Output>>,
    attached: HashMap<ReplicaId, Attached>,
    /// Replicas that are gone, oldest first.
    gone: VecDeque<(ReplicaId, Arc<Recent>)>,
}

/// A replica whose FIFOs are read.
#[derive(Debug, Clone)]
struct Attached {
    stdio: runtime::Stdio,
    recent: Arc<Recent>,
    /// Tells the reader to read what is left, and end.
    drain: CancellationToken,
    /// Rung when it has.
    done: CancellationToken,
}

impl Logs {
    /// Output of functions, with files under `state_dir` and FIFOs under `run_dir`. Must be called,
    /// as all else here, on a tokio runtime.
    pub fn new(config: &config::Logs, state_dir: &Path, run_dir: &Path) -> Result<Arc<Self>, LogError> {
        Self::with_journal(config, state_dir, run_dir, Path::new(journal::SOCKET))
    }

    fn with_journal(
        config: &config::Logs,
        state_dir: &Path,
        run_dir: &Path,
        socket: &Path,
    ) -> Result<Arc<Self>, LogError> {
        let (files, fifos) = (state_dir.join("logs"), run_dir.join("io"));
        for path in [&files, &fifos] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| LogError::Directory { path: path.clone(), source })?;
        }
        let file_limit = config.file_limit.max(SMALLEST_FILES);
        // A line, and its head, must fit into one of the two files even when every byte of it was
        // replaced by a character of three.
        let share = usize::try_from(file_limit / 8).unwrap_or(LONGEST_LINE);
        Ok(Arc::new(Self {
            files,
            fifos,
            file_limit,
            line_limit: config.line_limit.clamp(1, share.min(LONGEST_LINE)),
            journal: if config.journal { Journal::find(socket).map(Arc::new) } else { None },
            common: Arc::default(),
            state: Mutex::default(),
        }))
    }

    /// Makes the FIFOs of a replica, or takes up those that are there, and reads them from now on.
    /// Doing so again changes nothing.
    pub fn open(&self, key: &FunctionKey, id: &ReplicaId) -> Result<runtime::Stdio, LogError> {
        let mut state = lock(&self.state);
        if let Some(attached) = state.attached.get(id) {
            return Ok(attached.stdio.clone());
        }
        let (stdio, pipes) = fifo::open(&self.fifos.join(id.as_str()))?;
        let attached = Attached {
            stdio: stdio.clone(),
            recent: Arc::default(),
            drain: CancellationToken::new(),
            done: CancellationToken::new(),
        };
        let output = self.output(&mut state, key);
        let (recent, common) = (attached.recent.clone(), self.common.clone());
        let sink = Sink::new(id.clone(), output, recent, common, self.journal.clone());
        let reading = reader::read(pipes, self.line_limit, sink, attached.drain.clone());
        let done = attached.done.clone().drop_guard();
        self.common.tasks.spawn(async move {
            reading.await;
            drop(done);
        });
        state.attached.insert(id.clone(), attached);
        Ok(stdio)
    }

    /// Reads what is left in a replica's FIFOs and removes them. Finding none is success.
    ///
    /// To be called when the replica's task has been removed, so that its last words have arrived.
    pub async fn close(&self, id: &ReplicaId) {
        let attached = lock(&self.state).attached.get(id).cloned();
        if let Some(attached) = attached {
            attached.drain.cancel();
            attached.done.cancelled().await;
        }
        fifo::remove(&self.fifos.join(id.as_str()));
        let mut state = lock(&self.state);
        if let Some(attached) = state.attached.remove(id) {
            state.gone.push_back((id.clone(), attached.recent));
            if state.gone.len() > REMEMBERED {
                state.gone.pop_front();
            }
        }
    }

    /// Every replica that has FIFOs, whether they are read or were left by an earlier daemon.
    pub fn attached(&self) -> Vec<ReplicaId> {
        names(&self.fifos).map(|name| ReplicaId::from_existing(&name)).collect()
    }

    /// Every function that has files, deployed or not.
    pub fn kept(&self) -> Vec<FunctionKey> {
        names(&self.files)
            .filter_map(|namespace| namespace.parse::<NamespaceName>().ok())
            .flat_map(|namespace| {
                names(&self.files.join(namespace.as_str()))
                    .filter_map(|name| name.parse::<FunctionName>().ok())
                    .map(move |name| FunctionKey::new(name, namespace.clone()))
            })
            .collect()
    }

    /// Bytes that a function's output takes of the disk.
    pub fn size_of(&self, key: &FunctionKey) -> u64 {
        let directory = self.files.join(key.namespace.as_str()).join(key.name.as_str());
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
    }

    /// The lines of a function, oldest first; none of an unknown one. With `follow` the stream ends
    /// when the function's output is removed; else with the newest line.
    pub fn query(&self, key: &FunctionKey, query: Query) -> impl Stream<Item = wire::LogLine> + Send + use<> {
        let mut state = lock(&self.state);
        let output = if query.follow {
            self.output(&mut state, key)
        } else {
            // Not kept: a question about a function that does not exist must leave nothing.
            state.outputs.get(key).cloned().unwrap_or_else(|| Arc::new(self.new_output(key)))
        };
        drop(state);
        query::lines(output, query)
    }

    /// The last lines that a replica wrote (at most 20, the beginning of each), oldest first; kept for
    /// a little while after [`Logs::close`].
    pub fn last_lines(&self, id: &ReplicaId, n: usize) -> Vec<String> {
        self.recent(id).map(|recent| recent.last(n)).unwrap_or_default()
    }

    /// Returns the last lines that a replica wrote, as [`Logs::last_lines`] does, after the first lines of the burst
    /// that they end: the reason stands above a stack trace.
    pub fn last_burst(&self, id: &ReplicaId, n: usize) -> Vec<String> {
        self.recent(id).map(|recent| recent.ending(n)).unwrap_or_default()
    }

    fn recent(&self, id: &ReplicaId) -> Option<Arc<Recent>> {
        let state = lock(&self.state);
        let gone = || state.gone.iter().rev().find(|(gone, _)| gone == id).map(|(_, recent)| recent);
        state.attached.get(id).map(|attached| &attached.recent).or_else(gone).cloned()
    }

    /// Returns the last burst of a replica whose process has just ended: waits for what is still on its way through
    /// the shim, and closes the replica.
    pub async fn last_words(&self, id: &ReplicaId, n: usize) -> Vec<String> {
        tokio::time::sleep(SHIM).await;
        self.close(id).await;
        self.last_burst(id, n)
    }

    /// Deletes a function's files and ends the streams of those who follow it. Its replicas should
    /// be closed before; what they still write is dropped.
    pub async fn remove(&self, key: &FunctionKey) {
        let output = {
            let mut state = lock(&self.state);
            self.output(&mut state, key)
        };
        output.flush().await;
        let files = output.files().clone();
        let removed = tokio::task::spawn_blocking(move || lock(&files).remove());
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(function = %key, %error, "output could not be deleted");
        }
        lock(&self.state).outputs.remove(key);
        output.end_followers();
    }

    /// Streams of those who follow end, now and from now on, with what is there.
    pub fn end_following(&self) {
        self.common.leaving.cancel();
    }

    /// Stops reading and writes out what was read. The FIFOs stay, for the next daemon; so does
    /// what is in them. Streams of those who follow end.
    pub async fn shutdown(&self) {
        self.common.halt.cancel();
        self.common.tasks.close();
        if tokio::time::timeout(SHUTDOWN_WITHIN, self.common.tasks.wait()).await.is_err() {
            tracing::warn!("output of functions was not written in time: the disk is too slow");
        }
        self.end_following();
    }

    /// How many lines were lost: those that could not be written, and those that were not sent to
    /// journald.
    pub fn lost(&self) -> (u64, u64) {
        (self.common.unwritten.total(), self.common.unsent.total())
    }

    /// Returns the number of a function's lines that were dropped over a replica's rate, as far as it was logged.
    pub fn dropped(&self, key: &FunctionKey) -> u64 {
        lock(&self.state).outputs.get(key).map_or(0, |output| output.dropped(0))
    }

    /// Adds a line of the daemon to a function's output.
    pub fn remark(&self, key: &FunctionKey, text: &str) {
        let output = self.output(&mut lock(&self.state), key);
        output.remark(record::now(), text);
    }

    fn output(&self, state: &mut State, key: &FunctionKey) -> Arc<Output> {
        state.outputs.entry(key.clone()).or_insert_with(|| Arc::new(self.new_output(key))).clone()
    }

    fn new_output(&self, key: &FunctionKey) -> Output {
        let directory = self.files.join(key.namespace.as_str()).join(key.name.as_str());
        Output::new(key.clone(), directory, self.file_limit, self.common.clone())
    }
}

impl Drop for Logs {
    /// The readers end with what they have read, and leave the rest for the next daemon.
    fn drop(&mut self) {
        self.common.halt.cancel();
    }
}

/// The names in a directory; none if it cannot be read.
fn names(directory: &Path) -> impl Iterator<Item = String> + use<> {
    names_in(directory).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixDatagram;

    use futures_util::StreamExt;

    use super::*;

    fn config() -> config::Logs {
        config::Logs { file_limit: 1 << 20, line_limit: 4096, journal: true }
    }

    #[tokio::test]
    async fn a_line_reaches_every_place() {
        let dir = temporary::TemporaryDirectory::new();
        let socket = dir.path().join("journal");
        let journald = UnixDatagram::bind(&socket).expect("bound");
        journald.set_nonblocking(true).expect("set");
        let logs = Logs::with_journal(&config(), dir.path(), dir.path(), &socket).expect("logs");
        let key = FunctionKey::parse("f.ns").expect("a key");
        let id = ReplicaId::from_existing("f-1");
        let stdio = logs.open(&key, &id).expect("opened");
        let following = logs.query(&key, Query { follow: true, ..Query::default() });
        let write = |path: &Path, text: &[u8]| {
            fs::OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|mut file| file.write_all(text))
                .expect("written");
        };
        write(&stdio.stdout, b"to stdout\n");
        let mut following = std::pin::pin!(following);
        assert_eq!(following.next().await.expect("a line").text, "to stdout");
        write(&stdio.stderr, b"to stderr, not ended");
        assert_eq!(logs.last_words(&id, 2).await, ["to stdout", "to stderr, not ended"]);
        assert_eq!(logs.last_lines(&id, 1), ["to stderr, not ended"]);
        assert_eq!(following.next().await.expect("a line").text, "to stderr, not ended");
        logs.close(&id).await;

        assert_eq!(logs.last_lines(&id, 9).len(), 2);
        let kept: Vec<_> = logs.query(&key, Query::default()).collect().await;
        assert_eq!(
            kept.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
            ["to stdout", "to stderr, not ended"]
        );
        assert_eq!(
            (kept[0].name.as_str(), kept[0].namespace.as_str(), kept[0].instance.as_str()),
            ("f", "ns", "f-1")
        );
        for expected in ["MESSAGE=to stdout\nPRIORITY=6\n", "MESSAGE=to stderr, not ended\nPRIORITY=5\n"] {
            let mut datagram = [0; 999];
            let n = journald.recv(&mut datagram).expect("a datagram");
            assert!(datagram[..n].starts_with(expected.as_bytes()));
        }

        assert_eq!(logs.kept(), std::slice::from_ref(&key));
        logs.remove(&key).await;
        assert!(following.next().await.is_none(), "the stream of a removed function ends");
        assert!(logs.kept().is_empty() && logs.attached().is_empty());
        assert_eq!(logs.query(&key, Query::default()).count().await, 0);
    }

    #[tokio::test]
    async fn opening_again_changes_nothing_and_asking_leaves_nothing() {
        let dir = temporary::TemporaryDirectory::new();
        let logs = Logs::with_journal(&config(), dir.path(), dir.path(), Path::new("/none")).expect("logs");
        let key = FunctionKey::parse("f.ns").expect("a key");
        let id = ReplicaId::from_existing("f-1");
        assert_eq!(logs.open(&key, &id).expect("opened"), logs.open(&key, &id).expect("opened"));
        assert_eq!(logs.attached(), std::slice::from_ref(&id));
        let other = FunctionKey::parse("other.ns").expect("a key");
        assert_eq!(logs.query(&other, Query::default()).count().await, 0);
        assert_eq!(lock(&logs.state).outputs.len(), 1);
        // A directory that is half removed is taken up as well.
        logs.close(&id).await;
        fs::create_dir_all(dir.path().join("io/f-1")).expect("made");
        logs.open(&key, &id).expect("opened");
        logs.close(&id).await;
        // And one that nobody reads is removed.
        fs::create_dir_all(dir.path().join("io/f-2")).expect("made");
        assert_eq!(logs.attached(), [ReplicaId::from_existing("f-2")]);
        logs.close(&ReplicaId::from_existing("f-2")).await;
        assert!(logs.attached().is_empty());
    }

    #[tokio::test]
    async fn something_else_in_the_place_of_a_fifo_is_an_error_that_leaves_nothing() {
        let dir = temporary::TemporaryDirectory::new();
        let logs = Logs::with_journal(&config(), dir.path(), dir.path(), Path::new("/none")).expect("logs");
        let key = FunctionKey::parse("f.ns").expect("a key");
        fs::create_dir_all(dir.path().join("io/f-1")).expect("made");
        fs::write(dir.path().join("io/f-1/stderr"), "").expect("written");
        let error = logs.open(&key, &ReplicaId::from_existing("f-1")).expect_err("no FIFO");
        assert!(error.to_string().contains("io/f-1/stderr"), "{error}");
        assert!(lock(&logs.state).attached.is_empty());
        let blocked =
            Logs::with_journal(&config(), &dir.path().join("io/f-1/stderr"), dir.path(), Path::new("/none"));
        assert!(matches!(blocked, Err(LogError::Directory { .. })));
    }
}
