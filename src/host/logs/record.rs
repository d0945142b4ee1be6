//! One line as it is kept: `<time> <replica> <stream> <text>` and a newline.
//!
//! Invariants
//! - The time has a fixed width, so that times compare as text.
//! - The times of one function strictly increase, but where the clock is set back by more than [`STEP`]: within
//!   that, a time tells where in the output a line stands.
//! - The text has no newline, so a line that was not written to its end spoils no other.

use std::fmt::{self, Write as _};

use jiff::Timestamp;

/// Bytes of a time such as `2026-01-31T23:59:59.123456789Z`.
const TIME: usize = 30;
/// Where the fraction begins.
const FRACTION: usize = 20;
/// How far the clock must be set back for times to follow it, in nanoseconds. Until then they stand still, as a
/// clock that is only adjusted catches up soon; one that was years ahead does not.
pub(super) const STEP: i64 = 60_000_000_000;
/// Enough bytes of a line to read everything that comes before the text: ids have at most 76.
pub(super) const HEAD: usize = 128;

/// What wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The function, on standard output.
    Stdout,
    /// The function, on standard error.
    Stderr,
    /// The daemon, to say that lines are missing.
    Daemon,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "out",
            Self::Stderr => "err",
            Self::Daemon => "log",
        }
    }
}

/// The name that the daemon's own remarks carry in place of a replica's id.
pub(super) const DAEMON: &str = "ingle";

/// A moment, as it is written. Compares as time does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(String);

impl Time {
    /// The moment `timestamp`; the nearest one that can be written, if it cannot.
    pub(super) fn of(timestamp: Timestamp) -> Self {
        let nanos = i64::try_from(timestamp.as_nanosecond().max(0)).unwrap_or(i64::MAX);
        Clock::after(nanos - 1).next(nanos).clone()
    }

    /// Returns the last moment that a line may have now, unless the clock was ahead when it was written.
    pub(super) fn latest() -> Self {
        let nanos = now().saturating_add(STEP);
        Clock::after(nanos - 1).next(nanos).clone()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The system's clock, in nanoseconds since 1970.
pub(super) fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Gives out times that strictly increase.
#[derive(Debug)]
pub(super) struct Clock {
    last: i64,
    second: i64,
    time: Time,
}

impl Clock {
    /// A clock whose first time is later than `last`.
    pub(super) fn after(last: i64) -> Self {
        Self { last, second: i64::MIN, time: Time(String::new()) }
    }

    /// Gives out `now`, or the next moment after the last time if `now` is before that by less than [`STEP`].
    pub(super) fn next(&mut self, now: i64) -> &Time {
        let (now, next) = (now.max(0), self.last.saturating_add(1));
        self.last = if now.saturating_add(STEP) < next { now } else { now.max(next) };
        self.write(self.last);
        &self.time
    }

    /// The last time that was given out; as the first time of all if none was.
    pub(super) fn last(&mut self) -> Time {
        self.write(self.last.max(0));
        self.time.clone()
    }

    fn write(&mut self, nanos: i64) {
        let second = nanos.div_euclid(1_000_000_000);
        let text = &mut self.time.0;
        if second != self.second {
            self.second = second;
            let whole = Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_string();
            text.clear();
            text.push_str(&whole[..FRACTION - 1]);
            text.push('.');
        }
        text.truncate(FRACTION);
        // A string takes all text.
        let _ = write!(text, "{:09}Z", nanos.rem_euclid(1_000_000_000));
    }
}

/// Appends a record to `out`.
pub(super) fn write(out: &mut Vec<u8>, time: &Time, instance: &str, source: Source, text: &str) {
    out.reserve(size(instance, text));
    for part in [time.as_str(), " ", instance, " ", source.as_str(), " ", text, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Bytes that a record takes.
pub(super) fn size(instance: &str, text: &str) -> usize {
    TIME + 1 + instance.len() + 5 + text.len() + 1
}

/// What stands before the text of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) time: &'a str,
    pub(super) instance: &'a str,
    /// Where the text begins.
    pub(super) text: usize,
}

/// Reads the head of a record from (at least the beginning of) its line; `None` when this is none,
/// as after a crash.
pub(super) fn head(line: &[u8]) -> Option<Head<'_>> {
    let time = line.get(..TIME)?;
    let shaped = time.iter().zip(b"0000-00-00T00:00:00.000000000Z").all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        mark => byte == mark,
    });
    if !shaped || line.get(TIME) != Some(&b' ') {
        return None;
    }
    let rest = &line[TIME + 1..];
    let end = rest.iter().take(HEAD).position(|&byte| byte == b' ')?;
    let source = rest.get(end + 1..end + 5)?;
    if !matches!(source, b"out " | b"err " | b"log ") {
        return None;
    }
    Some(Head {
        time: std::str::from_utf8(time).ok()?,
        instance: std::str::from_utf8(&rest[..end]).ok()?,
        text: TIME + 1 + end + 5,
    })
}

