//! Fair scheduling of queued calls: one lane for each function and each group of receivers of callbacks, and turns
//! between them.
//!
//! Pure: what is due is asked for with the time, and every change is told. Within a lane calls are made in
//! the order in which they were queued, apart from those that wait for another attempt. Lanes take turns, and
//! none takes more than half of all places, so that a function with a long queue, or a slow one, holds up
//! nobody but itself. A function that has no room now is left alone as a whole: to offer it one call after
//! the other would only keep it busy. Callbacks to hosts that the configuration does not name start at most
//! once a second in all, because callers choose the hosts.
//!
//! Invariants
//! - A number is in one place: ready or waiting in its lane, or running.
//! - Never more run than the limits allow, of a lane, of a queue, and of all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::queue::job::Excerpt;
use model::function::{CALLBACKS, FunctionKey};

/// How long a lane is left alone whose function had no room: the first time, and at most if it goes on like that.
const HOLD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Time between the starts of two callbacks to hosts that the configuration does not name, over all lanes.
const UNNAMED_PACE: Duration = Duration::from_secs(1);

/// Whose calls a lane has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::queue) enum LaneKey {
    /// Calls of a function.
    Function(FunctionKey),
    /// Callbacks to a group of receivers.
    Receivers(u8),
    /// Callbacks to a group of receivers at hosts that the configuration does not name.
    Unnamed(u8),
}

impl LaneKey {
    /// Returns whether the calls of this lane are callbacks.
    pub(in crate::queue) fn is_of_callbacks(&self) -> bool {
        matches!(self, Self::Receivers(_) | Self::Unnamed(_))
    }
}

/// Calls that may be made at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::queue) struct Limits {
    /// In all.
    pub(in crate::queue) all: usize,
    /// Of one queue.
    pub(in crate::queue) queue: usize,
}

/// The calls of one function, or the callbacks to one group of receivers.
#[derive(Debug, Default)]
struct Lane {
    queue: Box<str>,
    ready: VecDeque<u64>,
    running: usize,
    /// How many wait for their time.
    waiting: usize,
    /// None is made before.
    held_until: Option<Instant>,
    /// How often in a row the function had no room.
    rejections: u32,
    /// Since when.
    refused_since: Option<Instant>,
    /// Word of the function the last time that it had no room.
    refusal: Option<Refusal>,
}

/// The word of a function that has no room.
#[derive(Debug, Clone)]
pub(in crate::queue) struct Refusal {
    /// Status that a client would have been answered.
    pub(in crate::queue) status: u16,
    /// Why, in words.
    pub(in crate::queue) reason: Excerpt,
}

impl Lane {
    fn count(&self) -> usize {
        self.ready.len() + self.waiting + self.running
    }

    /// Returns the time before which no call of this lane, which has this key, is made.
    fn held_until(&self, key: &LaneKey, unnamed_from: Option<Instant>) -> Option<Instant> {
        self.held_until.max(unnamed_from.filter(|_| matches!(key, LaneKey::Unnamed(_))))
    }

    /// Its function has no room now.
    fn refuse(&mut self, now: Instant, asked: Duration) {
        // Those that were made at the same time say the same.
        if self.held_until.is_none_or(|held| held <= now) {
            self.rejections = self.rejections.saturating_add(1);
        }
        self.refused_since.get_or_insert(now);
        let own = HOLD.0.saturating_mul(1 << self.rejections.saturating_sub(1).min(16)).min(HOLD.1);
        self.held_until = self.held_until.max(Some(now + asked.max(own)));
    }
}

/// One named queue.
#[derive(Debug, Default)]
struct Queue {
    paused: bool,
    running: usize,
}

/// How many calls a lane or queue has, and where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that could be made now.
    pub ready: usize,
    /// Calls that wait for their time.
    pub waiting: usize,
    /// Calls that are being made.
    pub running: usize,
}

/// The next step of a call that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum Next {
    /// Nothing more.
    Nothing,
    /// Another attempt at a time.
    At(Instant),
    /// Not made, for its function has no room. It keeps its place, and its lane is left alone for at least so long.
    Refused(Duration),
    /// Nothing more: its function had no room for too long. Its lane is left alone as if it were made again.
    GivenUp(Duration),
}

