//! Types without I/O: what a function is, what goes over the wire, stack files, the configuration.
//!
//! Everything else of the program may use them; they use nothing of it but the packages for amounts and schedules.

pub mod config;
pub mod error;
pub mod finding;
pub mod function;
pub mod stack;
pub mod sync;
pub mod wire;
