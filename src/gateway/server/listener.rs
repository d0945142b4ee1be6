//! The gateway's listening socket, which systemd keeps while the daemon is away.
//!
//! systemd is given a copy (its file descriptor store) and hands it to the next daemon, also after a
//! crash. Clients that connect meanwhile wait in the kernel's queue instead of being refused. Without
//! systemd the socket ends with the daemon.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The name that the socket has at systemd.
const NAME: NotifyState<'static> = NotifyState::FdName("gateway");

/// Listens on `address`: with the socket that the last daemon left, if it is for that address.
pub fn listen(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let listener = match kept(address) {
        Some(listener) => listener,
        None => bind(address)?,
    };
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Gives systemd the socket to keep. Where there is no systemd this says nothing to nobody.
pub fn keep(listener: &tokio::net::TcpListener) {
    // What was kept before may be for an address that is not listened on any more.
    let kept = sd_notify::notify(&[NotifyState::FdStoreRemove, NAME])
        .and_then(|()| sd_notify::notify_with_fds(&[NotifyState::FdStore, NAME], &[listener.as_fd()]));
    if let Err(error) = kept {
        tracing::warn!(%error, "systemd does not keep the gateway's socket: a restart refuses connections");
    }
}

/// The socket that was handed over. Another's, or one for another address, is closed.
fn kept(address: SocketAddr) -> Option<TcpListener> {
    let mut handed = ListenFd::from_env();
    (0..handed.len())
        .filter_map(|index| handed.take_tcp_listener(index).ok().flatten())
        .find(|listener| listener.local_addr().is_ok_and(|own| own == address))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt};
    use nix::sys::socket::{bind, listen, setsockopt, socket};
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
    // As much as the kernel allows (net.core.somaxconn): a restart may take a while.
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}
