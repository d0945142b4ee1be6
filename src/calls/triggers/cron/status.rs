//! How timers are, for those who ask.

use std::time::Duration;

use jiff::Timestamp;

use super::Cron;
use super::record::{Counts, End, LeftOut, Run};
use super::timer::Timer;
use crate::queue::Stage;
use model::function::{FunctionKey, Missed, Overlap};

/// How a timer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerStatus {
    /// The function.
    pub function: FunctionKey,
    /// `name.namespace`, as in metrics.
    pub label: Box<str>,
    /// Its schedule, as it was sent.
    pub schedule: Box<str>,
    /// The time zones in which that is meant.
    pub zones: Vec<String>,
    /// What becomes of a run when an earlier one has not ended.
    pub overlap: Overlap,
    /// What becomes of runs whose time has passed.
    pub missed: Missed,
    /// How late runs may be on purpose.
    pub jitter: Duration,
    /// The run that was accepted last.
    pub last: Option<LastRun>,
    /// When it is made next.
    pub next: Option<Timestamp>,
    /// Runs that wait for an earlier one to end.
    pub waiting: usize,
    /// The run that was left out last.
    pub left_out: Option<LeftOut>,
    /// How many runs there were.
    pub counts: Counts,
    /// Why runs are not accepted.
    pub problem: Option<String>,
}

/// The run that was accepted last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    /// `X-Call-Id`
    pub call_id: String,
    /// When it was due; nothing if somebody asked for it.
    pub due: Option<Timestamp>,
    /// When it was accepted.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Outcome {
    /// It is still to be made, or is being made.
    Pending {
        /// How many attempts have failed.
        tried: u32,
    },
    /// It has ended.
    #[strum(transparent)]
    Ended(End),
    /// The store does not say.
    Unknown,
}

impl Cron {
    /// All timers, by namespace and name.
    pub fn timers(&self) -> Vec<TimerStatus> {
        self.0.timers().values().filter_map(|timer| self.of(timer)).collect()
    }

    /// That of a function, if it has a schedule.
    pub fn timer(&self, function: &FunctionKey) -> Option<TimerStatus> {
        self.of(self.0.timers().get(function)?)
    }

    fn of(&self, timer: &Timer) -> Option<TimerStatus> {
        let settings = timer.settings()?;
        Some(TimerStatus {
            function: timer.entry.key.clone(),
            label: timer.entry.label.clone(),
            schedule: settings.text.clone(),
            zones: settings.schedule.zones().into_iter().map(str::to_owned).collect(),
            overlap: settings.overlap,
            missed: settings.missed,
            jitter: settings.jitter,
            last: timer.row.last.as_ref().map(|run| self.last_run(run)),
            next: timer.wake,
            waiting: timer.row.owed.len(),
            left_out: timer.row.left_out.clone(),
            counts: timer.row.counts,
            problem: timer
                .problem
                .as_ref()
                .map(|problem| problem.reason.clone())
                .or_else(|| timer.timetable.clone().err()),
        })
    }

    fn last_run(&self, run: &Run) -> LastRun {
        // The timer's word comes a moment after the queue's.
        let outcome = match run.end {
            Some(end) => Outcome::Ended(end),
            None => match self.0.queue.stage(run.number) {
                Ok(Stage::Pending { tried }) => Outcome::Pending { tried },
                Ok(stage) => End::of(stage).map_or(Outcome::Unknown, Outcome::Ended),
                Err(_) => Outcome::Unknown,
            },
        };
        LastRun { call_id: run.call_id.clone(), due: run.due, at: run.at, outcome }
    }
}
