//! Reads the two FIFOs of one replica: one task, and no buffer while nothing comes.
//!
//! Invariant: whatever a function writes, the task goes on reading until it is told to stop. What is over the
//! replica's rate is dropped, counted and spoken of in the function's output once a minute.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::journal::{self, Journal};
use super::lines::{Splitter, beginning};
use super::output::{Common, Full, Output};
use super::rate_limit::{Allowance, Throttle};
use super::record::{Source, now};
use model::function::ReplicaId;
use model::sync::lock;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// Lines after which others may use the thread.
const LINES: u32 = 1024;
/// A line without an end counts as one when nothing has followed for this long.
const PARTIAL: Duration = Duration::from_secs(1);
/// What is read at most when a reader is closed: the pipe, and what was written meanwhile.
const DRAIN: usize = 4 << 20;
/// A pause after an error of the kernel's that should not happen.
const PAUSE: Duration = Duration::from_secs(1);

/// Lines of a replica that are kept in memory, and bytes of each.
const RECENT: usize = 20;
const RECENT_TEXT: usize = 200;

/// Lines that are kept of the beginning of a burst.
const BURST_HEAD: usize = 3;
/// Silence after which a line begins a new burst, in nanoseconds.
const BURST_PAUSE: i64 = 1_000_000_000;

/// The last lines of a replica, for the answer to "why did it not start?", and the first ones of the burst that they
/// end: a stack trace is longer than what is kept, and the reason stands above it.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<RecentLines>);

#[derive(Debug, Default)]
struct RecentLines {
    last: VecDeque<String>,
    /// The first lines of the last burst, and the number of all its lines.
    head: Vec<String>,
    burst: usize,
    /// When the last line came.
    at: i64,
}

impl Recent {
    fn push(&self, now: i64, text: &str) {
        let mut lines = lock(&self.0);
        let text = beginning(text, RECENT_TEXT);
        if now.saturating_sub(lines.at) > BURST_PAUSE {
            lines.head.clear();
            lines.burst = 0;
        }
        (lines.at, lines.burst) = (now, lines.burst + 1);
        if lines.head.len() < BURST_HEAD {
            lines.head.push(text.to_owned());
        }
        let full = lines.last.len() >= RECENT;
        let mut line = if full { lines.last.pop_front() } else { None }.unwrap_or_default();
        line.clear();
        line.push_str(text);
        lines.last.push_back(line);
    }

    /// Returns the last `n`, oldest first.
    pub(super) fn last(&self, n: usize) -> Vec<String> {
        let lines = lock(&self.0);
        lines.last.iter().skip(lines.last.len().saturating_sub(n)).cloned().collect()
    }

    /// Returns the last `n`, oldest first. Where the burst that they end began before them, its first lines and `…`
    /// come first.
    pub(super) fn ending(&self, n: usize) -> Vec<String> {
        let lines = lock(&self.0);
        let last = lines.last.iter().skip(lines.last.len().saturating_sub(n));
        let above = lines.burst.saturating_sub(n);
        let mut all: Vec<String> = lines.head.iter().take(above).cloned().collect();
        if above > all.len() {
            all.push("…".to_owned());
        }
        all.extend(last.cloned());
        all
    }
}

/// Where the lines of a replica go.
#[derive(Debug)]
pub(super) struct Sink {
    id: ReplicaId,
    output: Arc<Output>,
    recent: Arc<Recent>,
    common: Arc<Common>,
    journal: Option<(Arc<Journal>, Allowance)>,
    throttle: Throttle,
}

impl Sink {
    pub(super) fn new(
        id: ReplicaId,
        output: Arc<Output>,
        recent: Arc<Recent>,
        common: Arc<Common>,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        let now = now();
        let allowance = || Allowance::new(now, journal::BURST, journal::PER_SECOND);
        let journal = journal.map(|journal| (journal, allowance()));
        Self { id, output, recent, common, journal, throttle: Throttle::new(now) }
    }

    async fn put(&mut self, now: i64, source: Source, text: &str) {
        self.recent.push(now, text);
        let is_kept = self.throttle.admits(now, text.len());
        self.tell_of_surplus(now, false);
        if !is_kept {
            return;
        }
        self.send(now, source, text);
        if self.output.push(now, self.id.as_str(), source, text) == Err(Full) {
            self.output.room().await;
            self.output.push_anyway(now, self.id.as_str(), source, text);
        }
    }

    /// Reports dropped lines in the function's output, if it is time.
    fn tell_of_surplus(&mut self, now: i64, is_end: bool) {
        if let Some(surplus) = self.throttle.unsaid(now, is_end) {
            self.output.dropped(surplus.lines);
            let text = format!(
                "[lines missing here: {}, of {} bytes; replica {} writes more than 1 MiB a second]",
                surplus.lines, surplus.bytes, self.id
            );
            self.output.remark(now, &text);
        }
    }

