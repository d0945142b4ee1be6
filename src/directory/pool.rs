//! Connections to one replica.
//!
//! Each thread that serves calls keeps its own, so that a call neither wakes another thread nor
//! waits for a lock that one holds. They belong to the endpoint: when it leaves the view, they close
//! with the last call that uses it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use model::config::MAX_THREADS;
use model::sync::lock;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Connections that a thread keeps to one replica; one more is closed after its call.
const MAX_IDLE: usize = 128;
/// How long one is kept. Node and uvicorn close theirs after 5 s, others later: one that both sides
/// may close at the same time would lose a call that cannot be sent again.
const IDLE_FOR: Duration = Duration::from_secs(4);
/// Shares of a pool that are made at once, when the first of them is used.
const BLOCK: usize = 16;
/// Blocks of shares that a pool may have.
const BLOCKS: usize = (MAX_THREADS + 1) / BLOCK;

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Gives this thread a share of its own in every pool: the thread is the `index`th of [`MAX_THREADS`] that serve
/// calls, counted from 0. All others share one: a connection must stay with the runtime that it was made on.
pub fn assign_shard(index: usize) {
    assert!(index < MAX_THREADS, "thread {index} of {MAX_THREADS}");
    SHARD.set(1 + index);
}

/// Connections to one replica, kept open between calls.
#[derive(Debug)]
pub struct ConnectionPool {
    address: SocketAddr,
    /// One list per share, the one used last at the end. Uncontended: see the module.
    idle: [OnceLock<Box<Block>>; BLOCKS],
}

/// Shares of a pool, side by side.
type Block = [Mutex<Vec<Idle>>; BLOCK];

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl ConnectionPool {
    /// No connection yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, idle: [const { OnceLock::new() }; BLOCKS] }
    }

    /// Where they go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection that was kept, and that is still as its last call left it.
    pub fn checkout(&self) -> Option<TcpStream> {
        loop {
            let mut idle = self.shard();
            let Idle { stream, since } = idle.pop()?;
            if since.elapsed() > IDLE_FOR {
                // The others were kept before this one.
                idle.clear();
                return None;
            }
            drop(idle);
            if is_open(&stream) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next call.
    pub fn checkin(&self, stream: TcpStream) {
        let mut idle = self.shard();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { stream, since: Instant::now() });
        }
    }

    /// Closes those of this thread that were kept too long.
    pub fn evict_idle(&self) {
        let mut idle = self.shard();
        let fresh = idle.iter().position(|kept| kept.since.elapsed() <= IDLE_FOR).unwrap_or(idle.len());
        idle.drain(..fresh);
    }

    /// A new connection.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn shard(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        let (block, share) = (SHARD.get() / BLOCK, SHARD.get() % BLOCK);
        lock(&self.idle[block].get_or_init(Box::default)[share])
    }
}

/// Whether the other side has neither closed nor, out of turn, said something.
///
/// The kernel is asked each time: what the runtime knows of a socket is as old as its last look at all
/// of them, and a connection is often used again before the next. Bytes that are overlooked here are
/// taken for the answer to the next call, which is somebody else's.
fn is_open(stream: &TcpStream) -> bool {
    let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(stream.as_raw_fd(), &mut [0], look) == Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_kept_until_the_replica_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let pool = ConnectionPool::new(listener.local_addr().expect("bound"));
        let (stream, accepted) = tokio::join!(pool.connect(), listener.accept());
        pool.checkin(stream.expect("connected"));
        let stream = pool.checkout().expect("kept");
        pool.checkin(stream);
        drop(accepted);
        assert!(pool.checkout().is_none(), "a closed connection was handed out");
        assert!(pool.checkout().is_none(), "it was kept all the same");
    }

    #[tokio::test]
    async fn a_connection_on_which_more_was_said_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let pool = ConnectionPool::new(listener.local_addr().expect("bound"));
        let (stream, accepted) = tokio::join!(pool.connect(), listener.accept());
        let (accepted, _) = accepted.expect("accepted");
        pool.checkin(stream.expect("connected"));
        // Without a turn of the runtime in between, which would let it see the byte.
        let mut accepted = accepted.into_std().expect("a socket");
        std::io::Write::write_all(&mut accepted, b"x").expect("written");
        assert!(pool.checkout().is_none(), "the byte would be the next call's answer");
    }

    #[test]
    fn no_two_threads_share_connections() {
        let pool = &ConnectionPool::new(([127, 0, 0, 1], 1).into());
        let list = move || std::ptr::from_ref(&*pool.shard()).addr();
        let mut lists = std::collections::HashSet::from([list()]);
        std::thread::scope(|scope| {
            let own = move |index| {
                assign_shard(index);
                list()
            };
            let threads: Vec<_> = (0..MAX_THREADS).map(|index| scope.spawn(move || own(index))).collect();
            lists.extend(threads.into_iter().map(|thread| thread.join().expect("a share")));
        });
        assert_eq!(lists.len(), MAX_THREADS + 1);
    }

    #[tokio::test]
    async fn what_a_thread_keeps_is_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let pool = ConnectionPool::new(listener.local_addr().expect("bound"));
        for _ in 0..=MAX_IDLE {
            pool.checkin(pool.connect().await.expect("connected"));
        }
        assert_eq!(pool.shard().len(), MAX_IDLE);
        pool.evict_idle();
        assert_eq!(pool.shard().len(), MAX_IDLE, "fresh connections are kept");
    }
}
