//! Addresses and links for replicas: what the CNI conflist says, carried out in process.
//!
//! [`Network`] has two implementations: [`cni`], and the fake in the tests, which passes the same
//! contract tests. Only this room names netlink's types, CNI and nftables.
//!
//! Invariants
//! - No function here changes the network namespace of a thread that it did not start itself.
//! - [`Network::detach`] takes back whatever there is of a replica; finding nothing is success.

pub mod cni;
mod error;
mod lease;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;

pub use error::NetworkError;
pub use lease::{Leases, MemoryLeases};

use crate::runtime::Mount;
use model::function::ReplicaId;

/// What connects replicas.
#[async_trait]
pub trait Network: Send + Sync + fmt::Debug + 'static {
    /// Makes sure that what all replicas share is there and as configured: bridge, its address,
    /// forwarding, firewall rules. Run at start, and again whenever it may have been taken away.
    async fn ensure(&self) -> Result<(), NetworkError>;

    /// Gives the replica a network namespace with an address and a route.
    async fn attach(&self, id: &ReplicaId) -> Result<Attachment, NetworkError>;

    /// Takes back whatever there is of the replica: link, namespace, address, files.
    async fn detach(&self, id: &ReplicaId) -> Result<(), NetworkError>;

    /// Takes up an attachment that outlived the daemon, so that its address is not given out again.
    /// `None` when it is not there any more, or not whole.
    async fn adopt(&self, id: &ReplicaId, address: IpAddr) -> Result<Option<Attachment>, NetworkError>;

    /// Says whether something inside the replica accepts connections on this TCP port of its loopback interface. Makes
    /// one for that, and closes it: lists of sockets take the kernel milliseconds where it has room for many. Fails
    /// when the replica is not attached.
    async fn accepts(&self, id: &ReplicaId, port: u16) -> Result<bool, NetworkError>;

    /// Every replica of which something is left on this machine: a namespace, a link, an address.
    async fn attached(&self) -> Result<Vec<ReplicaId>, NetworkError>;

    /// The daemon's own address on the bridge: what `gateway` resolves to inside functions.
    fn gateway(&self) -> IpAddr;
}

/// A replica's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its address.
    pub address: IpAddr,
    /// Its network namespace.
    pub netns: PathBuf,
    /// `/etc/hosts` and `/etc/resolv.conf`, made for it.
    pub files: Vec<Mount>,
}
