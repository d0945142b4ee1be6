//! One pattern, and the moments that it means in a time zone.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use super::Since;
use super::field::{Field, KINDS};

/// How far ahead is looked, in days: fifty years. The 29th of February is a Sunday every 28 years, and once in 40.
const HORIZON: i64 = 366 * 50;

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// The multiples of so many seconds since 1970: known without what came before, so that neither a restart nor a
    /// deploy begins it anew.
    Every(i64),
    /// Five fields.
    Fields(Fields),
}

/// The five fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(word) = text.strip_prefix('@') else { return Fields::parse(text).map(Self::Fields) };
        let fields = match word.to_ascii_lowercase().as_str() {
            "yearly" | "annually" => "0 0 1 1 *",
            "monthly" => "0 0 1 * *",
            "weekly" => "0 0 * * 0",
            "daily" | "midnight" => "0 0 * * *",
            "hourly" => "0 * * * *",
            lower => match lower.strip_prefix("every").filter(|rest| rest.starts_with(char::is_whitespace)) {
                Some(duration) => return every(duration.trim()),
                None => {
                    return Err(format!(
                        "{text:?} is not allowed: @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually and \
                         @every 1h30m are"
                    ));
                }
            },
        };
        Fields::parse(fields).map(Self::Fields)
    }

    /// Whether it goes on and on; see the room's first words.
    fn is_running(&self) -> bool {
        match self {
            Self::Every(_) => true,
            Self::Fields(Fields { minutes, hours, .. }) => {
                minutes.star || hours.star || minutes.has_all(60) || hours.has_all(24)
            }
        }
    }

    /// Which of the two counts for it.
    pub(crate) fn since(&self, since: Since) -> Timestamp {
        if self.is_running() { since.running } else { since.fixed }
    }

    /// The first moment after another.
    pub(crate) fn next(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => {
                let next = (after.as_second().div_euclid(*seconds) + 1).checked_mul(*seconds)?;
                Timestamp::from_second(next).ok()
            }
            Self::Fields(fields) => {
                let end =
                    after.checked_add(SignedDuration::from_hours(HORIZON * 24)).unwrap_or(Timestamp::MAX);
                let next = if self.is_running() {
                    fields.running(zone, after, end)
                } else {
                    fields.fixed(zone, after, end)
                };
                next.filter(|next| *next <= end)
            }
        }
    }

    /// The last moment after another, up to `until`, which counts.
    pub(crate) fn last(&self, zone: &TimeZone, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let is_before = |from| self.next(zone, from).filter(|next| *next <= until);
        let mut found = is_before(after)?;
        // Halved until the next one after `found` is past the end: there may have been millions.
        let mut beyond = until;
        loop {
            let distance = beyond.duration_since(found);
            if distance <= SignedDuration::from_secs(1) {
                return Some(is_before(found).unwrap_or(found));
            }
            let middle = found.checked_add(distance / 2).ok()?;
            match is_before(middle) {
                Some(later) => found = later,
                None => beyond = middle,
            }
        }
    }
}

fn every(text: &str) -> Result<Pattern, String> {
    let duration = quantity::parse_duration(text)?;
    match (duration.subsec_nanos(), i64::try_from(duration.as_secs())) {
        (0, Ok(seconds @ 1..)) => Ok(Pattern::Every(seconds)),
        _ => Err(format!("@every {text} is not allowed: whole seconds are, from @every 1s on")),
    }
}

impl Fields {
    fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words[..] else {
            return Err(format!(
                "there are {} fields; write five: minute, hour, day of the month, month, day of the week",
                words.len()
            ));
        };
        let [minute, hour, day, month, weekday] = &KINDS;
        let fields = Self {
            minutes: minute.parse(minutes)?,
            hours: hour.parse(hours)?,
            days: day.parse(days)?,
            months: month.parse(months)?,
            weekdays: weekday.parse(weekdays)?,
        };
        if !fields.comes_true() {
            return Err(format!("no month that is meant has the day {days}: it would never be due"));
        }
        Ok(fields)
    }

    /// Whether there is any such day. Every day of the year is each day of the week in some year.
    fn comes_true(&self) -> bool {
        let either = !self.days.star && !self.weekdays.star;
        // The 29th of February counts.
        let length = |month| Date::constant(2024, month, 1).days_in_month();
        either || self.months.values().any(|month| self.days.values().any(|day| day <= length(month)))
    }

    /// Whether a day is meant. Days of the month and of the week are alternatives where both choose, as ever with cron.
    fn has_date(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        let either = !self.days.star && !self.weekdays.star;
        self.months.has(date.month()) && if either { day || weekday } else { day && weekday }
    }

    /// The next day that may be meant: months that are not are passed over.
    fn after(&self, date: Date) -> Option<Date> {
        if self.months.has(date.month()) {
            date.tomorrow().ok()
        } else {
            date.last_of_month().tomorrow().ok()
        }
    }

    /// The next time of a day. A later time of the day is never an earlier moment, so the first that is past is it.
    fn fixed(&self, zone: &TimeZone, after: Timestamp, end: Timestamp) -> Option<Timestamp> {
        let from = zone.to_datetime(after);
        let from = from.date().at(from.hour(), from.minute(), 0, 0);
        let last = zone.to_datetime(end).date();
        let mut date = from.date();
        while date <= last {
            if self.has_date(date) {
                let hours = self.hours.values();
                let times = hours
                    .flat_map(|hour| self.minutes.values().map(move |minute| date.at(hour, minute, 0, 0)));
                let mut moments = times.filter(|time| *time >= from).filter_map(|time| moment(zone, time));
                if let Some(next) = moments.find(|moment| *moment > after) {
                    return Some(next);
                }
            }
            date = self.after(date)?;
        }
        None
    }

    /// The next minute whose time of the day, as the clock shows it, is meant.
    fn running(&self, zone: &TimeZone, after: Timestamp, end: Timestamp) -> Option<Timestamp> {
        let mut at = Timestamp::from_second((after.as_second().div_euclid(60) + 1) * 60).ok()?;
        while at <= end {
            let local = zone.to_datetime(at);
            let date = local.date();
            let then = if !self.has_date(date) {
                moment(zone, self.after(date)?.to_datetime(Time::midnight()))?
            } else if !self.hours.has(local.hour()) {
                at.checked_add((60 - i64::from(local.minute())).minutes()).ok()?
            } else if self.minutes.has(local.minute()) {
                return Some(at);
            } else {
                at.checked_add(1.minute()).ok()?
            };
            // Where the clock is changed on the way, it is looked at again.
            let change = zone.following(at).next().map(|change| change.timestamp());
            at = change.filter(|change| *change < then).map_or(Some(then), whole_minute)?;
        }
        None
    }
}

/// The moment at which a clock shows a time: the first one, if there are two; that after the gap, if there is none.
fn moment(zone: &TimeZone, time: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(time).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(time).ok(),
        AmbiguousOffset::Gap { before, .. } => {
            // It would have been then, had the clock not been changed: so that happened at this moment or before.
            let past = before.to_timestamp(time).ok()?.checked_add(1.nanosecond()).ok()?;
            zone.preceding(past).next().map(|change| change.timestamp())
        }
    }
}

/// The first whole minute that is not before a moment.
fn whole_minute(at: Timestamp) -> Option<Timestamp> {
    let minutes = at.as_second().div_euclid(60) + i64::from(at.as_second().rem_euclid(60) > 0);
    Timestamp::from_second(minutes * 60).ok()
}