    fn send(&mut self, now: i64, source: Source, text: &str) {
        let Some((journal, allowance)) = &mut self.journal else { return };
        let result = if allowance.take(now, 1) {
            journal.send(self.output.key(), &self.id, source, text)
        } else {
            Err(io::Error::other("a replica wrote too many lines"))
        };
        if let Err(error) = result {
            let function = self.output.key();
            self.common.unsent.lost(1, |lines| {
                tracing::warn!(%function, lines, %error, "output of functions was not sent to journald");
            });
        }
    }
}

/// One of a replica's streams.
#[derive(Debug)]
struct Stream {
    source: Source,
    pipe: pipe::Receiver,
    splitter: Splitter,
    /// When a line that has begun counts as one.
    due: Option<Instant>,
}

/// What a look into a FIFO found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Bytes(usize),
    Nothing,
}

impl Stream {
    fn new(source: Source, pipe: pipe::Receiver, line_limit: usize) -> Self {
        Self { source, pipe, splitter: Splitter::new(line_limit), due: None }
    }

    /// Reads once, if there is something.
    async fn read(&mut self, chunk: &mut Vec<u8>, sink: &mut Sink) -> Found {
        chunk.clear();
        chunk.reserve(CHUNK);
        let read = match self.pipe.try_read_buf(chunk) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Found::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Found::Nothing,
            // Our own end for writing is open: there is no end of file, and no other error.
            Ok(0) | Err(_) => {
                sleep(PAUSE).await;
                return Found::Nothing;
            }
            Ok(read) => read,
        };
        let now = now();
        let mut rest = &chunk[..];
        let mut lines: u32 = 0;
        while let Some(line) = self.splitter.next(&mut rest) {
            sink.put(now, self.source, &line).await;
            lines += 1;
            if lines.is_multiple_of(LINES) {
                tokio::task::yield_now().await;
            }
        }
        self.due = self.splitter.is_partial().then(|| Instant::now() + PARTIAL);
        Found::Bytes(read)
    }

    /// Ends a line that has begun.
    async fn finish(&mut self, sink: &mut Sink) {
        self.due = None;
        if let Some(line) = self.splitter.finish() {
            sink.put(now(), self.source, &line).await;
        }
    }
}

/// Reads until `drain` is rung, then what is left; or until the daemon halts, and leaves the rest
/// in the pipes for the next one.
pub(super) async fn read(
    pipes: [pipe::Receiver; 2],
    line_limit: usize,
    mut sink: Sink,
    drain: CancellationToken,
) {
    let halt = sink.common.halt.clone();
    let [stdout, stderr] = pipes;
    let mut stdout = Stream::new(Source::Stdout, stdout, line_limit);
    let mut stderr = Stream::new(Source::Stderr, stderr, line_limit);
    let mut chunk = Vec::new();
    let halted = loop {
        let due = [stdout.due, stderr.due].into_iter().flatten().min();
        let stream = tokio::select! {
            () = halt.cancelled() => break true,
            () = drain.cancelled() => break false,
            _ = stdout.pipe.readable() => &mut stdout,
            _ = stderr.pipe.readable() => &mut stderr,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                for stream in [&mut stdout, &mut stderr] {
                    if stream.due.is_some_and(|due| due <= Instant::now()) {
                        stream.finish(&mut sink).await;
                    }
                }
                continue;
            }
        };
        let started = Instant::now();
        match stream.read(&mut chunk, &mut sink).await {
            // A flood: it gets half a thread, and calls the rest. The writer waits for the pipe.
            Found::Bytes(read) if read >= CHUNK => sleep(started.elapsed()).await,
            Found::Bytes(_) => tokio::task::yield_now().await,
            Found::Nothing => chunk = Vec::new(),
        }
    };
    for stream in [&mut stdout, &mut stderr] {
        let mut drained = 0;
        while !halted && drained < DRAIN {
            match stream.read(&mut chunk, &mut sink).await {
                Found::Bytes(read) => drained += read,
                Found::Nothing => break,
            }
        }
        stream.finish(&mut sink).await;
    }
    sink.tell_of_surplus(now(), true);
    sink.output.flush().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recent(lines: impl IntoIterator<Item = (i64, String)>) -> Recent {
        let recent = Recent::default();
        for (second, line) in lines {
            recent.push(second * BURST_PAUSE, &line);
        }
        recent
    }

    #[test]
    fn the_reason_above_a_stack_trace_is_kept() {
        let served = (0..100).map(|n| (2 * n, format!("served {n}")));
        let trace = (0..60).map(|n| (300, if n == 0 { "panic: boom".into() } else { format!("frame {n}") }));
        let recent = recent(served.chain(trace));
        assert_eq!(recent.ending(2), ["panic: boom", "frame 1", "frame 2", "…", "frame 58", "frame 59"]);
    }

    #[test]
    fn lines_of_a_short_burst_come_once_and_in_order() {
        for count in 0..8 {
            let all: Vec<String> = (0..count).map(|n| format!("line {n}")).collect();
            let recent = recent(all.iter().map(|line| (1, line.clone())));
            assert_eq!(recent.ending(5), all, "{count} lines");
        }
        let recent = recent([(1, "old".into()), (9, "new".into())]);
        assert_eq!(recent.ending(1), ["new"]);
        assert_eq!(recent.ending(5), ["old", "new"]);
    }
}
