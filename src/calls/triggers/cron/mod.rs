//! Functions that are called by a schedule.
//!
//! ```text
//! functions ──▶ timers ── due? ──▶ decide ──┬─ run ────────▶ queue: call and timer in one write ──▶ lanes
//!    (looked at       ▲                     ├─ wait, skip ─▶ timer
//!     each second)    └──── run has ended ──┴─ miss ───────▶ timer
//! ```
//!
//! Invariants
//! - A run and what says that it was made reach the disk in one write: whenever the daemon is killed, no run is lost
//!   and none is made twice. From then on it is a call of the queue like any other.
//! - Timers are changed by one at a time, who holds `turn`. Nothing is changed in memory that the store has refused.
//! - A timer makes at most one run at a time, however far the clock jumps.
//! - Nobody sleeps until a run is due: the clock may be changed meanwhile. It is looked at each second.

mod decide;
mod error;
mod record;
mod request;
mod status;
mod timer;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use error::CronError;
pub use record::{Counts, End, LeftOut};
pub use status::{LastRun, Outcome, TimerStatus};

use crate::queue::{JobMetadata, Queue, QueueError, Stage};
use decide::{Decided, decide};
use directory::{Directory, Entry, Phase};
use host::store::Store;
use model::function::{CronSettings, FunctionKey, Incarnation};
use model::sync::lock;
use record::{Row, Run};
use timer::{Problem, Timer};

/// The longest time between two looks at the clock and at the functions.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The functions that are called by a schedule. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Cron(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    directory: Arc<Directory>,
    queue: Queue,
    timers: Mutex<BTreeMap<FunctionKey, Timer>>,
    /// Held by whoever changes timers.
    turn: tokio::sync::Mutex<Turn>,
}

/// What is known from turn to turn.
#[derive(Debug)]
struct Turn {
    /// The time of the last one.
    at: Timestamp,
    /// What an earlier process has left, until its function is met.
    left: HashMap<(FunctionKey, Incarnation), Row>,
}

impl Cron {
    /// The timers of this machine, with what an earlier process has left. Nothing is made before [`Self::run`].
    pub fn open(store: Arc<Store>, directory: Arc<Directory>, queue: Queue) -> Result<Self, CronError> {
        let mut left = HashMap::new();
        // What is out of service was named, and each run that is due says so.
        let timers = if store.absence().is_some() { Vec::new() } else { store.timers()? };
        for (function, incarnation, row) in timers {
            let row = row.unwrap_or_else(|error| {
                tracing::error!(
                    %function, error = &error as &dyn std::error::Error,
                    "what is known of a function's schedule cannot be read; it begins anew"
                );
                // Nobody knows what was made: nothing is made up for.
                Row::new(Timestamp::now())
            });
            left.insert((function, incarnation), row);
        }
        let turn = tokio::sync::Mutex::new(Turn { at: Timestamp::MIN, left });
        Ok(Self(Arc::new(Shared { store, directory, queue, timers: Mutex::default(), turn })))
    }

