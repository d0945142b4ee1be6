//! The domain: what a function is. No I/O, no async, nothing that can fail because of the world.
//!
//! Everything here is parsed once, at the door, and is then correct by its type: code that holds a
//! [`FunctionSpec`] never asks again whether a name or a quantity is well formed.

mod cron;
mod handler;
mod image;
mod incarnation;
mod name;
mod probe;
mod retry;
mod spec;

pub use ::quantity::{Cpu, Memory, parse_duration};
pub use cron::{CronSettings, Missed, Overlap};
pub use handler::HandlerDigest;
pub use image::{ImagePattern, ImageRef, PullPolicy};
pub use incarnation::Incarnation;
pub use name::{FunctionFilter, FunctionKey, FunctionName, NamespaceName, ReplicaId, SecretName};
pub use probe::{Probe, Probes};
pub use retry::{Codes, Jitter, RetryPolicy, RetrySettings, attempts};
pub use spec::{
    Asynchronous, CALLBACKS, FunctionSpec, Resources, Scale, capabilities, capability, check_queue_name,
    exec_timeout,
};

/// Why a request that describes a function was refused: the field as the client spelled it, and
/// what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The JSON path of the field, as in `limits.memory`.
    pub field: String,
    /// What is wrong with the value, and what would be right.
    pub reason: String,
}

impl Invalid {
    /// An error for `field`, with the `reason` in words.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Says that a text is none of the words that there are for `E`.
pub fn none_of<E: strum::VariantNames>(text: &str) -> String {
    format!("{text:?} is none of {}", E::VARIANTS.join(", "))
}
