//! The gateway's listening sockets, which systemd keeps while the daemon is away.
//!
//! systemd is given copies (its file descriptor store) and hands them to the next daemon, also after a
//! crash. Clients that connect meanwhile wait in the kernel's queue instead of being refused. Without
//! systemd the sockets end with the daemon.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use host::fd_store;
use listenfd::ListenFd;
use nix::libc;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr};
use nix::sys::socket::{bind, connect, listen, setsockopt, socket, sockopt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::geteuid;

use crate::gateway::access::client::{Client, Listener};

/// How long an address may be in use before that is an error, and the pause between two attempts.
const IN_USE_WAIT: Duration = Duration::from_secs(2);
const IN_USE_PAUSE: Duration = Duration::from_millis(20);

/// A listening socket, with the kind of its clients.
#[derive(Debug)]
pub enum Socket {
    /// An address and port.
    Tcp(tokio::net::TcpListener, Listener),
    /// A path.
    Unix(tokio::net::UnixListener),
}

impl Socket {
    /// Accepts a connection. `None` if the client has left or is not admitted.
    pub(super) async fn accept(&self) -> io::Result<Option<(OwnedFd, Client)>> {
        match self {
            Self::Tcp(listener, kind) => {
                let (stream, address) = listener.accept().await?;
                // The stream moves to another runtime, which registers it anew. A socket that fails here is dead.
                let stream = stream.set_nodelay(true).and_then(|()| stream.into_std());
                Ok(stream.ok().map(|stream| (stream.into(), Client { address, listener: *kind })))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                // The mode of the file says the same, but it may have been changed.
                let is_admitted = |uid| uid == 0 || uid == geteuid().as_raw();
                if !stream.peer_cred().is_ok_and(|peer| is_admitted(peer.uid())) {
                    return Ok(None);
                }
                Ok(stream.into_std().ok().map(|stream| (stream.into(), Client::LOCAL)))
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The sockets that the gateway listens on.
#[derive(Debug)]
pub struct Listeners {
    /// `gateway.listen`.
    pub public: Socket,
    /// `gateway.admin_listen`.
    pub admin: Option<Socket>,
    /// The socket for commands on this machine.
    pub local: Option<Socket>,
}

impl From<tokio::net::TcpListener> for Listeners {
    fn from(public: tokio::net::TcpListener) -> Self {
        Self { public: Socket::Tcp(public, Listener::Public), admin: None, local: None }
    }
}

impl Listeners {
    /// Gives systemd the sockets to keep. Does nothing without systemd.
    pub fn keep(&self) {
        let sockets =
            [("gateway", Some(&self.public)), ("admin", self.admin.as_ref()), ("api", self.local.as_ref())];
        for (name, socket) in sockets {
            if let Err(error) = fd_store::keep(name, socket.map(AsFd::as_fd)) {
                tracing::warn!(%error, "systemd does not keep the socket {name}: a restart refuses connections");
            }
        }
    }
}

/// The sockets that the last daemon left. Sockets that this daemon does not use are closed.
#[derive(Debug)]
pub struct Inherited {
    tcp: Vec<TcpListener>,
    unix: Vec<UnixListener>,
    /// Netlink sockets, which hold the firewall rules of the last daemon.
    pub rules: Vec<OwnedFd>,
}

impl Inherited {
    /// Holds copies of sockets, for a daemon that begins anew in this process.
    pub fn of(listeners: &Listeners) -> io::Result<Self> {
        let (mut tcp, mut unix) = (Vec::new(), Vec::new());
        for socket in [Some(&listeners.public), listeners.admin.as_ref(), listeners.local.as_ref()] {
            match socket {
                Some(Socket::Tcp(listener, _)) => {
                    tcp.push(TcpListener::from(listener.as_fd().try_clone_to_owned()?));
                }
                Some(Socket::Unix(listener)) => {
                    unix.push(UnixListener::from(listener.as_fd().try_clone_to_owned()?));
                }
                None => {}
            }
        }
        // What holds the rules is stopped and started with the rest.
        Ok(Self { tcp, unix, rules: Vec::new() })
    }

    /// Takes the sockets that systemd hands over.
    pub fn take() -> Self {
        let mut handed = ListenFd::from_env();
        let (mut tcp, mut unix, mut rules) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..handed.len() {
            tcp.extend(handed.take_tcp_listener(index).ok().flatten());
            unix.extend(handed.take_unix_listener(index).ok().flatten());
            let netlink = handed.take_custom(index, libc::AF_NETLINK, libc::SOCK_RAW, "a netlink socket");
            rules.extend(netlink.ok().flatten());
        }
        Self { tcp, unix, rules }
    }

    /// Listens on `address`, with the socket that the last daemon left if it has that address. If the address
    /// `is_to_come`, this machine need not have it yet.
    pub fn listen(&mut self, address: SocketAddr, kind: Listener, is_to_come: bool) -> io::Result<Socket> {
        let kept = self.tcp.iter().position(|kept| kept.local_addr().is_ok_and(|own| own == address));
        let listener = match kept {
            Some(index) => self.tcp.swap_remove(index),
            None => bind_tcp(address, is_to_come)?,
        };
        listener.set_nonblocking(true)?;
        Ok(Socket::Tcp(tokio::net::TcpListener::from_std(listener)?, kind))
    }

    /// Listens at `path`, which only this user can open.
    pub fn listen_at(&mut self, path: &Path) -> io::Result<Socket> {
        let is_for_path = |kept: &UnixListener| {
            kept.local_addr().is_ok_and(|own| own.as_pathname() == Some(path)) && leads_somewhere(path)
        };
        let listener = match self.unix.iter().position(is_for_path) {
            Some(index) => self.unix.swap_remove(index),
            None => bind_unix(path)?,
        };
        listener.set_nonblocking(true)?;
        Ok(Socket::Unix(tokio::net::UnixListener::from_std(listener)?))
    }
}

fn bind_tcp(address: SocketAddr, is_to_come: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if is_to_come {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    // After `kill -9` of the last daemon its socket lives on in a child that it has forked and that has not reached
    // its exec yet.
    let end = Instant::now() + IN_USE_WAIT;
    loop {
        match bind(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            Err(nix::Error::EADDRINUSE) if Instant::now() < end => {
                #[expect(clippy::disallowed_methods, reason = "nothing else is begun before the ports")]
                std::thread::sleep(IN_USE_PAUSE);
            }
            bound => break bound?,
        }
    }
    // As much as the kernel allows (net.core.somaxconn): a restart may take a while.
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        // The file is left from an earlier daemon: the store is locked, so there is no other.
        Ok(file) if file.file_type().is_socket() => std::fs::remove_file(path)?,
        // Any other file is not removed: `bind` refuses it.
        _ => {}
    }
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The file gets the mode of the socket, less the umask, so it is never open to others.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(UnixListener::from(socket))
}

/// Returns whether a program listens at `path`. A kept socket whose file was replaced receives no connections.
fn leads_somewhere(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|socket| connect(socket.as_raw_fd(), &UnixAddr::new(path)?));
    // `EAGAIN`: the backlog is full.
    matches!(connected, Ok(()) | Err(nix::Error::EAGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_becomes_free_within_two_seconds_is_listened_on() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = other.local_addr().expect("bound");
        // As the child of a daemon that was killed.
        let ends = std::thread::spawn(move || {
            #[expect(clippy::disallowed_methods, reason = "the port is in use for so long")]
            std::thread::sleep(Duration::from_millis(700));
            drop(other);
        });
        bind_tcp(address, false).expect("it is free by then");
        ends.join().expect("no panic");
    }

    #[test]
    fn an_address_that_stays_in_use_is_an_error() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let error = bind_tcp(other.local_addr().expect("bound"), false).expect_err("it is in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
