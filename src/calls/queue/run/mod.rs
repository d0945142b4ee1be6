//! Running of queued calls: one attempt, its outcome, and the end of a call.

pub(super) mod attempt;
pub(super) mod body;
pub(super) mod complete;
pub(super) mod outcome;
pub(super) mod response;
pub(super) mod worker;
