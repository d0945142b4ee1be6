//! The client of a connection: its address, and the listener that accepted it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