    /// Makes runs when they are due, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let shared = &self.0;
        loop {
            let now = Timestamp::now();
            let Some(next) = stop.run_until_cancelled(self.turn(now)).await else { return };
            // What was due and could not be done is tried again later.
            let pause = next
                .filter(|next| *next > now)
                .map(|next| Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default());
            tokio::select! {
                () = stop.cancelled() => return,
                () = shared.queue.run_ended() => {}
                () = tokio::time::sleep(pause.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)) => {}
            }
        }
    }

    /// Does what is to be done at this time, and returns when that is on disk; the time at which something is due next.
    pub async fn turn(&self, now: Timestamp) -> Option<Timestamp> {
        let mut turn = self.0.turn.lock().await;
        self.follow(&mut turn, now);
        // They share a flush of the store.
        let work: Vec<_> = self.0.timers().keys().cloned().collect();
        join_all(work.iter().map(|function| self.look(function, now))).await;
        self.0.timers().values().filter_map(|timer| timer.wake).min()
    }

    /// Has a function called now, whatever its schedule says, and whatever of it still runs; the call's id.
    pub async fn run_now(&self, function: &FunctionKey, now: Timestamp) -> Result<String, CronError> {
        let mut turn = self.0.turn.lock().await;
        self.follow(&mut turn, now);
        let timer = self.0.timers().get(function).map(|timer| (timer.entry.clone(), timer.row.clone()));
        match timer {
            Some((entry, row)) => self.accept(&entry, row, None, now).await,
            None if self.0.directory.get(function).is_none() => Err(CronError::NotFound(function.clone())),
            None => Err(CronError::NoSchedule(function.clone())),
        }
    }

    /// Follows what was deployed and removed, and the clock.
    fn follow(&self, turn: &mut Turn, now: Timestamp) {
        let shared = &self.0;
        let set_back = now < turn.at;
        turn.at = now;
        let mut timers = shared.timers();
        let same = |timer: &Timer| {
            let entry = shared.directory.get(&timer.entry.key);
            entry.is_some_and(|entry| Arc::ptr_eq(&entry, &timer.entry))
        };
        // What is kept goes with the function.
        timers.retain(|_, timer| same(timer));
        for entry in shared.directory.all() {
            let view = entry.view();
            let key = &entry.key;
            let life = (key.clone(), entry.incarnation.clone());
            match (&view.spec.cron, timers.get_mut(key)) {
                _ if view.phase == Phase::Removing => drop(timers.remove(key)),
                (Some(settings), Some(timer)) => {
                    timer.follow(&view, settings, now);
                    if set_back {
                        timer.set_wake(now);
                    }
                }
                (Some(settings), None) => {
                    let mut row = turn.left.remove(&life).unwrap_or_else(|| Row::new(view.created_at));
                    // An update may have brought another schedule, which was not asked before.
                    row.begin_later(view.created_at);
                    timers.insert(key.clone(), Timer::new(&entry, &view, settings, row, now));
                }
                (None, None) if turn.left.remove(&life).is_none() => {}
                (None, _) => {
                    timers.remove(key);
                    shared.store.delete_timer(key, &entry.incarnation);
                }
            }
        }
    }

    /// Looks at one timer.
    async fn look(&self, function: &FunctionKey, now: Timestamp) {
        let shared = &self.0;
        let (before, settings, timetable, delay, due, entry, problem) = {
            let timers = shared.timers();
            let Some(timer) = timers.get(function) else { return };
            let Some(settings) = timer.settings() else { return };
            let is_due = timer.wake.is_some_and(|wake| wake <= now);
            // Nearly always.
            let waits = !timer.row.open.is_empty() || !timer.row.owed.is_empty();
            let is_well = timer.timetable.is_ok() && timer.problem.is_none();
            if !is_due && !waits && is_well {
                return;
            }
            (
                timer.row.clone(),
                settings.clone(),
                timer.timetable.clone(),
                timer.delay,
                is_due,
                timer.entry.clone(),
                timer.problem.clone(),
            )
        };
        let mut row = before.clone();
        let done = async {
            let free = self.find_ends(function, &mut row)?;
            if row != before {
                shared.store.put_timer_soon(function, &entry.incarnation, &row)?;
                shared.change(function, now, |timer| timer.row = row.clone());
            }
            let timetable = match timetable {
                Ok(timetable) if due || free && !row.owed.is_empty() => timetable,
                Ok(_) => return Ok(()),
                Err(reason) => return Err(reason.into()),
            };
            let Decided { row: after, run } =
                decide(&row, &settings, &timetable, now, delay, free, problem.as_ref());
            if run.is_some() {
                self.accept(&entry, after, run, now).await?;
            } else if after != row {
                if after.counts != row.counts {
                    self.say_left_out(function, &after, &settings);
                }
                shared.store.put_timer(function, &entry.incarnation, &after).await?;
                shared.change(function, now, |timer| timer.row = after);
            }
            Ok(())
        };
        let reason = done.await.err().map(|error: Box<dyn Error + Send + Sync>| model::error::chain(&*error));
        shared.change(function, now, |timer| {
            let known = timer.problem.take().map(|problem| problem.reason);
            if let Some(problem) = reason.as_ref().filter(|reason| known.as_ref() != Some(*reason)) {
                tracing::error!(%function, problem, "a function is not called as its schedule says; trying again");
            }
            timer.problem = reason.map(|reason| Problem { reason, at: now });
        });
    }

    /// Finds out which runs have ended; whether all have.
    fn find_ends(&self, function: &FunctionKey, row: &mut Row) -> Result<bool, QueueError> {
        for number in row.open.clone() {
            if self.0.queue.watches(number) {
                continue;
            }
            let stage = self.0.queue.watch(number)?;
            if stage == Stage::Unreadable {
                // It runs no more, but nobody can tell whether it did.
                tracing::error!(%function, number, "a run of a function's schedule cannot be read, and is not made");
            }
            if let Some(end) = End::of(stage) {
                row.ended(number, end);
            }
        }
        Ok(row.open.is_empty())
    }

    /// Has a run made: due at a time, or asked for. Returns when it is on disk.
    async fn accept(
        &self,
        entry: &Entry,
        mut row: Row,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<String, CronError> {
        let (shared, function) = (&self.0, &entry.key);
        let call_id = Uuid::new_v4().to_string();
        let mut facts = JobMetadata::new(function.clone(), call_id.clone(), "POST".to_owned(), "/");
        facts.incarnation = Some(entry.incarnation.clone());
        let head = request::of(function, &call_id, due, now);
        let keep = |number| {
            row.accepted(Run { number, call_id: call_id.clone(), due, at: now, end: None });
            serde_json::to_vec(&row).expect("a timer is JSON")
        };
        let number = shared.queue.accept_run(facts, &entry.incarnation, head, keep).await?;
        shared.change(function, now, |timer| (timer.row, timer.problem) = (row, None));
        tracing::debug!(%function, number, call = call_id, "a run of a function's schedule is queued");
        Ok(call_id)
    }

    fn say_left_out(&self, function: &FunctionKey, row: &Row, settings: &CronSettings) {
        let Some(left_out) = &row.left_out else { return };
        tracing::warn!(
            %function, due = %left_out.due, reason = left_out.reason, schedule = &*settings.text,
            "a run of a function's schedule is left out"
        );
    }
}

impl Shared {
    fn timers(&self) -> MutexGuard<'_, BTreeMap<FunctionKey, Timer>> {
        lock(&self.timers)
    }

    /// Changes a timer that is still there.
    fn change(&self, function: &FunctionKey, now: Timestamp, change: impl FnOnce(&mut Timer)) {
        if let Some(timer) = self.timers().get_mut(function) {
            change(timer);
            timer.set_wake(now);
        }
    }
}
