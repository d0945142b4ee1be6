//! When a timer is due, as people write it: the five fields of cron, `@daily` and its like, `@every 1h30m`, each with a
//! time zone if it has one, and several of them with `;` between them.
//!
//! Pure but for one thing: [`Schedule::timetable`] reads the zones from the machine. What is due is asked for with the
//! time.
//!
//! A schedule is one of two kinds, which differ when the clock is changed:
//! - *fixed*: at times of the day, as `30 2 * * *`. Each comes once a day. One that a change to summer time leaves out
//!   comes at the first moment after the gap; one that comes twice counts when it comes first.
//! - *running*: on and on, as `*/5 * * * *`, `0 * * * *` or `@every 1h`: minute or hour begin with a star. It goes by
//!   the clock as it is: nothing in a gap, and the hour that comes twice has all of its times twice.

mod field;
mod pattern;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use pattern::Pattern;

/// Schedules of one function at most.
const MOST: usize = 32;

/// When a timer is due: several patterns together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// UTC if there is none.
    zone: Option<Box<str>>,
    pattern: Pattern,
}

/// A schedule with its time zones, ready to say when it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable(Vec<(TimeZone, Pattern)>);

/// Up to where what was due is done with. The two are one moment, unless the clock was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// For times of the day.
    pub fixed: Timestamp,
    /// For what goes on and on.
    pub running: Timestamp,
}

impl From<Timestamp> for Since {
    fn from(at: Timestamp) -> Self {
        Self { fixed: at, running: at }
    }
}

impl Schedule {
    /// Reads a schedule, or says what would be one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let parts = parts.map(Part::parse).collect::<Result<Box<[_]>, _>>()?;
        match parts.len() {
            0 => Err(
                "is empty: write five fields, as in \"0 6 * * MON-FRI\", or @hourly, @daily, @every 1h30m"
                    .into(),
            ),
            1..=MOST => Ok(Self(parts)),
            count => Err(format!("has {count} schedules; at most {MOST} are allowed")),
        }
    }

    /// The time zones in which it is meant, each once, in the order in which they come.
    pub fn zones(&self) -> Vec<&str> {
        let mut zones: Vec<&str> = Vec::new();
        for part in &self.0 {
            let zone = part.zone.as_deref().unwrap_or("UTC");
            if !zones.contains(&zone) {
                zones.push(zone);
            }
        }
        zones
    }

    /// Looks its time zones up on this machine, or says which is not there.
    pub fn timetable(&self) -> Result<Timetable, String> {
        let parts = self.0.iter().map(|part| {
            let zone = match part.zone.as_deref() {
                None | Some("UTC") => TimeZone::UTC,
                Some(name) => TimeZone::get(name).map_err(|_| {
                    format!(
                        "the time zone {name:?} is not known on this machine: write a name as in Europe/Berlin, and see \
                         that the package tzdata is installed"
                    )
                })?,
            };
            Ok((zone, part.pattern.clone()))
        });
        parts.collect::<Result<_, String>>().map(Timetable)
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        let (zone, rest) = match text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) {
            None => (None, text),
            Some(rest) => {
                let (zone, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
                if zone.is_empty() || zone.len() > 64 || !zone.bytes().all(is_allowed) {
                    return Err(format!(
                        "{zone:?} is not the name of a time zone: write one as in CRON_TZ=Europe/Berlin"
                    ));
                }
                (Some(zone.into()), rest.trim_start())
            }
        };
        let pattern = Pattern::parse(rest).map_err(|reason| format!("in {text:?} {reason}"))?;
        Ok(Self { zone, pattern })
    }
}

impl Timetable {
    /// When it is due next. `None`: not in the next fifty years.
    pub fn next(&self, since: impl Into<Since>) -> Option<Timestamp> {
        let since = since.into();
        self.0.iter().filter_map(|(zone, pattern)| pattern.next(zone, pattern.since(since))).min()
    }

    /// When it was due last, up to `until`, which counts.
    pub fn last(&self, since: impl Into<Since>, until: Timestamp) -> Option<Timestamp> {
        let since = since.into();
        let last = |(zone, pattern): &(TimeZone, Pattern)| pattern.last(zone, pattern.since(since), until);
        self.0.iter().filter_map(last).max()
    }

    /// How often it was due up to `until`, which counts; `most` stands for more than that, too.
    pub fn count(&self, since: impl Into<Since>, until: Timestamp, most: usize) -> usize {
        let mut since = since.into();
        for count in 0..most {
            match self.next(since) {
                Some(due) if due <= until => {
                    since = Since { fixed: since.fixed.max(due), running: since.running.max(due) };
                }
                _ => return count,
            }
        }
        most
    }
}

#[cfg(test)]
mod tests;
