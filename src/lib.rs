//! ingle runs functions on one machine and keeps them warm.
//!
//! `ARCHITECTURE.md` is the map: which room holds what, which way data goes, and what must always
//! hold. The binary in `main.rs` only turns arguments into a call of [`cli::run`].

pub mod cli;
pub mod config;
pub mod daemon;
pub mod fleet;
pub mod function;
pub mod gateway;
mod http1;
pub mod invoke;
pub mod logs;
pub mod metrics;
pub mod network;
pub mod replica;
pub mod runtime;
pub mod secrets;
pub mod store;
pub mod wire;
