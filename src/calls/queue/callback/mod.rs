//! Callbacks: where the answer of a queued call goes when its client gave `X-Callback-Url`.
//!
//! ```text
//! X-Callback-Url ── allowed? ──▶ kept with the call ──▶ the call ends ──▶ its row becomes the callback's
//!                                                                               │
//!     receiver ◀── POST, signed ◀── addresses allowed? ◀── file or memory ◀─────┘
//! ```
//!
//! Whoever may call a function may name a receiver, so a receiver is reached only where the configuration lets
//! strangers reach: see [`egress_policy`]. A callback is a job as a call is: on disk, tried again, given up, replayed.

mod address;
mod client;
mod deliver;
pub(super) mod egress_policy;
mod signature;

pub(super) use client::Client;
pub(super) use deliver::tell;
pub(super) use egress_policy::Rules;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the answer of a call goes, and what came of the call once it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The receiver.
    pub url: String,
    /// What came of the call. While there is nothing, it is still to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// What came of a call, beside its answer's headers and body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What a receiver knows the callback by: chosen here, so that no client can take that of another.
    pub message_id: String,
    /// The status that the function answered, or that a client would have got of the gateway.
    pub status: u16,
    /// How long the last try took, in microseconds.
    pub took_us: u64,
    /// How many tries before the last one failed.
    pub retries: u32,
    /// How many of them there may have been.
    pub most_retries: u32,
    /// Why the answer's body is not sent, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<String>,
}

impl Ended {
    /// How long the last try took.
    pub fn took(&self) -> Duration {
        Duration::from_micros(self.took_us)
    }
}
