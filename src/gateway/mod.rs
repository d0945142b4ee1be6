//! HTTP in: routes, authentication, limits, and every status code.
//!
//! [`server`] takes connections and splits them: `/function/…` goes to `function`, which is the
//! data path and knows nothing of the API; all else goes to one `axum::Router`, which [`api`] makes.

pub mod api;
pub mod auth;
pub mod error;
mod function;
pub mod server;
