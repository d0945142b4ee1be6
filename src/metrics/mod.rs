//! Counts, and their Prometheus text.
//!
//! Invariants
//! - Counting on the request path takes no lock and, but for the first call with a status code, allocates
//!   nothing.
//! - No label holds text that a client chose, except the name of a function that is deployed.

mod calls;

pub use calls::{CallStats, CodeCounts, StatsSnapshot};
