//! ingle runs functions on one machine and keeps them warm.
//!
//! `ARCHITECTURE.md` is the map: which room holds what, which way data goes, and what must always
//! hold. The binary in `main.rs` only turns arguments into a call of [`cli::run`].

pub mod age;
pub mod cli;
mod command;
pub mod config;
pub mod cron;
pub mod daemon;
pub mod disk;
pub mod doctor;
pub mod finding;
pub mod first_boot;
pub mod fleet;
pub mod function;
pub mod gateway;
pub mod handlers;
pub mod invoke;
pub mod logs;
pub mod metrics;
pub mod network;
pub mod queue;
pub mod replica;
pub mod runtime;
pub mod secrets;
pub mod stack;
pub mod store;
pub mod wire;

/// An error and its causes on one line, for logs and for reasons that are shown.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// The release, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, as the build said it in `INGLE_COMMIT`; `unknown` if it did not.
/// Never empty: clients take that for a fault.
pub const COMMIT: &str = match option_env!("INGLE_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => UNKNOWN_COMMIT,
};

/// What stands for the commit of a build that did not say it.
const UNKNOWN_COMMIT: &str = "unknown";
