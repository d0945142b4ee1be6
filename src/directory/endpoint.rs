//! A replica that can be called, and the connections to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use model::function::ReplicaId;

use super::pool::ConnectionPool;

/// A replica that can be called.
#[derive(Debug)]
pub struct Endpoint {
    /// The replica.
    pub id: ReplicaId,
    /// Address that the replica listens on.
    pub address: SocketAddr,
    /// Calls that it is answering.
    pub in_flight: AtomicU32,
    /// Connections to it.
    pub pool: ConnectionPool,
}

impl Endpoint {
    /// A replica at `address`, with no connection yet.
    pub fn new(id: ReplicaId, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { id, address, in_flight: AtomicU32::new(0), pool: ConnectionPool::new(address) })
    }

    /// Calls that it is answering.
    pub fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}
