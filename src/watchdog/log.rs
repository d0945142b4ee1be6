//! What is said on stderr: our own lines, and those of processes.
//!
//! A thread of its own writes them, so that whoever reads them slowly, or not at all, holds up no request. What it
//! cannot take is dropped, and counted.

use std::cell::Cell;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use jiff::Timestamp;

/// Lines that may wait to be written.
const WAITING: usize = 1024;
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

/// Takes lines.
#[derive(Debug)]
pub(super) struct Log {
    lines: SyncSender<Vec<u8>>,
    prefix: bool,
    /// Lines that could not be taken, and were not spoken of yet.
    dropped: Cell<u64>,
}

impl Log {
    /// Starts to write; lines begin with their time if `prefix` says so.
    pub(super) fn start(prefix: bool) -> std::io::Result<(Self, LastLine)> {
        let (lines, waiting) = sync_channel(WAITING);
        let (done, last) = sync_channel(0);
        let work = move || {
            write(&waiting);
            drop(done);
        };
        std::thread::Builder::new().name("log".into()).stack_size(64 << 10).spawn(work)?;
        Ok((Self { lines, prefix, dropped: Cell::new(0) }, LastLine(last)))
    }

    /// Says something of our own.
    pub(super) fn say(&self, text: &str) {
        self.line("", text.as_bytes(), "");
    }

    /// Passes a line of a process on, from this source, with something after it.
    pub(super) fn line(&self, source: &str, text: &[u8], suffix: &str) {
        let mut line = Vec::with_capacity(text.len() + 48);
        if self.prefix {
            line.extend_from_slice(now().as_bytes());
            if !source.is_empty() {
                line.extend_from_slice(source.as_bytes());
                line.extend_from_slice(b": ");
            }
        }
        line.extend_from_slice(text);
        line.extend_from_slice(suffix.as_bytes());
        line.push(b'\n');
        let dropped = self.dropped.take();
        if dropped > 0 {
            let note = format!("{dropped} lines were dropped: whoever reads them is too slow\n");
            line.splice(..0, note.into_bytes());
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(line) {
            self.dropped.set(dropped + 1);
        }
    }
}

/// The time as Go's programs write it, which people's tools know.
fn now() -> String {
    Timestamp::now().strftime("%Y/%m/%d %H:%M:%S ").to_string()
}

fn write(lines: &Receiver<Vec<u8>>) {
    let mut err = std::io::stderr().lock();
    while let Ok(line) = lines.recv() {
        // There is nobody else to tell.
        let _ = err.write_all(&line);
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
