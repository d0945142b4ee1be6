//! Connections that are open between two exchanges.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;

use super::exchange::Keeper;
use super::stream::Stream;

/// Number of connections that one list keeps. One more is closed after its exchange.
const MAX_IDLE: usize = 128;
/// How long a connection is kept. Node and uvicorn close theirs after 5 s, others later: one that both sides may
/// close at the same time would lose a request that cannot be sent again.
const IDLE_FOR: Duration = Duration::from_secs(4);

/// Open connections to one server, the one used last at the end.
#[derive(Debug, Default)]
pub struct IdleConnections(Vec<(Stream, Instant)>);

impl IdleConnections {
    /// Takes out a connection that is still as its last exchange left it.
    pub fn checkout(&mut self) -> Option<Stream> {
        loop {
            let (stream, since) = self.0.pop()?;
            if since.elapsed() > IDLE_FOR {
                // The others were kept before this one.
                self.0.clear();
                return None;
            }
            if stream.is_silent() {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next exchange.
    pub fn checkin(&mut self, stream: Stream) {
        self.evict();
        if self.0.len() < MAX_IDLE {
            self.0.push((stream, Instant::now()));
        }
    }

    /// Closes the connections that were kept too long.
    pub fn evict(&mut self) {
        let fresh = self.0.iter().position(|(_, since)| since.elapsed() <= IDLE_FOR).unwrap_or(self.0.len());
        self.0.drain(..fresh);
    }

    /// Closes all connections.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Keeper for &RefCell<IdleConnections> {
    fn keep(&self, stream: Stream) {
        self.borrow_mut().checkin(stream);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection, and its other end.
    async fn pair() -> (Stream, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (stream, accepted) = tokio::join!(Stream::connect(address), listener.accept());
        let (accepted, _) = accepted.expect("accepted");
        (stream.expect("connected"), accepted.into_std().expect("a socket"))
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_the_server_closes_it() {
        let mut idle = IdleConnections::default();
        let (stream, accepted) = pair().await;
        idle.checkin(stream);
        let stream = idle.checkout().expect("kept");
        idle.checkin(stream);
        drop(accepted);
        assert!(idle.checkout().is_none(), "a closed connection was handed out");
        assert!(idle.0.is_empty(), "it was kept all the same");
    }

    #[tokio::test]
    async fn a_connection_on_which_more_was_said_is_not_used_again() {
        let mut idle = IdleConnections::default();
        let (stream, mut accepted) = pair().await;
        idle.checkin(stream);
        // Without a turn of the runtime in between, which would let it see the byte.
        std::io::Write::write_all(&mut accepted, b"x").expect("written");
        assert!(idle.checkout().is_none(), "the byte would be the next response");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_closed_before_servers_close_theirs() {
        let mut idle = IdleConnections::default();
        let (stream, _accepted) = pair().await;
        idle.checkin(stream);
        tokio::time::advance(IDLE_FOR).await;
        let stream = idle.checkout().expect("fresh");
        idle.checkin(stream);
        tokio::time::advance(IDLE_FOR + Duration::from_millis(1)).await;
        assert!(idle.checkout().is_none(), "it is too old");
        assert!(idle.0.is_empty());
    }

    #[tokio::test]
    async fn a_list_is_bounded() {
        let mut idle = IdleConnections::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        for _ in 0..=MAX_IDLE {
            let stream = TcpStream::connect(address).await.expect("connected");
            let socket = OwnedFd::from(stream.into_std().expect("a socket"));
            idle.checkin(Stream::from_tcp(socket).expect("registered"));
        }
        assert_eq!(idle.0.len(), MAX_IDLE);
        idle.evict();
        assert_eq!(idle.0.len(), MAX_IDLE, "fresh connections are kept");
    }
}
