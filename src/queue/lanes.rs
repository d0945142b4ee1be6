//! Which call is made next: one lane for each function, and turns between them.
//!
//! Pure: what is due is asked for with the time, and every change is told. Within a lane calls are made in the order
//! in which they were queued, apart from those that wait for another try. Lanes take turns, so that a function with
//! a long queue, or a slow one, holds up nobody but itself.
//!
//! Invariants
//! - A number is in one place: ready or waiting in its lane, or running.
//! - Never more run than the limits allow, of a lane, of a queue, and of all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

use crate::function::FunctionKey;

/// Calls that may be made at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// In all.
    pub(super) all: usize,
    /// Of one queue.
    pub(super) queue: usize,
}

/// The queue of a function's calls.
#[derive(Debug, Default)]
struct Lane {
    queue: Box<str>,
    ready: VecDeque<u64>,
    running: usize,
    /// How many wait for their time.
    waiting: usize,
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
    /// They could be made now.
    pub ready: usize,
    /// They wait for their time.
    pub waiting: usize,
    /// They are being made.
    pub running: usize,
}

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    limits: Limits,
    lanes: BTreeMap<FunctionKey, Lane>,
    queues: BTreeMap<Box<str>, Queue>,
    /// Lanes that have something ready, the one whose turn it is first.
    turns: VecDeque<FunctionKey>,
    /// What waits, by the time at which it is due.
    due: BTreeSet<(Instant, u64, FunctionKey)>,
    running: usize,
}

impl Lanes {
    /// No lane yet.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: BTreeMap::new(),
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            due: BTreeSet::new(),
            running: 0,
        }
    }

    /// Takes in a call, to be made at once or at a time. The queue that it names is its function's from now on.
    pub(super) fn add(&mut self, function: &FunctionKey, queue: &str, number: u64, at: Option<Instant>) {
        let lane = self.lanes.entry(function.clone()).or_default();
        if *lane.queue != *queue {
            let running = lane.running;
            let before = std::mem::replace(&mut lane.queue, queue.into());
            self.moved(&before, queue, running);
        }
        match at {
            Some(at) => self.wait(function, number, at),
            None => self.push(function, number),
        }
    }

    /// What runs of a lane counts for the queue that the lane is in.
    fn moved(&mut self, from: &str, to: &str, running: usize) {
        if let Some(queue) = self.queues.get_mut(from) {
            queue.running -= running;
        }
        self.queues.entry(to.into()).or_default().running += running;
    }

    fn wait(&mut self, function: &FunctionKey, number: u64, at: Instant) {
        if let Some(lane) = self.lanes.get_mut(function) {
            lane.waiting += 1;
            self.due.insert((at, number, function.clone()));
        }
    }

    fn push(&mut self, function: &FunctionKey, number: u64) {
        let Some(lane) = self.lanes.get_mut(function) else { return };
        if lane.ready.is_empty() {
            self.turns.push_back(function.clone());
        }
        // What comes back from waiting is older than what came meanwhile, and goes before it.
        let place = lane.ready.partition_point(|other| *other < number);
        lane.ready.insert(place, number);
    }

    /// The call to make now, which then runs, if there is one. `limit` is how many of a function may run.
    pub(super) fn next(
        &mut self,
        now: Instant,
        limit: impl Fn(&FunctionKey) -> usize,
    ) -> Option<(FunctionKey, u64)> {
        self.wake(now);
        if self.running >= self.limits.all {
            return None;
        }
        for _ in 0..self.turns.len() {
            let function = self.turns.pop_front()?;
            let lane = self.lanes.get_mut(&function)?;
            let queue = self.queues.entry(lane.queue.clone()).or_default();
            let may_run =
                !queue.paused && queue.running < self.limits.queue && lane.running < limit(&function);
            if !may_run {
                self.turns.push_back(function);
                continue;
            }
            let number = lane.ready.pop_front()?;
            if !lane.ready.is_empty() {
                self.turns.push_back(function.clone());
            }
            lane.running += 1;
            queue.running += 1;
            self.running += 1;
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

    /// When the first of those that wait is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// A call that ran does not any more. With a time it is to be made again then.
    pub(super) fn ended(&mut self, function: &FunctionKey, number: u64, again: Option<Instant>) {
        let Some(lane) = self.lanes.get_mut(function) else { return };
        lane.running -= 1;
        self.running -= 1;
        if let Some(queue) = self.queues.get_mut(&lane.queue) {
            queue.running -= 1;
        }
        match again {
            Some(at) => self.wait(function, number, at),
            None => self.tidy(function),
        }
    }

    /// Forgets a lane that has nothing.
    fn tidy(&mut self, function: &FunctionKey) {
        let is_empty = |lane: &Lane| lane.ready.is_empty() && lane.waiting == 0 && lane.running == 0;
        if self.lanes.get(function).is_some_and(is_empty) {
            self.lanes.remove(function);
        }
    }

    /// Makes no more calls of a queue, or makes them again.
    pub(super) fn pause(&mut self, queue: &str, paused: bool) {
        self.queues.entry(queue.into()).or_default().paused = paused;
    }

    /// All queues that were paused or had something to do, and their counts.
    pub(super) fn queues(&self) -> BTreeMap<Box<str>, (bool, Counts)> {
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

    /// How many calls there are, running ones included.
    pub(super) fn total(&self) -> usize {
        self.lanes.values().map(|lane| lane.ready.len() + lane.waiting + lane.running).sum()
    }
}

#[cfg(test)]
mod tests;
