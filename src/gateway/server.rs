//! Takes connections and serves HTTP on them.

use std::sync::Arc;

use axum::Router;

use crate::fleet::Directory;

/// What the gateway serves.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The functions that can be called.
    pub directory: Arc<Directory>,
    /// Everything that is not `/function/…`. Its handlers run on the runtime that called `serve`,
    /// never on the threads that carry calls.
    pub api: Router,
}
