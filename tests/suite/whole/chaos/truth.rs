//! What each function may answer now, and the judge of all calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::support::http::{Answer, Lost};

/// What a function may answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct May {
    pub(super) versions: BTreeSet<u32>,
    /// That it is not there.
    pub(super) absent: bool,
}

/// Something that makes calls fail which could not be helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The daemon was killed.
    Daemon,
    /// Replicas were killed.
    Replicas,
}

#[derive(Debug)]
struct Losing {
    loss: Loss,
    /// When it was over.
    to: Option<Instant>,
}

/// A call that was made.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) function: &'static str,
    /// It may be made twice.
    pub(super) idempotent: bool,
    pub(super) began: Instant,
    /// What was true then.
    pub(super) before: May,
}

#[derive(Debug, Default)]
pub(super) struct Truth(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    functions: BTreeMap<&'static str, May>,
    losing: Vec<Losing>,
    counts: Counts,
    faults: Vec<String>,
}

/// How many calls there were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Answered by their function.
    pub(super) answered: u64,
    /// Told that the function is not there, which is true.
    pub(super) absent: u64,
    /// Failed where that could not be helped.
    pub(super) lost: u64,
}

impl Truth {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the function may answer from now on.
    pub(super) fn set(&self, function: &'static str, may: May) {
        self.lock().functions.insert(function, may);
    }

    /// What the function may answer from now on, too.
    pub(super) fn also(&self, function: &'static str, version: Option<u32>) {
        let mut state = self.lock();
        let may = state.functions.entry(function).or_default();
        match version {
            Some(version) => drop(may.versions.insert(version)),
            None => may.absent = true,
        }
    }

    /// A loss begins.
    pub(super) fn begin(&self, loss: Loss) {
        self.lock().losing.push(Losing { loss, to: None });
    }

    /// All losses are over.
    pub(super) fn over(&self) {
        let now = Instant::now();
        for losing in &mut self.lock().losing {
            losing.to.get_or_insert(now);
        }
    }

    /// A call begins.
    pub(super) fn call(&self, function: &'static str, idempotent: bool) -> Called {
        let before = self.lock().functions.get(function).cloned().unwrap_or_default();
        Called { function, idempotent, began: Instant::now(), before }
    }

    /// A call ended; whether its function answered it.
    pub(super) fn judge(&self, called: &Called, outcome: Result<Answer, Lost>) -> bool {
        let mut state = self.lock();
        let May { versions, absent } = state.functions.get(called.function).cloned().unwrap_or_default();
        let absent = absent || called.before.absent;
        let lost = |loss: Loss| {
            let meets =
                |losing: &Losing| losing.loss == loss && losing.to.is_none_or(|to| to >= called.began);
            state.losing.iter().any(meets)
        };
        let verdict = match &outcome {
            Ok(Answer { status: 200, body }) => match version(called.function, body) {
                Some(found) if versions.contains(&found) || called.before.versions.contains(&found) => {
                    Ok(Counts { answered: 1, ..Counts::default() })
                }
                _ => Err("the answer of another function or revision"),
            },
            Ok(Answer { status: 404, .. }) if absent => Ok(Counts { absent: 1, ..Counts::default() }),
            Ok(Answer { status: 502, .. }) if lost(Loss::Replicas) && !called.idempotent => {
                Ok(Counts { lost: 1, ..Counts::default() })
            }
            Ok(_) => Err("an error"),
            // Of a replica's answer the head had been sent on.
            Err(Lost::Broken(_)) if lost(Loss::Daemon) || lost(Loss::Replicas) => {
                Ok(Counts { lost: 1, ..Counts::default() })
            }
            Err(Lost::Broken(_)) => Err("no answer"),
            // The socket is there all the time.
            Err(Lost::NoConnection(_)) => Err("no connection"),
            Err(Lost::Hung(_)) => Err("beyond its deadline"),
        };
        match verdict {
            Ok(counts) => {
                state.counts.answered += counts.answered;
                state.counts.absent += counts.absent;
                state.counts.lost += counts.lost;
                counts.answered == 1
            }
            Err(fault) => {
                let ago = called.began.elapsed();
                state.faults.push(format!(
                    "{fault}: a call that began {ago:?} ago (may be made twice: {}) of {}, which might answer {:?}, \
                     or {versions:?} by now, and be absent: {absent}: {outcome:?}",
                    called.idempotent, called.function, called.before.versions
                ));
                false
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(super) fn faults(&self) -> Vec<String> {
        self.lock().faults.clone()
    }
}

/// The version that an answer to `/env` names, if it is of this function.
fn version(function: &str, body: &str) -> Option<u32> {
    let value = |name: &str| body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    (value("function") == Some(function)).then_some(value("version")?.parse().ok()).flatten()
}

mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::time::Duration;

    fn answer(status: u16, body: &str) -> Result<Answer, Lost> {
        Ok(Answer { status, body: body.into() })
    }

    fn truth() -> Truth {
        let truth = Truth::default();
        truth.set("a", May { versions: [1].into(), absent: false });
        truth
    }

    #[test]
    fn only_the_right_function_and_revision_is_an_answer() {
        for (body, right) in [
            ("function=a\nversion=1\n", true),
            ("function=a\nversion=2\n", false),
            ("function=b\nversion=1\n", false),
            ("function=a\n", false),
            ("", false),
        ] {
            let truth = truth();
            let called = truth.call("a", true);
            assert_eq!(truth.judge(&called, answer(200, body)), right, "{body:?}");
            assert_eq!(truth.faults().is_empty(), right, "{body:?}");
        }
        // What it might answer when the call began, it may.
        let truth = truth();
        let called = truth.call("a", true);
        truth.set("a", May { versions: [2].into(), absent: false });
        assert!(truth.judge(&called, answer(200, "version=1\nfunction=a\n")));
        assert!(!truth.judge(&truth.call("a", true), answer(200, "version=1\nfunction=a\n")));
        assert_eq!((truth.counts().answered, truth.faults().len()), (1, 1));
    }

    #[test]
    fn a_failure_is_a_fault_unless_it_could_not_be_helped() {
        let reset = || Err(Lost::Broken(ErrorKind::ConnectionReset.into()));
        let refused = || Err(Lost::NoConnection(ErrorKind::ConnectionRefused.into()));
        let hung = || Err(Lost::Hung(Duration::from_secs(1)));
        let faults = |loss: Option<Loss>, idempotent, outcome| {
            let truth = truth();
            let called = truth.call("a", idempotent);
            if let Some(loss) = loss {
                truth.begin(loss);
                truth.over();
            }
            truth.judge(&called, outcome);
            // A loss that is over excuses nothing that began later.
            let later = truth.call("a", false);
            std::thread::yield_now();
            truth.judge(&later, answer(502, ""));
            truth.faults().len() - 1
        };
        for idempotent in [true, false] {
            for loss in [None, Some(Loss::Daemon), Some(Loss::Replicas)] {
                assert_eq!(faults(loss, idempotent, hung()), 1);
                assert_eq!(faults(loss, idempotent, answer(404, "")), 1);
                assert_eq!(faults(loss, idempotent, answer(500, "")), 1);
            }
            assert_eq!(faults(Some(Loss::Daemon), idempotent, reset()), 0);
            assert_eq!(faults(Some(Loss::Daemon), idempotent, refused()), 1);
            assert_eq!(faults(None, idempotent, reset()), 1);
        }
        assert_eq!(faults(Some(Loss::Replicas), false, answer(502, "")), 0);
        assert_eq!(faults(Some(Loss::Replicas), true, answer(502, "")), 1, "it may be made twice, so it is");
    }
}
