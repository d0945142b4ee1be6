//! How far a pull has come: counted by the puller, read by whoever describes the function.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use model::sync::lock;

/// A counter of bytes, shared. Cloning gives another handle to the same count.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    total: AtomicU64,
    note: Mutex<Option<String>>,
}

/// A reading of [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressReport {
    /// Bytes that have arrived, those of an earlier attempt included.
    pub done: u64,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
}

impl Progress {
    /// Says how many bytes there are in all.
    pub fn set_total(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that have arrived.
    pub fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes bytes back: a transfer had to begin again.
    pub fn subtract(&self, bytes: u64) {
        self.0.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes what holds the pull up, or that nothing does any more.
    pub fn note(&self, text: Option<String>) {
        *lock(&self.0.note) = text;
    }

    /// Returns the cause that holds the pull up.
    pub fn held_up_by(&self) -> Option<String> {
        lock(&self.0.note).clone()
    }

    /// How far it has come.
    pub fn report(&self) -> ProgressReport {
        ProgressReport {
            done: self.0.done.load(Ordering::Relaxed),
            total: self.0.total.load(Ordering::Relaxed),
        }
    }
}
