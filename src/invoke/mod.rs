//! The one road to a function: find, wake, pick, forward. Gateway, queue and cron all take it.

mod upstream;

pub use upstream::Upstream;
