//! Starts and stops one replica, as a transaction with an undo for each step.
//!
//! ```text
//! pull -> logs -> network -> create -> start -> probe -> endpoint
//!          undo    undo       undo
//! ```
//!
//! Invariant: a launch that does not return an endpoint has taken back all that it made; what could
//! not be taken back is in the log, and the reaper finds it by the replica's id.

mod error;
mod launch;
mod probe;
mod question;
mod revision;
mod stop;

use host::runtime::ImageConfig;
use model::function::FunctionSpec;

pub use error::LaunchError;
pub use launch::{Launch, Launcher};
pub(crate) use probe::get;
pub(crate) use question::is_healthy;
pub use revision::Revision;

/// Whether this machine's watchdog is to run a function's command: one is given, and its image has none for it.
pub(crate) fn needs_watchdog(spec: &FunctionSpec, image: &ImageConfig) -> bool {
    spec.env_process.is_some() && !image.has_watchdog()
}
