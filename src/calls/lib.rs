//! The data plane: the way of a call to its function.
//!
//! [`invoke`] forwards a call, [`queue`] keeps async calls and makes them, [`triggers`] make calls by themselves. They
//! know a function by its entry in the directory, and nothing of how its replicas come to be.

pub mod invoke;
pub mod queue;
pub mod triggers;
