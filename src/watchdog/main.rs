//! The watchdog: turns a command, a script or an HTTP server into a function. It is process 1 of a function's
//! container, and a program of its own, `fwatchdog`: small and static, so that it runs in any image.
//!
//! ```text
//! client -> event loop -> connection -> gate (max_inflight, draining) -> mode -> process
//!                                                                          streaming, serializing, classic: fork.rs
//!                                                                          http: proxy.rs    afterburn: afterburn.rs
//!                                                                          openwhisk: openwhisk.rs    static: files.rs
//! ```
//!
//! What images rely on, variables above all, is that of the watchdogs that function images have had before:
//! `docs/watchdog.md` is the list.
//!
//! Invariants
//! - The first thread accepts connections, and waits for signals and for processes that others have left. What a
//!   connection brings is done on the one event loop that has it, which shares counts with the others and nothing else.
//! - An event loop waits for a process only until its program is loaded, and never for a client, a file or the log.
//! - Buffered bodies stay within `max_body_memory` and `max_body_disk`: every body that is not passed on as
//!   it arrives is read by `spool.rs`.
//! - A process that was started for a request is gone, with its whole group, at the request's limit.
//! - Every process that ends is reaped, also one that nobody here started.

mod afterburn;
mod answer;
mod body;
mod call;
mod cgi;
mod child;
mod connection;
mod event_loop;
mod failure;
mod files;
mod fork;
mod healthcheck;
mod log;
mod metrics;
mod metrics_server;
mod mode;
mod openwhisk;
mod plug;
mod process;
mod proxy;
mod reaper;
mod server;
mod settings;
mod shared;
mod source;
mod spawn;
mod spool;
mod stdin;
mod upstream;

use std::process::ExitCode;

use self::settings::Settings;

/// The release, as in Cargo.toml.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, as the build said it in `INGLE_COMMIT`.
const COMMIT: &str = match option_env!("INGLE_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let settings = || Settings::read(variable);
    // With one dash, as Go's programs take them, or with two.
    match arguments.first().map(|argument| argument.trim_start_matches('-')) {
        None => {}
        Some("version") => {
            println!("fwatchdog {VERSION} ({COMMIT})");
            return ExitCode::SUCCESS;
        }
        Some("run-healthcheck") => {
            return healthcheck::run(settings().map_or(settings::PORT, |found| found.port));
        }
        Some(_) => {
            eprintln!(
                "fwatchdog takes --version or --run-healthcheck; all else are variables (docs/watchdog.md)"
            );
            return ExitCode::from(64);
        }
    }
    match settings() {
        Ok(settings) => server::run(settings),
        Err(faults) => {
            faults.iter().for_each(|fault| eprintln!("fwatchdog: {fault}"));
            ExitCode::from(64)
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the watchdog's settings are its environment; Settings reads it"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
