//! Calls that fail, panic, wait or hang, as a test wants it.

use std::collections::HashMap;
use std::time::Duration;

use host::runtime::RuntimeError;

use super::FakeRuntime;

/// A call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Resolve,
    Pull,
    Prepare,
    Create,
    Start,
    Stop,
    Remove,
    /// Of containers.
    List,
    /// Measurement of files.
    Footprint,
    Version,
}

impl Step {
    /// Those of a replica's life, in their order.
    pub(crate) const ALL: [Self; 7] =
        [Self::Resolve, Self::Pull, Self::Prepare, Self::Create, Self::Start, Self::Stop, Self::Remove];
}

/// What was asked for, and how often each call was made.
#[derive(Debug, Default)]
pub(super) struct Faults {
    failing: HashMap<Step, Failing>,
    delays: HashMap<Step, Duration>,
    calls: HashMap<Step, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    Once,
    Always,
    Panics,
    /// As when containerd is not there.
    Away,
    /// With an error that panics when it is put into words, which its receiver does.
    Unspeakable,
}

#[derive(Debug)]
struct Unspeakable;

impl std::error::Error for Unspeakable {}

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("the test wants this error to be unspeakable")
    }
}

impl FakeRuntime {
    /// Makes every call of `step` fail until [`Self::heal`].
    pub(crate) fn fail_at(&self, step: Step) {
        self.lock().faults.failing.insert(step, Failing::Always);
    }

    /// Makes the next call of `step` fail.
    pub(crate) fn fail_once(&self, step: Step) {
        self.lock().faults.failing.insert(step, Failing::Once);
    }

    /// Makes every call of `step` panic until [`Self::heal`].
    pub(crate) fn panic_at(&self, step: Step) {
        self.lock().faults.failing.insert(step, Failing::Panics);
    }

    /// Makes every call of `step` fail, until [`Self::heal`], with an error that makes whoever puts it into
    /// words panic.
    pub(crate) fn unspeakable_at(&self, step: Step) {
        self.lock().faults.failing.insert(step, Failing::Unspeakable);
    }

    /// Makes every call of these steps fail, until [`Self::heal`], as they do while containerd is not there.
    pub(crate) fn away_at(&self, steps: &[Step]) {
        self.lock().faults.failing.extend(steps.iter().map(|step| (*step, Failing::Away)));
    }

    /// Ends all failures and delays.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.faults.failing.clear();
        state.faults.delays.clear();
    }

    /// Makes `step` take a while.
    pub(crate) fn delay_at(&self, step: Step, time: Duration) {
        self.lock().faults.delays.insert(step, time);
    }

    /// Makes `step` never end.
    pub(crate) fn hang_at(&self, step: Step) {
        self.delay_at(step, Duration::MAX);
    }

    /// How often `step` was called.
    pub(crate) fn calls(&self, step: Step) -> usize {
        self.lock().faults.calls.get(&step).copied().unwrap_or_default()
    }

    /// Counts a call, takes its time, and fails if it is to.
    pub(super) async fn enter(&self, step: Step) -> Result<(), RuntimeError> {
        let (delay, failing) = {
            let mut state = self.lock();
            *state.faults.calls.entry(step).or_default() += 1;
            let failing = state.faults.failing.get(&step).copied();
            if failing == Some(Failing::Once) {
                state.faults.failing.remove(&step);
            }
            (state.faults.delays.get(&step).copied(), failing)
        };
        match delay {
            Some(Duration::MAX) => std::future::pending().await,
            Some(delay) => tokio::time::sleep(delay).await,
            None => {}
        }
        match failing {
            Some(Failing::Panics) => panic!("the test wants {step:?} to panic"),
            Some(Failing::Once | Failing::Always) => {
                Err(RuntimeError::failed(format!("{step:?}"), "the test wants it to fail"))
            }
            Some(Failing::Away) => {
                let source = "the test wants it to be away".into();
                Err(RuntimeError::Down { socket: "/nowhere.sock".into(), source })
            }
            Some(Failing::Unspeakable) => Err(RuntimeError::failed(format!("{step:?}"), Unspeakable)),
            None => Ok(()),
        }
    }
}
