//! What is said on stderr: our own lines, and those of processes.
//!
//! A thread of its own writes them, so that whoever reads them slowly, or not at all, holds up no request. What it
//! cannot take is dropped, and counted.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes that may wait to be written.
const WAITING: usize = 1 << 20;
/// The pause after each write, in which lines gather: waking the thread for each call would cost a quarter of what it
/// takes to start a small program.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes of memory that are kept for the next lines.
const KEPT: usize = 64 << 10;
/// How long the last of them may take.
const LAST: Duration = Duration::from_secs(1);

/// To be waited for at the end, when nobody has the log any more.
#[derive(Debug)]
pub(super) struct LastLine(Receiver<()>);

impl LastLine {
    /// Returns when all was written, or when nobody reads it.
    pub(super) fn wait(self) {
        let _ = self.0.recv_timeout(LAST);
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    /// Lines that could not be taken, and were not spoken of yet.
    dropped: u64,
    /// The second that it was lately, and how that is written.
    now: (u64, String),
    /// The thread waits to be told of more.
    idle: bool,
    /// There will be no more.
    closed: bool,
}

/// Takes lines.
#[derive(Debug)]
pub(super) struct Log {
    queue: Arc<Queue>,
    prefix: bool,
}

impl Log {
    /// Starts to write; lines begin with their time if `prefix` says so.
    pub(super) fn start(prefix: bool) -> std::io::Result<(Self, LastLine)> {
        let queue = Arc::<Queue>::default();
        let waiting = queue.clone();
        let (done, last) = sync_channel(0);
        let work = move || {
            waiting.write();
            drop(done);
        };
        std::thread::Builder::new().name("log".into()).stack_size(64 << 10).spawn(work)?;
        Ok((Self { queue, prefix }, LastLine(last)))
    }

    /// Says something of our own.
    pub(super) fn say(&self, text: &str) {
        self.line("", text.as_bytes(), "");
    }

    /// Passes a line of a process on, from this source, with something after it.
    pub(super) fn line(&self, source: &str, text: &[u8], suffix: &str) {
        let mut waiting = self.queue.lock();
        // One that is longer by itself is the only one.
        if !waiting.text.is_empty() && waiting.text.len() + text.len() > WAITING {
            waiting.dropped += 1;
            return;
        }
        waiting.push_dropped();
        if self.prefix {
            waiting.push_time();
        }
        let out = &mut waiting.text;
        if self.prefix && !source.is_empty() {
            out.extend_from_slice(source.as_bytes());
            out.extend_from_slice(b": ");
        }
        out.extend_from_slice(text);
        out.extend_from_slice(suffix.as_bytes());
        out.push(b'\n');
        if waiting.idle {
            self.queue.more.notify_one();
        }
    }
}

impl Waiting {
    /// Adds how many lines were dropped since it was last said.
    fn push_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let note = format!("{dropped} lines were dropped: whoever reads them is too slow\n");
            self.text.extend_from_slice(note.as_bytes());
        }
    }

    /// Adds the time as Go's programs write it, which people's tools know.
    fn push_time(&mut self) {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        if self.now.0 != second || self.now.1.is_empty() {
            self.now = (second, written(UNIX_EPOCH + Duration::from_secs(second)));
        }
        self.text.extend_from_slice(self.now.1.as_bytes());
    }
}

/// A time as `2026/11/22 13:21:05 `, in UTC.
fn written(time: SystemTime) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // Sun, 22 Nov 2026 13:21:05 GMT
    let date = httpdate::fmt_http_date(time);
    let parts: Vec<&str> = date.split(' ').collect();
    let [_, day, month, year, clock, _] = parts[..] else { return String::new() };
    let month = MONTHS.find(month).map_or(0, |place| place / 3 + 1);
    format!("{year}/{month:02}/{day} {clock} ")
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        waiting.push_dropped();
        waiting.closed = true;
        drop(waiting);
        self.queue.more.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until there will be no more.
    #[expect(clippy::disallowed_methods, reason = "it sleeps on a thread of its own")]
    fn write(&self) {
        let mut text = Vec::new();
        loop {
            let mut waiting = self.lock();
            while waiting.text.is_empty() {
                if waiting.closed {
                    return;
                }
                waiting.idle = true;
                waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                waiting.idle = false;
            }
            std::mem::swap(&mut waiting.text, &mut text);
            let closed = waiting.closed;
            drop(waiting);
            // There is nobody else to tell.
            let _ = std::io::stderr().write_all(&text);
            text.clear();
            text.shrink_to(KEPT);
            if !closed {
                std::thread::sleep(GATHER);
            }
        }
    }
}

/// Cuts what a process writes into lines, however they arrive.
#[derive(Debug)]
pub(super) struct Lines {
    rest: Vec<u8>,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes: a longer one becomes several.
    pub(super) fn new(limit: usize) -> Self {
        Self { rest: Vec::new(), limit }
    }

    /// Takes the next bytes, and gives the lines that are whole.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = self.limit - self.rest.len();
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let count = end.unwrap_or(bytes.len()).min(room);
            self.rest.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            match bytes.first() {
                Some(b'\n') => bytes = &bytes[1..],
                // Cut: what follows is the next line.
                Some(_) => {}
                // Whether it is cut, or ends here, the next byte will say.
                None => return,
            }
            line(without_return(&self.rest));
            self.rest.clear();
        }
    }

    /// Gives what is left, when there will be no more.
    pub(super) fn end(&mut self, line: impl FnOnce(&[u8])) {
        if !self.rest.is_empty() {
            line(without_return(&self.rest));
            self.rest.clear();
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_know_them() {
        for (seconds, text) in [
            (0, "1970/01/01 00:00:00 "),
            (1_709_208_000, "2024/02/29 12:00:00 "),
            (1_767_225_599, "2025/12/31 23:59:59 "),
        ] {
            assert_eq!(written(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted() {
        // Without the thread that would write them.
        let log = Log { queue: Arc::default(), prefix: false };
        let line = vec![b'x'; WAITING / 2];
        for _ in 0..4 {
            log.line("", &line, "");
        }
        assert_eq!(log.queue.lock().dropped, 3, "with their ends, two are more than may wait");
        log.queue.lock().text.clear();
        log.say("next");
        let text = log.queue.lock().text.clone();
        assert_eq!(
            String::from_utf8_lossy(&text),
            "3 lines were dropped: whoever reads them is too slow\nnext\n"
        );
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = b"one\n\ntwo\r\nthree-and-some\nlast";
        let wanted = ["one", "", "two", "three-a", "nd-some", "last"];
        for size in 1..text.len() {
            let mut lines = Lines::new(7);
            let mut found = Vec::new();
            let mut add = |line: &[u8]| found.push(String::from_utf8_lossy(line).into_owned());
            text.chunks(size).for_each(|piece| lines.take(piece, &mut add));
            lines.end(add);
            assert_eq!(found, wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_as_long_as_the_limit_is_one_line() {
        let mut lines = Lines::new(3);
        let mut found = Vec::new();
        lines.take(b"abc\nde\n", |line| found.push(line.to_vec()));
        assert_eq!(found, [b"abc".to_vec(), b"de".to_vec()]);
    }
}