/// All lanes.
#[derive(Debug, Default)]
pub(in crate::queue) struct FairScheduler {
    limits: Limits,
    lanes: BTreeMap<LaneKey, Lane>,
    queues: BTreeMap<Box<str>, Queue>,
    /// Lanes that have something ready, the one whose turn it is first.
    round: VecDeque<LaneKey>,
    /// Calls that wait, by the time at which they are due.
    due: BTreeSet<(Instant, u64, LaneKey)>,
    running: usize,
    /// Time before which no callback to a host that the configuration does not name starts.
    unnamed_from: Option<Instant>,
}

impl FairScheduler {
    /// No lane yet.
    pub(in crate::queue) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes in a call, to be made at once or at a time. The queue that it names is its function's from now on.
    pub(in crate::queue) fn add(
        &mut self,
        function: &LaneKey,
        queue: &str,
        number: u64,
        at: Option<Instant>,
    ) {
        self.lanes.entry(function.clone()).or_default();
        self.assign(function, queue);
        match at {
            Some(at) => self.wait(function, number, at),
            None => self.push(function, number),
        }
    }

    /// Puts a function's lane into a queue. What runs of it counts for the queue that it is in.
    fn assign(&mut self, function: &LaneKey, queue: &str) {
        let Some(lane) = self.lanes.get_mut(function) else { return };
        if *lane.queue == *queue {
            return;
        }
        let running = lane.running;
        let before = std::mem::replace(&mut lane.queue, queue.into());
        if let Some(before) = self.queues.get_mut(&before) {
            before.running -= running;
        }
        self.queues.entry(queue.into()).or_default().running += running;
    }

    /// Puts every lane into the queue that its function names now; `None` leaves it where it is.
    pub(in crate::queue) fn reassign(&mut self, queue_of: impl Fn(&LaneKey) -> Option<Box<str>>) {
        let functions: Vec<LaneKey> = self.lanes.keys().cloned().collect();
        for function in functions {
            if let Some(queue) = queue_of(&function) {
                self.assign(&function, &queue);
            }
        }
    }

    fn wait(&mut self, function: &LaneKey, number: u64, at: Instant) {
        if let Some(lane) = self.lanes.get_mut(function) {
            lane.waiting += 1;
            self.due.insert((at, number, function.clone()));
        }
    }

    fn push(&mut self, function: &LaneKey, number: u64) {
        let Some(lane) = self.lanes.get_mut(function) else { return };
        if lane.ready.is_empty() {
            self.round.push_back(function.clone());
        }
        // What comes back from waiting is older than what came meanwhile, and goes before it.
        let place = lane.ready.partition_point(|other| *other < number);
        lane.ready.insert(place, number);
    }

    /// The call to make now, which then runs, if there is one. `limit` is how many of a function may run.
    pub(in crate::queue) fn next(
        &mut self,
        now: Instant,
        limit: impl Fn(&LaneKey) -> usize,
    ) -> Option<(LaneKey, u64)> {
        self.wake(now);
        if self.running >= self.limits.all {
            return None;
        }
        let (share, unnamed_from) = (self.limits.all.div_ceil(2), self.unnamed_from);
        for _ in 0..self.round.len() {
            let function = self.round.pop_front()?;
            let lane = self.lanes.get_mut(&function)?;
            let queue = self.queues.entry(lane.queue.clone()).or_default();
            // Whoever names receivers that are slow must not hold up calls.
            let most =
                if *lane.queue == *CALLBACKS { self.limits.queue.min(share) } else { self.limits.queue };
            let may_run = !queue.paused
                && queue.running < most
                && lane.running < limit(&function).min(share)
                && lane.held_until(&function, unnamed_from).is_none_or(|until| until <= now);
            if !may_run {
                self.round.push_back(function);
                continue;
            }
            let number = lane.ready.pop_front()?;
            if !lane.ready.is_empty() {
                self.round.push_back(function.clone());
            }
            lane.running += 1;
            queue.running += 1;
            self.running += 1;
            if matches!(function, LaneKey::Unnamed(_)) {
                self.unnamed_from = Some(now + UNNAMED_PACE);
            }
            return Some((function, number));
        }
        None
    }

    /// Lets those run whose time has come.
    fn wake(&mut self, now: Instant) {
        while let Some((at, ..)) = self.due.first()
            && *at <= now
            && let Some((_, number, function)) = self.due.pop_first()
        {
            if let Some(lane) = self.lanes.get_mut(&function) {
                lane.waiting -= 1;
                self.push(&function, number);
            }
        }
    }

