//! HTTP in: routes, authentication, limits, and every status code.
//!
//! [`server`] accepts connections, `connection` speaks HTTP on one, `routes` are what a request can be; [`api`] is
//! everything that is no call of a function, as one `axum::Router`; [`access`] says who may use it. See [`http1`]
//! for why the data path has its own HTTP.

pub mod access;
pub mod api;
mod connection;
pub mod error;
mod routes;
pub mod server;
