//! One function's timer, in memory.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schedule::Timetable;
use tokio::time::Instant;

use super::record::{Row, part_of};
use directory::{Entry, View};
use model::function::{CronSettings, FunctionSpec};

/// How long time zones are believed: they are read anew, in case they were updated.
const ZONES_FOR: Duration = Duration::from_secs(3600);
/// How long a zone that was not there is not looked for.
const NO_ZONE_FOR: Duration = Duration::from_secs(60);

/// A timer.
#[derive(Debug)]
pub(super) struct Timer {
    /// The function, by which one that was removed and deployed again is told from it.
    pub(super) entry: Arc<Entry>,
    /// What it was deployed as.
    spec: Arc<FunctionSpec>,
    /// Its schedule with its zones, or what is wrong with those; and when they were read.
    pub(super) timetable: Result<Timetable, String>,
    read_at: Instant,
    /// How much later than their time its runs are made.
    pub(super) delay: SignedDuration,
    /// What is kept.
    pub(super) row: Row,
    /// When it is to be looked at next.
    pub(super) wake: Option<Timestamp>,
    /// Why runs are not accepted.
    pub(super) problem: Option<Problem>,
}

/// A reason why runs are not accepted.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// In words.
    pub(super) reason: String,
    /// The time of the last attempt.
    pub(super) at: Timestamp,
}

impl Timer {
    /// That of a function, with what was kept of it.
    pub(super) fn new(
        entry: &Arc<Entry>,
        view: &View,
        settings: &CronSettings,
        row: Row,
        now: Timestamp,
    ) -> Self {
        let mut timer = Self {
            entry: entry.clone(),
            spec: view.spec.clone(),
            timetable: settings.schedule.timetable(),
            read_at: Instant::now(),
            delay: delay(entry, view, settings),
            row,
            wake: None,
            problem: None,
        };
        timer.set_wake(now);
        timer
    }

    /// How it was deployed.
    pub(super) fn settings(&self) -> Option<&CronSettings> {
        self.spec.cron.as_ref()
    }

    /// Follows its function to another revision, and its zones.
    pub(super) fn follow(&mut self, view: &View, settings: &CronSettings, now: Timestamp) {
        if !Arc::ptr_eq(&self.spec, &view.spec) {
            if self.settings().map(|before| &before.schedule) != Some(&settings.schedule) {
                // What would have been due by this schedule before it was deployed was not.
                self.row.begin(now);
            }
            if self.settings().map(|before| before.jitter) != Some(settings.jitter) {
                self.delay = delay(&self.entry, view, settings);
            }
            self.spec = view.spec.clone();
        } else {
            let valid_for = if self.timetable.is_ok() { ZONES_FOR } else { NO_ZONE_FOR };
            if self.read_at.elapsed() < valid_for {
                return;
            }
        }
        self.read_at = Instant::now();
        self.timetable = settings.schedule.timetable();
        self.set_wake(now);
    }

    /// Finds out when it is to be looked at next.
    pub(super) fn set_wake(&mut self, now: Timestamp) {
        let next = self.next(now);
        self.wake = next.map(|next| next.checked_add(self.delay).unwrap_or(next));
    }

    /// When it is due next.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Timestamp> {
        let since = self.row.since(now);
        self.timetable.as_ref().ok()?.next(since)
    }
}

fn delay(entry: &Entry, view: &View, settings: &CronSettings) -> SignedDuration {
    part_of(settings.jitter, &entry.label, view.created_at)
}
