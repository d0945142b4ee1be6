//! Who has which address, kept where it outlives the daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;

use model::function::ReplicaId;
use model::sync::lock;

/// The record of addresses in use. [`crate::store`] keeps it on disk.
///
/// No method blocks on I/O or fails: the record is a precaution. What really has an address is seen
/// in the kernel and on the containers' labels, and [`super::Network::adopt`] puts it back.
pub trait Leases: Send + Sync + fmt::Debug + 'static {
    /// Records that `address` belongs to `id`, in place of whatever it belonged to.
    fn put(&self, address: IpAddr, id: &ReplicaId);

    /// Records that `address` belongs to nobody.
    fn delete(&self, address: IpAddr);

    /// Every address in use, with whom it belongs to.
    fn all(&self) -> Vec<(IpAddr, ReplicaId)>;
}

/// Leases that are gone with the process: for tests.
#[derive(Debug, Default)]
pub struct MemoryLeases(Mutex<BTreeMap<IpAddr, ReplicaId>>);

impl Leases for MemoryLeases {
    fn put(&self, address: IpAddr, id: &ReplicaId) {
        lock(&self.0).insert(address, id.clone());
    }

    fn delete(&self, address: IpAddr) {
        lock(&self.0).remove(&address);
    }

    fn all(&self) -> Vec<(IpAddr, ReplicaId)> {
        let leases = lock(&self.0);
        leases.iter().map(|(address, id)| (*address, id.clone())).collect()
    }
}
