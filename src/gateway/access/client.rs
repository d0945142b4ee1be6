//! The client of a connection: its address, and the listener that accepted it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::config::TrustedProxies;

/// Returns the address that counts as one client: an IPv4 address, or the /64 of an IPv6 address, the prefix of one
/// subscriber.
pub(in crate::gateway) fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

/// Returns the address of the client: behind trusted proxies, the last address in the `lines` of `X-Forwarded-For`,
/// which come last first, that is not a trusted proxy, because the client itself may have sent those before it.
pub(in crate::gateway) fn client_behind<'a>(
    proxies: &TrustedProxies,
    peer: IpAddr,
    lines: impl Iterator<Item = &'a str>,
) -> IpAddr {
    let mut client = peer;
    let mut hops = lines.flat_map(|line| line.rsplit(','));
    while proxies.contains(client) {
        let Some(hop) = hops.next().and_then(|hop| hop.trim().parse().ok()) else { break };
        client = hop;
    }
    client
}

/// A socket that the gateway listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// `gateway.listen`: functions, and the API unless it is closed there.
    Public,
    /// `gateway.admin_listen`: the API and the metrics, no functions.
    Admin,
    /// The socket under `daemon.run_dir`, which only root can open: everything, without a password.
    Local,
}

/// The other end of a connection. Requests to the API carry it as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client's address; loopback on the local socket.
    pub address: SocketAddr,
    /// The listener that accepted the connection.
    pub listener: Listener,
}

impl Client {
    /// An unknown client, which has no rights through its address or listener.
    pub const UNKNOWN: Self =
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), listener: Listener::Public };
    /// The client on the local socket.
    pub const LOCAL: Self =
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), listener: Listener::Local };
}
