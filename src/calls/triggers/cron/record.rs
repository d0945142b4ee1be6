//! What is kept of a timer, in the store and in memory.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schedule::Since;
use serde::{Deserialize, Serialize};

use crate::queue::Stage;

/// Runs that are followed until they end, the last ones: a record stays small.
const MOST_OPEN: usize = 32;
/// As far as a clock is set back by hand or by summer time, and not because it was wrong.
const SET_BACK: SignedDuration = SignedDuration::from_hours(3);
/// As far as a clock is set right now and then, and after a sleep.
const SET_RIGHT: SignedDuration = SignedDuration::from_secs(60);

/// A timer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// What was due up to here is done with.
    done_until: Timestamp,
    /// The same by a clock that was set back since; this process alone knows.
    #[serde(skip)]
    aside: Option<Timestamp>,
    /// The run that was accepted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<Run>,
    /// Numbers of calls that have not ended, as far as is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) open: Vec<u64>,
    /// When runs were due that wait for those to end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) owed: Vec<Timestamp>,
    /// What was left out last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left_out: Option<LeftOut>,
    /// How many runs there were.
    #[serde(default)]
    pub(super) counts: Counts,
}

/// A run that was accepted.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The number of its call.
    pub(super) number: u64,
    /// `X-Call-Id`
    pub(super) call_id: String,
    /// When it was due; nothing if somebody asked for it.
    pub(super) due: Option<Timestamp>,
    /// When it was accepted.
    pub(super) at: Timestamp,
    /// What came of it, once that is known.
    pub(super) end: Option<End>,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum End {
    /// Its function has answered.
    Made,
    /// It was given up.
    GivenUp,
    /// Somebody cancelled it.
    Cancelled,
    /// Its call cannot be read, and is not made.
    Unreadable,
}

impl End {
    /// What a call's stage means, if that is an end.
    pub(super) fn of(stage: Stage) -> Option<Self> {
        match stage {
            Stage::Pending { .. } => None,
            Stage::Made => Some(Self::Made),
            Stage::GivenUp => Some(Self::GivenUp),
            Stage::Cancelled => Some(Self::Cancelled),
            Stage::Unreadable => Some(Self::Unreadable),
        }
    }
}

/// A run that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// When it was due.
    pub due: Timestamp,
    /// Why, in words.
    pub reason: String,
}

/// How many runs there were since the function was deployed first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// They were accepted.
    pub accepted: u64,
    /// They were left out because an earlier one had not ended.
    pub skipped: u64,
    /// Their time passed while nobody looked, or none was accepted.
    pub missed: u64,
}

impl Row {
    /// That of a function that is called by its schedule from now on.
    pub(super) fn new(from: Timestamp) -> Self {
        Self { done_until: from, ..Self::default() }
    }

    /// Nothing counts that was due before.
    pub(super) fn begin(&mut self, from: Timestamp) {
        (self.done_until, self.aside) = (from, None);
    }

    /// The same, if that is later.
    pub(super) fn begin_later(&mut self, from: Timestamp) {
        self.done_until = self.done_until.max(from);
    }

    /// From where on what is due counts.
    ///
    /// A clock may be set back. By a little, it is waited for until it has caught up: what was due has been made. By
    /// more, what goes on and on then goes on at once, by the clock as it is. Times of the day were there already and
    /// are waited for until they come anew, as ever with cron; unless that is for so long that the clock must have
    /// been wrong before.
    pub(super) fn since(&mut self, now: Timestamp) -> Since {
        if now >= self.done_until {
            self.aside = None;
            return self.done_until.into();
        }
        let back = self.done_until.duration_since(now);
        if back <= SET_RIGHT && self.aside.is_none() {
            return self.done_until.into();
        }
        let aside = self.aside.map_or(now, |aside| aside.min(now));
        self.aside = Some(aside);
        let was_wrong = back > SET_BACK;
        Since { fixed: if was_wrong { aside } else { self.done_until }, running: aside }
    }

    /// What was due up to here is done with.
    pub(super) fn done(&mut self, due: Timestamp) {
        if due < self.done_until && self.done_until.duration_since(due) <= SET_BACK {
            self.aside = Some(due);
        } else {
            // Whatever was beyond it was so by a clock that was wrong.
            self.begin(due);
        }
    }

    /// Notes a run.
    pub(super) fn accepted(&mut self, run: Run) {
        if self.open.len() >= MOST_OPEN {
            self.open.remove(0);
        }
        self.open.push(run.number);
        self.last = Some(run);
        self.counts.accepted += 1;
    }

    /// A call has ended.
    pub(super) fn ended(&mut self, number: u64, end: End) {
        self.open.retain(|open| *open != number);
        if let Some(last) = self.last.as_mut().filter(|last| last.number == number) {
            last.end = Some(end);
        }
    }
}

/// A part of `jitter`, by chance, which stays the same for one deploy: so runs keep their distance.
pub(super) fn part_of(jitter: Duration, function: &str, deployed: Timestamp) -> SignedDuration {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (function, deployed.as_nanosecond()).hash(&mut hasher);
    // A day of milliseconds has 27 bits, so that the product fits.
    let share = i64::try_from(hasher.finish() >> 32).unwrap_or_default();
    let most = i64::try_from(jitter.as_millis()).unwrap_or_default();
    SignedDuration::from_millis(most.saturating_mul(share) >> 32)
}
