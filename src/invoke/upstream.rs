//! Connections to one replica.

use std::net::SocketAddr;

/// Connections to one replica, kept open between calls.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
}

impl Upstream {
    /// No connection yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where they go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
