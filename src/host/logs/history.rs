//! Reads the lines that are kept, a piece at a time.
//!
//! Invariant: memory is bounded by [`PIECE`] and the longest line, not by the size of the files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::record::{self, HEAD, Head, Time};
use model::function::FunctionKey;
use model::wire::LogLine;

/// How much is read at once.
const PIECE: usize = 64 * 1024;
/// A line that is longer than this was not written by us.
const LONGEST: usize = 8 * 1024 * 1024;

/// A file with records, up to a length at which it is looked at.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: File,
    pub(super) length: u64,
}

/// Which lines are wanted.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    /// The first moment.
    pub(super) since: Option<Time>,
    /// The last moment, and the first one after it that a clock must have written which was ahead.
    pub(super) until: Option<(Time, Time)>,
    /// The replica.
    pub(super) instance: Option<String>,
}

impl Filter {
    fn takes(&self, head: &Head<'_>) -> bool {
        self.since.as_ref().is_none_or(|since| head.time >= since.as_str())
            && self
                .until
                .as_ref()
                .is_none_or(|(last, ahead)| head.time <= last.as_str() || head.time > ahead.as_str())
            && self.instance.as_ref().is_none_or(|instance| head.instance == instance)
    }
}

/// The lines of some segments that pass a filter, oldest first.
#[derive(Debug)]
pub(super) struct History {
    key: FunctionKey,
    segments: Vec<Segment>,
    filter: Filter,
    /// The segment that is read now, and how far.
    at: (usize, u64),
}

impl History {
    /// All wanted lines, or the last `tail` of them.
    pub(super) fn new(key: FunctionKey, segments: Vec<Segment>, filter: Filter, tail: Option<usize>) -> Self {
        let mut history = Self { key, segments, filter, at: (0, 0) };
        if let Some(tail) = tail {
            history.at = history.start_of(tail);
        }
        history
    }

    /// The next lines; `None` at the end. A piece may hold none.
    pub(super) fn next(&mut self) -> Option<Vec<LogLine>> {
        loop {
            let (index, offset) = self.at;
            let segment = self.segments.get(index)?;
            match read_lines(segment, offset) {
                // A file that cannot be read is passed over: the other one may be whole.
                Err(_) | Ok(None) => self.at = (index + 1, 0),
                Ok(Some((bytes, taken))) => {
                    self.at.1 += taken;
                    return Some(
                        bytes.split(|&byte| byte == b'\n').filter_map(|line| self.line(line)).collect(),
                    );
                }
            }
        }
    }

    fn line(&self, line: &[u8]) -> Option<LogLine> {
        let head = record::head(line)?;
        self.filter.takes(&head).then(|| LogLine {
            name: self.key.name.to_string(),
            namespace: self.key.namespace.to_string(),
            instance: head.instance.to_owned(),
            timestamp: head.time.to_owned(),
            text: String::from_utf8_lossy(&line[head.text..]).into_owned(),
        })
    }

    /// Where the last `tail` wanted lines begin, found from the end.
    fn start_of(&self, tail: usize) -> (usize, u64) {
        let end = (self.segments.len(), 0);
        if tail == 0 {
            return end;
        }
        let mut missing = tail;
        let mut start = end;
        for (index, segment) in self.segments.iter().enumerate().rev() {
            let done = each_line_backwards(segment, |offset, line| {
                let Some(head) = record::head(line) else { return true };
                if self.filter.takes(&head) {
                    start = (index, offset);
                    missing -= 1;
                }
                missing > 0
            });
            if done {
                break;
            }
        }
        start
    }
}

/// The time of the last record of some segments.
pub(super) fn last_time(segments: &[Segment]) -> Option<i64> {
    let mut last = None;
    for segment in segments.iter().rev() {
        each_line_backwards(segment, |_, line| {
            last = record::head(line).and_then(|head| record::nanos(head.time));
            last.is_none()
        });
        if last.is_some() {
            break;
        }
    }
    last
}

/// Whole lines from `offset` on, without the end of the last one, and how many bytes they take.
fn read_lines(segment: &Segment, offset: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut size = PIECE;
    loop {
        let mut bytes = read_at(segment, offset, size)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') {
            bytes.truncate(end);
            return Ok(Some((bytes, end as u64 + 1)));
        }
        if bytes.len() < size {
            // The end of the file, in the middle of a line: a torn one.
            return Ok(None);
        }
        if size >= LONGEST {
            let taken = bytes.len() as u64;
            return Ok(Some((Vec::new(), taken)));
        }
        size *= 2;
    }
}

/// Shows the beginning of each whole line, with its offset, from the last to the first, until
/// `wants_more` says no; returns whether it did.
fn each_line_backwards(segment: &Segment, mut wants_more: impl FnMut(u64, &[u8]) -> bool) -> bool {
    // The end of what is still to be searched, and whether a newline was found behind it: what comes
    // after the last newline is a torn line.
    let mut end = segment.length;
    let mut whole = false;
    while end > 0 {
        let begin = end.saturating_sub(PIECE as u64);
        let Ok(searched) = usize::try_from(end - begin) else { return false };
        // With enough of what follows to see the head of a line that begins at the very end.
        let Ok(bytes) = read_at(segment, begin, searched + HEAD) else { return false };
        for at in (0..searched.min(bytes.len())).rev() {
            if bytes[at] != b'\n' {
                continue;
            }
            if whole && !wants_more(begin + at as u64 + 1, beginning(&bytes[at + 1..])) {
                return true;
            }
            whole = true;
        }
        if begin == 0 && whole && !wants_more(0, beginning(&bytes)) {
            return true;
        }
        end = begin;
    }
    false
}

