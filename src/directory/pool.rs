//! Connections to one replica.
//!
//! Each thread that serves calls keeps its own, so that a call neither wakes another thread nor
//! waits for a lock that one holds. They belong to the endpoint: when it leaves the view, they close
//! with the last call that uses it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};

use forward::{IdleConnections, Stream};
use model::config::MAX_THREADS;
use model::sync::lock;

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
type Block = [Mutex<IdleConnections>; BLOCK];

impl ConnectionPool {
    /// No connection yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, idle: [const { OnceLock::new() }; BLOCKS] }
    }

    /// Where they go.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes out a connection that was kept, and that is still as its last call left it.
    pub fn checkout(&self) -> Option<Stream> {
        self.shard().checkout()
    }

    /// Keeps a connection for the next call.
    pub fn checkin(&self, stream: Stream) {
        self.shard().checkin(stream);
    }

    /// Closes those of this thread that were kept too long.
    pub fn evict_idle(&self) {
        self.shard().evict();
    }

    /// Makes a new connection.
    pub async fn connect(&self) -> io::Result<Stream> {
        Stream::connect(self.address).await
    }

    fn shard(&self) -> std::sync::MutexGuard<'_, IdleConnections> {
        let (block, share) = (SHARD.get() / BLOCK, SHARD.get() % BLOCK);
        lock(&self.idle[block].get_or_init(Box::default)[share])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