    /// When the first of those that wait is due, or of the lanes that are left alone.
    pub(in crate::queue) fn next_due(&self, now: Instant) -> Option<Instant> {
        let held = |key: &LaneKey| self.lanes.get(key)?.held_until(key, self.unnamed_from);
        let held = self.round.iter().filter_map(held);
        let due = self.due.first().map(|(at, ..)| *at);
        held.filter(|until| *until > now).chain(due).min()
    }

    /// A call has stopped running.
    pub(in crate::queue) fn finished(&mut self, function: &LaneKey, number: u64, next: Next, now: Instant) {
        let Some(lane) = self.lanes.get_mut(function) else { return };
        lane.running -= 1;
        self.running -= 1;
        if let Some(queue) = self.queues.get_mut(&lane.queue) {
            queue.running -= 1;
        }
        match next {
            Next::Refused(asked) | Next::GivenUp(asked) => lane.refuse(now, asked),
            Next::Nothing | Next::At(_) => {
                (lane.held_until, lane.rejections, lane.refused_since) = (None, 0, None);
                lane.refusal = None;
            }
        }
        match next {
            Next::Refused(_) => self.push(function, number),
            Next::At(at) => self.wait(function, number, at),
            Next::Nothing | Next::GivenUp(_) => self.tidy(function),
        }
    }

    /// For how long a function has had no room, each time that it was asked.
    pub(in crate::queue) fn refused_for(&self, function: &LaneKey, now: Instant) -> Duration {
        let since = self.lanes.get(function).and_then(|lane| lane.refused_since);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Notes what a function says that has no room.
    pub(in crate::queue) fn note_refusal(&mut self, function: &LaneKey, refusal: Refusal) {
        if let Some(lane) = self.lanes.get_mut(function) {
            lane.refusal = Some(refusal);
        }
    }

    /// Returns the word of a function the last time that it had no room.
    pub(in crate::queue) fn refusal(&self, function: &LaneKey) -> Option<&Refusal> {
        self.lanes.get(function)?.refusal.as_ref()
    }

    /// Takes out a call that is not being made. `false`: it is not here.
    pub(in crate::queue) fn take(&mut self, function: &LaneKey, number: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(function) else { return false };
        if let Ok(at) = lane.ready.binary_search(&number) {
            lane.ready.remove(at);
            if lane.ready.is_empty() {
                self.round.retain(|other| other != function);
            }
        } else {
            let is_it = |(_, other, key): &&(Instant, u64, LaneKey)| *other == number && key == function;
            let Some(found) = self.due.iter().find(is_it).cloned() else { return false };
            self.due.remove(&found);
            lane.waiting -= 1;
        }
        self.tidy(function);
        true
    }

    /// Forgets a lane that has nothing.
    fn tidy(&mut self, function: &LaneKey) {
        if self.count(function) == 0 {
            self.lanes.remove(function);
        }
    }

    /// Makes no more calls of a queue, or makes them again.
    pub(in crate::queue) fn pause(&mut self, queue: &str, paused: bool) {
        let was_paused = std::mem::replace(&mut self.queues.entry(queue.into()).or_default().paused, paused);
        if was_paused && !paused {
            // Nobody has asked for room meanwhile.
            for lane in self.lanes.values_mut().filter(|lane| *lane.queue == *queue) {
                lane.refused_since = None;
            }
        }
    }

    /// All queues that were paused or had something to do, and their counts.
    pub(in crate::queue) fn queues(&self) -> BTreeMap<Box<str>, (bool, Counts)> {
        let mut queues: BTreeMap<Box<str>, (bool, Counts)> = self
            .queues
            .iter()
            .map(|(name, queue)| (name.clone(), (queue.paused, Counts::default())))
            .collect();
        for lane in self.lanes.values() {
            let (_, counts) = queues.entry(lane.queue.clone()).or_default();
            counts.ready += lane.ready.len();
            counts.waiting += lane.waiting;
            counts.running += lane.running;
        }
        queues
    }

    /// How many calls a lane has, running ones included.
    fn count(&self, function: &LaneKey) -> usize {
        self.lanes.get(function).map_or(0, Lane::count)
    }
}

#[cfg(test)]
mod tests;