fn beginning(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == b'\n').next().unwrap_or_default()
}

/// Up to `size` bytes from `offset` on.
fn read_at(segment: &Segment, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let left = usize::try_from(segment.length.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size.min(left)];
    let mut filled = 0;
    while filled < bytes.len() {
        match segment.file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::logs::record::{Clock, Source};

    const EVERYTHING: Filter = Filter { since: None, until: None, instance: None };

    /// Lines numbered from 0, the even ones of the replica `a`, the odd ones of `b`, one a
    /// nanosecond.
    fn segments(parts: &[(usize, usize)], width: usize, torn: &[u8]) -> Vec<Segment> {
        parts
            .iter()
            .map(|part| {
                let mut file = tempfile::tempfile().expect("a file");
                let mut bytes = Vec::new();
                for n in part.0..part.1 {
                    let now = i64::try_from(n).expect("small");
                    let instance = if n % 2 == 0 { "a" } else { "b" };
                    let time = Clock::after(now - 1).next(now).clone();
                    record::write(
                        &mut bytes,
                        &time,
                        instance,
                        Source::Stdout,
                        &format!("{}{n}", " ".repeat(width)),
                    );
                }
                bytes.extend_from_slice(torn);
                file.write_all(&bytes).expect("written");
                Segment { file, length: bytes.len() as u64 }
            })
            .collect()
    }

    fn numbers(segments: Vec<Segment>, filter: Filter, tail: Option<usize>) -> Vec<usize> {
        let mut history = History::new("f.ns".parse_key(), segments, filter, tail);
        let mut numbers = Vec::new();
        while let Some(lines) = history.next() {
            numbers.extend(lines.iter().map(|line| line.text.trim().parse::<usize>().expect("a number")));
        }
        numbers
    }

    trait ParseKey {
        fn parse_key(&self) -> FunctionKey;
    }

    impl ParseKey for str {
        fn parse_key(&self) -> FunctionKey {
            FunctionKey::parse(self).expect("a key")
        }
    }

    fn time(nanos: i64) -> Option<Time> {
        Some(Clock::after(nanos - 1).next(nanos).clone())
    }

    #[test]
    fn the_tail_goes_across_both_files() {
        for (width, all) in [(1, &[0, 1, 2, 19, 20, 21, 49, 50, 51, usize::MAX][..]), (70_000, &[2, 21])] {
            let made = || segments(&[(0, 30), (30, 50)], width, b"2026-torn");
            assert_eq!(numbers(made(), EVERYTHING, None), (0..50).collect::<Vec<_>>());
            for &tail in all {
                let from = 50usize.saturating_sub(tail);
                assert_eq!(
                    numbers(made(), EVERYTHING, Some(tail)),
                    (from..50).collect::<Vec<_>>(),
                    "tail {tail}"
                );
            }
        }
    }

    #[test]
    fn every_head_is_found_wherever_a_piece_ends() {
        // Lines whose length shares no factor with the piece, so that ends fall everywhere.
        let made = || segments(&[(0, 5000)], 8, b"");
        for tail in [1, 1300, 1301, 1302, 4999, 5000] {
            assert_eq!(numbers(made(), EVERYTHING, Some(tail)).len(), tail);
        }
    }

    #[test]
    fn the_tail_counts_lines_that_are_wanted() {
        let filter = Filter { since: time(10), until: time(40).zip(time(90)), instance: Some("b".into()) };
        let made = || segments(&[(0, 30), (30, 50)], 1, b"");
        let wanted: Vec<_> = (10..=40).filter(|n| n % 2 == 1).collect();
        assert_eq!(numbers(made(), filter.clone(), None), wanted);
        assert_eq!(numbers(made(), filter.clone(), Some(3)), [35, 37, 39]);
        assert_eq!(numbers(made(), filter, Some(1000)), wanted);
        assert_eq!(numbers(made(), Filter { since: time(99), ..EVERYTHING }, Some(5)), [0; 0]);
    }

    #[test]
    fn rubbish_between_records_is_passed_over() {
        let mut all = segments(&[(0, 2), (2, 4)], 1, b"\0\0\0\0\n\n2026-11-14T22:13:20.000\nrubbish\n");
        all.push(Segment { file: tempfile::tempfile().expect("a file"), length: 500 });
        assert_eq!(last_time(&all), Some(3));
        assert_eq!(numbers(all, EVERYTHING, Some(3)), [1, 2, 3]);
        assert_eq!(last_time(&segments(&[(0, 0)], 1, b"torn")), None);
    }

    #[test]
    fn a_file_without_a_newline_is_no_line() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![0; 9 * 1024 * 1024]).expect("written");
        let all = || vec![Segment { file: file.try_clone().expect("a file"), length: 9 * 1024 * 1024 }];
        assert_eq!(numbers(all(), EVERYTHING, None), [0; 0]);
        assert_eq!(numbers(all(), EVERYTHING, Some(9)), [0; 0]);
    }
}
