//! Connections to one replica.
//!
//! Each thread that serves calls keeps its own, so that a call neither wakes another thread nor
//! waits for a lock that one holds. They belong to the endpoint: when it leaves the view, they close
//! with the last call that uses it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Connections that a thread keeps to one replica; one more is closed after its call.
const MAX_IDLE: usize = 128;
/// How long one is kept. Node and uvicorn close theirs after 5 s, others later: one that both sides
/// may close at the same time would lose a call that cannot be sent again.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// The thread's share of an endpoint's connections: threads that serve calls have one each, all
/// others share the first.
const SHARES: usize = 17;

thread_local! {
    static SHARE: Cell<usize> = const { Cell::new(0) };
}

/// Gives this thread a share of its own: the thread is the `index`th that serves calls.
pub(crate) fn own_share(index: usize) {
    SHARE.set(1 + index % (SHARES - 1));
}

/// Connections to one replica, kept open between calls.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    /// One list per share, the one used last at the end. Uncontended: see the module.
    idle: [Mutex<Vec<Idle>>; SHARES],
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Upstream {
    /// No connection yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, idle: [const { Mutex::new(Vec::new()) }; SHARES] }
    }

    /// Where they go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all that no call uses.
    pub fn close_idle(&self) {
        for share in &self.idle {
            share.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// A connection that was kept. With `certain`, the kernel is asked whether it is still open:
    /// for a call that cannot be sent twice.
    pub(crate) fn take(&self, certain: bool) -> Option<TcpStream> {
        loop {
            let mut idle = self.share();
            let Idle { stream, since } = idle.pop()?;
            if since.elapsed() > IDLE_FOR {
                // The others were kept before this one.
                idle.clear();
                return None;
            }
            drop(idle);
            if is_open(&stream, certain) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next call.
    pub(crate) fn put(&self, stream: TcpStream) {
        let mut idle = self.share();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { stream, since: Instant::now() });
        }
    }

    /// Closes those of this thread that were kept too long.
    pub(crate) fn sweep(&self) {
        let mut idle = self.share();
        let fresh = idle.iter().position(|kept| kept.since.elapsed() <= IDLE_FOR).unwrap_or(idle.len());
        idle.drain(..fresh);
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn share(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle[SHARE.get()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the other side has neither closed nor, out of turn, said something.
fn is_open(stream: &TcpStream, certain: bool) -> bool {
    // Free of system calls unless the runtime has seen the socket become readable.
    if !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
        return false;
    }
    let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    !certain || recv(stream.as_raw_fd(), &mut [0], look) == Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_kept_until_the_replica_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let upstream = Upstream::new(listener.local_addr().expect("bound"));
        let (stream, accepted) = tokio::join!(upstream.connect(), listener.accept());
        upstream.put(stream.expect("connected"));
        let stream = upstream.take(true).expect("kept");
        upstream.put(stream);
        drop(accepted);
        assert!(upstream.take(true).is_none(), "a closed connection was handed out");
        assert!(upstream.take(false).is_none(), "it was kept all the same");
    }

    #[tokio::test]
    async fn what_a_thread_keeps_is_bounded_and_can_be_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let upstream = Upstream::new(listener.local_addr().expect("bound"));
        for _ in 0..=MAX_IDLE {
            upstream.put(upstream.connect().await.expect("connected"));
        }
        assert_eq!(upstream.share().len(), MAX_IDLE);
        upstream.sweep();
        assert_eq!(upstream.share().len(), MAX_IDLE, "fresh connections are kept");
        upstream.close_idle();
        assert!(upstream.take(false).is_none());
    }
}
