//! The output of one function: gives each line its time, hands it to those who follow, and writes
//! batches to the files.
//!
//! Invariants
//! - Taking a line never waits for the disk. A reader may wait for room, but for [`PATIENCE`] only,
//!   and not again before the disk has answered; lines that find no room are counted.
//! - A batch fits into one file, and is written whole or not at all.
//! - A function that is silent holds no buffer, no timer and no task.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::files::Files;
use super::follower::Follower;
use super::history;
use super::rate_limit::Complaint;
use super::record::{self, Clock, DAEMON, Source, Time};
use crate::private_file::blocking;
use model::function::FunctionKey;
use model::sync::lock;
use model::wire::LogLine;

/// Lines are written at the latest after this time, or when there are this many bytes of them.
const FLUSH_AFTER: Duration = Duration::from_millis(200);
const FLUSH_AT: usize = 64 * 1024;
/// Bytes that may wait for the disk; as many again may be on their way to it.
const BATCH: usize = 128 * 1024;
/// How long a reader waits for a disk that does not keep up, before it drops lines.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a question waits for lines that are on their way to the disk.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// Clients that may follow one function; more get what is kept and no more.
const MAX_FOLLOWERS: usize = 64;

/// What the outputs of all functions share.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// Tasks that write.
    pub(super) tasks: TaskTracker,
    /// Rung when the daemon stops: write at once.
    pub(super) halt: CancellationToken,
    /// Rung when those who follow are to be let go.
    pub(super) leaving: CancellationToken,
    /// Lines that could not be written.
    pub(super) unwritten: Complaint,
    /// Lines that could not be sent to journald.
    pub(super) unsent: Complaint,
}

/// The output of one function.
#[derive(Debug)]
pub(super) struct Output {
    key: FunctionKey,
    common: Arc<Common>,
    batch_limit: usize,
    files: Arc<Mutex<Files>>,
    state: Mutex<State>,
    /// Rung when the writer should not wait any longer.
    hurry: Notify,
    /// Rung when a batch has been taken, and there is room again.
    taken: Notify,
    /// How many lines have been written, or given up.
    settled: watch::Sender<u64>,
    /// Lines that were dropped over a replica's rate.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct State {
    clock: Clock,
    batch: Batch,
    /// Lines that came in.
    pushed: u64,
    /// Lines that are not in the files, of which the files do not tell yet.
    lost: u64,
    /// Whether there is a task that writes.
    writing: bool,
    /// Whether the disk has kept a reader waiting, and not answered since.
    stuck: bool,
    followers: Vec<Weak<Follower>>,
}

/// Records that wait to be written.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// How many lines of the function they are.
    lines: u64,
    /// How many lost lines they tell of.
    told: u64,
}

