//! HTTP in: routes, authentication, limits, and every status code.
//!
//! [`server`] takes connections and splits them: `/function/…` goes to `function`, which is the
//! data path and knows nothing of the API; all else goes to one `axum::Router`, which [`api`] makes.
//! Calls that wait for their body have files of their own: `later` and `skill`. All are served by one
//! task per connection, which speaks HTTP itself: see [`http1`] for why.

pub mod api;
pub mod auth;
mod client;
mod connection;
pub mod error;
mod function;
mod handover;
mod later;
pub mod listener;
mod prefer;
pub mod server;
mod skill;
