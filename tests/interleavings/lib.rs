//! Runs what threads share in every order of their steps, with loom's atomics in the place of the standard ones.
#![cfg(test)]

/// Atomics of [`in_flight`].
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU32, Ordering};
}

#[path = "../../src/directory/in_flight.rs"]
mod in_flight;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Arc, Notify};
use loom::thread;

use in_flight::InFlight;

/// A replica that calls use and a drain stops. loom fails if it is stopped while a call uses it.
struct Replica {
    in_flight: InFlight,
    drained: Notify,
    /// loom reports whoever enters while another is in it.
    process: UnsafeCell<()>,
    stopped: AtomicBool,
}

impl Replica {
    /// Does what a call does: takes a lease, uses the replica, and drops the lease. Returns whether it was taken.
    fn call(&self) -> bool {
        let taken = self.in_flight.enter();
        if taken {
            self.process.with(|_| ());
            assert!(!self.stopped.load(Ordering::Relaxed), "a call was sent to a stopped replica");
        }
        if self.in_flight.leave() {
            self.drained.notify();
        }
        taken
    }

    fn drain(&self) {
        self.in_flight.close();
        while self.in_flight.count() > 0 {
            self.drained.wait();
        }
        self.process.with_mut(|_| ());
        self.stopped.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_replica_is_stopped_after_its_last_call_and_takes_none_then() {
    let mut model = loom::model::Builder::new();
    // All orders with as many switches in the middle of a thread; without a bound it takes minutes.
    model.preemption_bound = Some(3);
    model.check(|| {
        let replica = Arc::new(Replica {
            in_flight: InFlight::default(),
            drained: Notify::new(),
            process: UnsafeCell::new(()),
            stopped: AtomicBool::new(false),
        });
        let calls: Vec<_> = (0..2)
            .map(|_| {
                let replica = replica.clone();
                thread::spawn(move || replica.call())
            })
            .collect();
        replica.drain();
        assert!(!replica.in_flight.is_open());
        assert!(!replica.call(), "a call was taken after the drain");
        for call in calls {
            call.join().expect("no panic");
        }
    });
}