/// There is no room for a line now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Output {
    /// The output of `key`, kept in `directory` within `file_limit` bytes, going on after what is
    /// there.
    pub(super) fn new(key: FunctionKey, directory: PathBuf, file_limit: u64, common: Arc<Common>) -> Self {
        let files = Files::new(directory, file_limit);
        let last = history::last_time(&files.segments()).unwrap_or(0);
        Self {
            key,
            common,
            // Small against a file, as a file is left behind when the next batch does not fit.
            batch_limit: usize::try_from(file_limit / 8).unwrap_or(BATCH).min(BATCH),
            files: Arc::new(Mutex::new(files)),
            state: Mutex::new(State {
                clock: Clock::after(last),
                batch: Batch::default(),
                pushed: 0,
                lost: 0,
                writing: false,
                stuck: false,
                followers: Vec::new(),
            }),
            hurry: Notify::new(),
            taken: Notify::new(),
            settled: watch::Sender::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self) -> &FunctionKey {
        &self.key
    }

    pub(super) fn files(&self) -> &Arc<Mutex<Files>> {
        &self.files
    }

    /// Takes a line that was read at `now`. On [`Full`] nothing has happened, and
    /// [`Output::room`] says when to come again.
    pub(super) fn push(
        self: &Arc<Self>,
        now: i64,
        instance: &str,
        source: Source,
        text: &str,
    ) -> Result<(), Full> {
        let mut state = lock(&self.state);
        if !state.stuck && !self.has_room(&state, instance, text) {
            return Err(Full);
        }
        self.take(&mut state, now, instance, source, text);
        Ok(())
    }

    /// Takes a line for those who follow, and for the files if there is room.
    pub(super) fn push_anyway(self: &Arc<Self>, now: i64, instance: &str, source: Source, text: &str) {
        self.take(&mut lock(&self.state), now, instance, source, text);
    }

    /// Adds a line of the daemon.
    pub(super) fn remark(self: &Arc<Self>, now: i64, text: &str) {
        self.push_anyway(now, DAEMON, Source::Daemon, text);
    }

    /// Counts lines that were dropped over a replica's rate, and returns the total.
    pub(super) fn dropped(&self, lines: u64) -> u64 {
        self.dropped.fetch_add(lines, Ordering::Relaxed) + lines
    }

    /// Waits until there is room, but not for long.
    pub(super) async fn room(&self) {
        let made = async {
            loop {
                let taken = self.taken.notified();
                if lock(&self.state).batch.bytes.is_empty() {
                    return;
                }
                self.hurry.notify_one();
                taken.await;
            }
        };
        if timeout(PATIENCE, made).await.is_err() {
            lock(&self.state).stuck = true;
        }
    }

    /// Waits until all lines that were taken so far are in the files, or given up; not for long.
    pub(super) async fn flush(&self) {
        let pushed = lock(&self.state).pushed;
        let mut settled = self.settled.subscribe();
        self.hurry.notify_one();
        let _ = timeout(FLUSH_WITHIN, settled.wait_for(|settled| *settled >= pushed)).await;
    }

    /// The time of the newest line.
    pub(super) fn last_time(&self) -> Time {
        lock(&self.state).clock.last()
    }

    /// Lets a client follow, from the line after the returned time on. `None` when too many do.
    pub(super) fn follow(&self) -> (Time, Option<Arc<Follower>>) {
        let mut state = lock(&self.state);
        let last = state.clock.last();
        state.followers.retain(|follower| follower.strong_count() > 0);
        if state.followers.len() >= MAX_FOLLOWERS {
            return (last, None);
        }
        let follower = Arc::new(Follower::default());
        state.followers.push(Arc::downgrade(&follower));
        (last, Some(follower))
    }

    /// Rung when all who follow any function are to be let go.
    pub(super) fn leaving(&self) -> &CancellationToken {
        &self.common.leaving
    }

    /// Ends the streams of all who follow.
    pub(super) fn end_followers(&self) {
        for follower in std::mem::take(&mut lock(&self.state).followers) {
            if let Some(follower) = follower.upgrade() {
                follower.end();
            }
        }
    }

    fn has_room(&self, state: &State, instance: &str, text: &str) -> bool {
        let waiting = state.batch.bytes.len();
        waiting == 0 || waiting + record::size(instance, text) <= self.batch_limit
    }

    fn take(self: &Arc<Self>, state: &mut State, now: i64, instance: &str, source: Source, text: &str) {
        state.pushed += 1;
        if state.lost > 0 {
            self.tell_of_lost(state, now);
        }
        let room = self.has_room(state, instance, text);
        let time = state.clock.next(now);
        if room {
            record::write(&mut state.batch.bytes, time, instance, source, text);
            state.batch.lines += 1;
        } else {
            state.lost += 1;
            self.complain(1, &"the disk is too slow");
        }
        if !state.followers.is_empty() {
            self.hand_out(state, instance, text);
        }
        if state.batch.bytes.len() >= FLUSH_AT.min(self.batch_limit / 2) {
            self.hurry.notify_one();
        }
        if !state.writing {
            state.writing = true;
            self.common.tasks.spawn(write_out(self.clone()));
        }
    }

    /// Notes in the files how many lines are missing here.
    fn tell_of_lost(&self, state: &mut State, now: i64) {
        // Only once there is room for what follows too, or remarks would fill it.
        if state.batch.bytes.len() <= self.batch_limit / 2 {
            let remark = format!("[lines missing here: {}; the disk was full or too slow]", state.lost);
            let time = state.clock.next(now);
            record::write(&mut state.batch.bytes, time, DAEMON, Source::Daemon, &remark);
            state.batch.told += std::mem::take(&mut state.lost);
        }
    }

    fn complain(&self, lines: u64, reason: &dyn std::fmt::Display) {
        self.common.unwritten.lost(lines, |lines| {
            tracing::warn!(function = %self.key, lines, error = %reason, "output of functions could not be written and was dropped");
        });
    }

    /// Gives a line to everyone who follows; it is made once, and only if somebody has room.
    fn hand_out(&self, state: &mut State, instance: &str, text: &str) {
        let State { clock, followers, .. } = state;
        let mut made = None;
        followers.retain(|follower| {
            let Some(follower) = follower.upgrade() else { return false };
            follower.put(text.len(), || {
                made.get_or_insert_with(|| Arc::new(self.line(&clock.last(), instance, text.to_owned())))
                    .clone()
            });
            true
        });
    }

    /// A line as clients see it.
    pub(super) fn line(&self, time: &Time, instance: &str, text: String) -> LogLine {
        LogLine {
            name: self.key.name.to_string(),
            namespace: self.key.namespace.to_string(),
            instance: instance.to_owned(),
            timestamp: time.to_string(),
            text,
        }
    }
}

