//! Counts, and their Prometheus text.
//!
//! The text is written by hand: the names are those that dashboards of this field read, and one of
//! them (`gateway_function_invocation_started`) is a counter that encoders would rename.
//!
//! Invariants
//! - Counting on the request path takes no lock and, but for the first call with a status code, allocates
//!   nothing.
//! - No label holds text that a client chose, except the name of a function that is deployed.

mod api;
mod cron;
mod exposition;
mod functions;
mod process;
mod queue;
mod scrape;
mod usage;

pub use api::ApiStats;
pub use scrape::Scrape;
