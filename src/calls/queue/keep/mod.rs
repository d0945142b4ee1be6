//! Keeping of calls that have ended: dead letters and records, how they are found, and which of them are evicted.

pub(super) mod dead_letter;
pub(super) mod fair_share;
pub(super) mod index;
pub(super) mod query;
pub(super) mod record;