/// Writes batches until there is nothing left to write.
async fn write_out(output: Arc<Output>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FLUSH_AFTER) => {}
            () = output.hurry.notified() => {}
            () = output.common.halt.cancelled() => {}
        }
        let (batch, upto) = {
            let mut state = lock(&output.state);
            (std::mem::take(&mut state.batch), state.pushed)
        };
        output.taken.notify_waiters();
        let Batch { bytes, lines, told } = batch;
        let files = output.files.clone();
        let result = blocking(move || lock(&files).append(&bytes)).await;
        if let Err(error) = &result {
            output.complain(lines, error);
        }
        let done = {
            let mut state = lock(&output.state);
            if result.is_err() {
                state.lost += lines + told;
            }
            state.stuck = false;
            state.writing = !state.batch.bytes.is_empty();
            !state.writing
        };
        output.settled.send_replace(upto);
        if done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::history::{Filter, History};

    fn output(directory: PathBuf) -> Arc<Output> {
        let key = FunctionKey::parse("f.ns").expect("a key");
        Arc::new(Output::new(key, directory, 1 << 20, Arc::default()))
    }

    fn texts(output: &Output) -> Vec<String> {
        lines(output).into_iter().map(|line| line.text).collect()
    }

    fn lines(output: &Output) -> Vec<LogLine> {
        let segments = output.files().lock().expect("not poisoned").segments();
        let filter = Filter { since: None, until: None, instance: None };
        let mut history = History::new(output.key().clone(), segments, filter, None);
        std::iter::from_fn(|| history.next()).flatten().collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_hangs_holds_a_reader_up_once_and_lines_are_counted() {
        let dir = temporary::TemporaryDirectory::new();
        let output = output(dir.path().join("ns/f"));
        let line = "x".repeat(1000);
        let (mut waits, mut taken) = (0, 0u32);
        std::thread::scope(|scope| {
            let (locked, is_locked) = std::sync::mpsc::channel();
            let (release, released) = std::sync::mpsc::channel::<()>();
            let files = output.files();
            scope.spawn(move || {
                let guard = files.lock().expect("not poisoned");
                locked.send(()).expect("waited for");
                let _ = released.recv();
                drop(guard);
            });
            is_locked.recv().expect("locked");
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    for n in 0..1000 {
                        let text = format!("{n:03}{line}");
                        if output.push(n, "r", Source::Stdout, &text) == Err(Full) {
                            waits += 1;
                            output.room().await;
                            output.push_anyway(n, "r", Source::Stdout, &text);
                        }
                        taken += 1;
                    }
                });
            });
            release.send(()).expect("waited for");
        });
        // One wait for the batch that the writer took at once, one for the patience to end.
        assert!(waits <= 2, "{waits} waits");
        assert_eq!(taken, 1000);
        output.flush().await;
        output.push(1000, "r", Source::Stdout, "after").expect("room");
        output.flush().await;
        let texts = texts(&output);
        let kept = texts.iter().filter(|text| text.ends_with("xx")).count();
        assert!(kept >= BATCH / 1100, "{kept} lines kept");
        assert_eq!(
            texts[kept],
            format!("[lines missing here: {}; the disk was full or too slow]", 1000 - kept)
        );
        assert_eq!(texts[kept + 1..], ["after"]);
        assert_eq!(output.common.unwritten.total(), 1000 - kept as u64);
    }

    #[tokio::test]
    async fn a_disk_that_fails_stops_nothing_and_its_gap_is_told() {
        let dir = temporary::TemporaryDirectory::new();
        std::fs::write(dir.path().join("ns"), "in the way").expect("written");
        let output = output(dir.path().join("ns/f"));
        let (_, follower) = output.follow();
        for n in 0..3 {
            output.push(n, "r", Source::Stdout, "lost").expect("room");
            output.flush().await;
        }
        std::fs::remove_file(dir.path().join("ns")).expect("removed");
        output.push(4, "r", Source::Stdout, "kept").expect("room");
        output.flush().await;
        assert_eq!(texts(&output), ["[lines missing here: 3; the disk was full or too slow]", "kept"]);
        let follower = follower.expect("room for one");
        for _ in 0..4 {
            assert!(matches!(follower.next().await, Some(super::super::follower::Followed::Line(_))));
        }
    }

    #[tokio::test]
    async fn lines_are_kept_in_order_after_a_restart_with_the_clock_set_back() {
        let dir = temporary::TemporaryDirectory::new();
        let day = 86_400_000_000_000;
        for (now, text) in [(9 * day, "one"), (3 * day, "two"), (9 * day + 5, "three")] {
            let output = output(dir.path().join("ns/f"));
            output.push(now, "r", Source::Stdout, text).expect("room");
            output.flush().await;
        }
        let output = output(dir.path().join("ns/f"));
        assert_eq!(output.last_time().as_str(), "1970-01-10T00:00:00.000000005Z");
        let times: Vec<_> = lines(&output).into_iter().map(|line| line.timestamp).collect();
        assert!(times[1].starts_with("1970-01-04"), "{times:?}");
        assert_eq!(texts(&output), ["one", "two", "three"]);
    }

    #[tokio::test]
    async fn only_so_many_may_follow() {
        let dir = temporary::TemporaryDirectory::new();
        let output = output(dir.path().join("ns/f"));
        let mut followers: Vec<_> = (0..MAX_FOLLOWERS).map(|_| output.follow().1.expect("room")).collect();
        assert!(output.follow().1.is_none());
        followers.pop();
        assert!(output.follow().1.is_some());
    }

    #[tokio::test]
    async fn a_silent_function_has_no_task_and_no_buffer() {
        let dir = temporary::TemporaryDirectory::new();
        let output = output(dir.path().join("ns/f"));
        output.push(1, "r", Source::Stdout, "line").expect("room");
        output.common.tasks.close();
        timeout(Duration::from_secs(5), output.common.tasks.wait()).await.expect("the writer ends");
        let state = lock(&output.state);
        assert_eq!((state.batch.bytes.capacity(), state.writing), (0, false));
    }
}
