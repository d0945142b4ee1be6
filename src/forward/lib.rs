//! Passes requests on to HTTP/1.1 servers and gives the responses back, for the daemon and the watchdog.
//!
//! ```text
//!  Caller ── poll_body ──▶ Outgoing ──▶ Exchange on a Stream ──▶ server
//!         ◀── head, data ───────────────┘        ▲ │ kept
//!  Client: relay also flushes, and tunnels       └─┴ IdleConnections
//! ```
//!
//! Both directions move at once, in the task of the caller. Each holds one bounded piece, so a side that does not
//! read stops the side that sends. Limits of a body are limits of silence.

mod exchange;
mod idle;
mod relay;
mod stream;

pub use exchange::{BodyError, Caller, Exchange, Expected, Failure, Keeper, Outgoing, PIECE};
pub use idle::IdleConnections;
pub use relay::{Client, relay};
pub use stream::Stream;
