//! Scheduling of queued calls: which one runs next, and when one that failed runs again.

pub(super) mod retry;
pub(super) mod scheduler;
