//! The one road to a function: find, wake, pick, forward. Gateway, queue and cron all take it.

mod error;
mod upstream;

pub use error::InvokeError;
pub use upstream::Upstream;
