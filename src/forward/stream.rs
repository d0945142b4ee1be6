//! The stream of a connection: TCP, or a socket of this machine.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use http1::Peek;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The stream of a connection.
#[derive(Debug)]
pub enum Stream {
    /// Over IP.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Stream {
    /// Registers a TCP socket with this thread's runtime.
    pub fn from_tcp(socket: OwnedFd) -> io::Result<Self> {
        TcpStream::from_std(socket.into()).map(Self::Tcp)
    }

    /// Registers a socket of this machine with this thread's runtime.
    pub fn from_unix(socket: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(socket.into()).map(Self::Unix)
    }

    /// Connects to a server.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        // Small requests must not wait for more.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Returns whether the other side has neither closed nor, out of turn, said something.
    ///
    /// The kernel is asked each time: what the runtime knows of a socket is as old as its last look at all of them,
    /// and a connection is often used again before the next. Bytes that are overlooked here are taken for the next
    /// response, which is somebody else's.
    pub fn is_silent(&self) -> bool {
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.as_raw_fd(), &mut [0], look) == Err(Errno::EAGAIN)
    }

    /// Waits until there is something to read.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

impl Peek for Stream {
    fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let look = || Ok(recv(self.as_raw_fd(), bytes, MsgFlags::MSG_PEEK)?);
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, look),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, look),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Neither kind of stream buffers anything.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
