//! Scheduling of queued calls: which are admitted, which one runs next, and when one that failed runs again.

pub(super) mod admission;
pub(super) mod retry;
pub(super) mod scheduler;
