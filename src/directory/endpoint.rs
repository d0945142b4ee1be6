//! A replica that can be called, and the connections to it.

use std::net::SocketAddr;
use std::sync::Arc;

use forward::{Keeper, Stream};
use model::function::ReplicaId;
use tokio::sync::Notify;

use super::in_flight::InFlight;
use super::pool::ConnectionPool;

/// A replica that can be called.
#[derive(Debug)]
pub struct Endpoint {
    /// The replica.
    pub id: ReplicaId,
    /// Address that the replica listens on.
    pub address: SocketAddr,
    /// Connections to it.
    pub pool: ConnectionPool,
    in_flight: InFlight,
    /// Rung by the last call of a closed replica.
    drained: Notify,
}

impl Endpoint {
    /// Returns a replica at `address`, with no connection yet.
    pub fn new(id: ReplicaId, address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            id,
            address,
            pool: ConnectionPool::new(address),
            in_flight: InFlight::default(),
            drained: Notify::new(),
        })
    }

    /// Returns the number of calls that the replica is answering.
    pub fn load(&self) -> u32 {
        self.in_flight.count()
    }

    /// Returns whether the replica takes calls.
    pub fn is_open(&self) -> bool {
        self.in_flight.is_open()
    }

    /// Takes no more calls from now on, and returns once those that were taken have ended.
    pub async fn drain(&self) {
        self.in_flight.close();
        while self.load() > 0 {
            self.drained.notified().await;
        }
    }
}

/// A call in flight: its replica is not stopped before this is dropped, or its drain has taken too long.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Lease {
    /// Returns a lease of the replica, or `None` if it takes no more calls.
    pub fn take(endpoint: &Arc<Endpoint>) -> Option<Self> {
        // A call that is not taken leaves as well.
        let taken = endpoint.in_flight.enter();
        let lease = Self(endpoint.clone());
        taken.then_some(lease)
    }

    /// Returns the replica.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Keeper for Lease {
    fn keep(&self, stream: Stream) {
        self.0.pool.checkin(stream);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.in_flight.leave() {
            // Kept for a drain that has not begun to wait.
            self.0.drained.notify_one();
        }
    }
}
