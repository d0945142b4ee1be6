//! What is asked, what is killed, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::long::Chance;

/// Functions that are called all the time and never deleted, so that there is always somebody to call.
pub(super) const STEADY: [&str; 2] = ["anna", "bert"];
/// Functions that are called all the time, and come and go.
pub(super) const PASSING: [&str; 2] = ["carl", "dora"];
/// Functions that nobody calls unless a round does, so that they can be stopped.
pub(super) const QUIET: [&str; 1] = ["emil"];

/// What a function is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) version: u32,
    pub(super) replicas: u32,
}

/// What is asked of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Deploy {
        version: u32,
    },
    Update {
        version: u32,
    },
    Scale {
        replicas: u32,
    },
    Delete,
    /// One that takes this many milliseconds.
    Call {
        takes: u64,
    },
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// The first process of a replica, with SIGKILL.
    Process,
    /// The shim of a replica, with SIGKILL.
    Shim,
    Containerd,
    /// containerd ended with SIGTERM and started again, as an upgrade does.
    ContainerdRestart,
    Daemon,
    /// The daemon with SIGTERM.
    DaemonRestart,
    /// The daemon, containerd, all shims and all processes.
    Everything,
}

const VICTIMS: [Victim; 9] = [
    // Twice as often as the others: they have the most moments.
    Victim::Process,
    Victim::Process,
    Victim::Shim,
    Victim::Shim,
    Victim::Containerd,
    Victim::ContainerdRestart,
    Victim::Daemon,
    Victim::DaemonRestart,
    Victim::Everything,
];

/// One round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) function: &'static str,
    pub(super) operation: Operation,
    pub(super) victim: Victim,
    /// Between the beginning of the operation and the kill.
    pub(super) after: Duration,
    /// How long containerd or the daemon is away.
    pub(super) away: Duration,
    /// Which of several processes or shims.
    pub(super) which: u64,
    /// Whether the daemon is brought back before containerd, where both are away.
    pub(super) daemon_first: bool,
}

impl Plan {
    /// The next round, when this is wanted.
    pub(super) fn draw(chance: &mut Chance, wanted: &BTreeMap<&'static str, Want>) -> Self {
        let present: Vec<&str> = wanted.keys().copied().collect();
        let (gone, passing): (Vec<&str>, Vec<&str>) =
            PASSING.iter().partition(|name| !wanted.contains_key(*name));
        let any = *chance.one_of(&present).expect("some are always there");
        let version = wanted.values().map(|want| want.version).max().unwrap_or_default() + 1;
        let (function, operation) = match chance.below(10) {
            0 | 1 => match chance.one_of(&gone) {
                Some(name) => (*name, Operation::Deploy { version }),
                None => (any, Operation::Update { version }),
            },
            2..=4 => (any, Operation::Update { version }),
            5 | 6 if QUIET.contains(&any) => {
                (any, Operation::Scale { replicas: u32::try_from(chance.below(3)).expect("few") })
            }
            5 | 6 => (any, Operation::Scale { replicas: u32::try_from(chance.below(3)).expect("few") + 1 }),
            7 => match chance.one_of(&passing) {
                Some(name) => (*name, Operation::Delete),
                None => (any, Operation::Call { takes: 200 }),
            },
            _ => (any, Operation::Call { takes: chance.below(400) }),
        };
        Self {
            function,
            operation,
            victim: *chance.one_of(&VICTIMS).expect("one"),
            // Most of what an operation does is done in its first moments.
            after: match chance.below(3) {
                0 => Duration::from_millis(chance.below(30)),
                1 => Duration::from_millis(chance.below(150)),
                _ => Duration::from_millis(chance.below(600)),
            },
            away: Duration::from_millis(chance.below(800)),
            which: chance.below(1000),
            daemon_first: chance.below(2) == 0,
        }
    }
}