/// The time of a record in nanoseconds since 1970.
pub(super) fn nanos(time: &str) -> Option<i64> {
    i64::try_from(time.parse::<Timestamp>().ok()?.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut out = Vec::new();
        let mut clock = Clock::after(0);
        let time = clock.next(1_700_000_000_000_000_042).clone();
        assert_eq!(time.as_str(), "2023-11-14T22:13:20.000000042Z");
        write(&mut out, &time, "env-00000000ab", Source::Stderr, "a \0 b");
        assert_eq!(out, b"2023-11-14T22:13:20.000000042Z env-00000000ab err a \0 b\n");
        assert_eq!(out.len(), size("env-00000000ab", "a \0 b"));
        let head = head(&out).expect("a head");
        assert_eq!((head.time, head.instance), (time.as_str(), "env-00000000ab"));
        assert_eq!(&out[head.text..], b"a \0 b\n");
        assert_eq!(nanos(head.time), Some(1_700_000_000_000_000_042));
        assert_eq!(Time::of("2023-11-14T22:13:20.000000042Z".parse().expect("a time")), time);
    }

    #[test]
    fn what_a_crash_left_is_no_record() {
        let whole = b"2023-11-14T22:13:20.000000042Z env-00000000ab err ";
        assert!(head(whole).is_some(), "an empty text");
        for end in 0..whole.len() {
            assert_eq!(head(&whole[..end]), None);
        }
        assert_eq!(head(&[0; 200]), None);
        assert_eq!(head(&[b'x'; 200]), None);
        assert_eq!(head(b"2023-11-14T22:13:20.000000042Z env-00000000ab xxx text"), None);
    }

    #[test]
    fn times_increase_when_the_clock_is_adjusted() {
        let mut clock = Clock::after(5_000_000_000);
        let mut last = clock.last();
        for now in
            [5_000_000_000, 6_500_000_000, 6_500_000_000, 1, i64::MIN, 6_500_000_009, 9_999_999_999_999]
        {
            let time = clock.next(now).clone();
            assert!(time > last, "{time} after {last}");
            assert_eq!(time.as_str().len(), TIME);
            last = time;
        }
        assert_eq!(last.as_str(), "1970-01-01T02:46:39.999999999Z");
    }

    #[test]
    fn times_follow_a_clock_that_was_far_ahead() {
        let day = 86_400_000_000_000;
        let mut clock = Clock::after(900 * day);
        assert_eq!(clock.next(3 * day).as_str(), "1970-01-04T00:00:00.000000000Z");
        assert_eq!(clock.next(3 * day - STEP + 1).as_str(), "1970-01-04T00:00:00.000000001Z");
        assert_eq!(clock.next(4 * day).as_str(), "1970-01-05T00:00:00.000000000Z");
    }

    #[test]
    fn a_moment_that_cannot_be_written_becomes_the_nearest() {
        assert_eq!(Time::of(Timestamp::MIN).as_str(), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(Time::of(Timestamp::MAX).as_str(), "2262-04-11T23:47:16.854775807Z");
    }
}
