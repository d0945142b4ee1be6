//! A version of a function, with its image.

use std::sync::Arc;
use std::time::Duration;

use host::runtime::ResolvedImage;
use model::function::{FunctionSpec, exec_timeout};
use model::wire;

/// One version of a function's spec, with the image that its name meant.
#[derive(Debug)]
pub struct Revision {
    /// Number of the revision, counted from 1.
    pub number: u64,
    /// As it was sent.
    pub deployment: Arc<wire::Deployment>,
    /// The same, parsed.
    pub spec: Arc<FunctionSpec>,
    /// When it was deployed.
    pub created_at: jiff::Timestamp,
    /// The image.
    pub image: ResolvedImage,
    /// Set if `functions.memory` applies when the function has no limit.
    pub default_memory: bool,
}

impl Revision {
    /// Returns how long a call may take: what the function says, else what its image tells a watchdog, else `default`.
    pub fn timeout(&self, default: Duration) -> Duration {
        let image = || self.image.config.variable("exec_timeout").and_then(|text| exec_timeout(text).ok()?);
        self.spec.timeout.or_else(image).unwrap_or(default)
    }

    /// Returns the memory limit that each replica gets because the function sets none; `default` is the value of
    /// `functions.memory` on this machine.
    pub fn default_memory(&self, default: u64) -> Option<u64> {
        (self.default_memory && self.spec.limits.memory.is_none()).then_some(default)
    }
}
