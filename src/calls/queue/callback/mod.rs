//! Callbacks: the answers of queued calls whose clients gave `X-Callback-Url`, on their way to receivers.
//!
//! ```text
//! X-Callback-Url ── allowed? ──▶ kept with the call ──▶ the call ends ──▶ its row becomes the callback's
//!                                                                               │
//!     receiver ◀── POST, signed ◀── addresses allowed? ◀── file or memory ◀─────┘
//! ```
//!
//! Anybody who may call a function may name a receiver, so a receiver is reached only where the configuration lets
//! strangers reach: see [`egress_policy`]. A callback is a job as a call is: on disk, tried again, given up, replayed.

mod address;
pub(super) mod client;
mod deliver;
pub(super) mod egress_policy;
mod signature;

pub(super) use deliver::deliver;
pub(super) use egress_policy::EgressPolicy;
