//! ingle runs functions on one machine and keeps them warm.
//!
//! `ARCHITECTURE.md` is the map: the planes and their rooms, which way data goes, and what must always
//! hold. The binary in `main.rs` only turns arguments into a call of [`cli::run`].

pub mod cli;
pub mod daemon;
pub mod gateway;
pub mod observe;

/// The release, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, as the build said it in `INGLE_COMMIT`; `unknown` if it did not.
/// Never empty: clients take that for a fault.
pub const COMMIT: &str = match option_env!("INGLE_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => UNKNOWN_COMMIT,
};

/// Stands for the commit of a build that did not say it.
const UNKNOWN_COMMIT: &str = "unknown";
