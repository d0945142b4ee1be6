//! The body of a response, on its way to a client.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use http1::Alarm;
use tokio::time::Instant;

use super::exchange::{Caller, Exchange, Failure, Keeper, Outgoing, PIECE};

/// A caller that is a client on a connection.
pub trait Client: Caller {
    /// Returns the number of bytes of the response that are held: 0 once all are written.
    fn buffered(&self) -> usize;

    /// Writes the bytes that are held.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends the body of the response.
    fn end(&mut self);

    /// Returns a number that grows with every byte in any direction.
    fn bytes_moved(&self) -> u64;

    /// Returns how long the client may take to read something.
    fn stall(&self) -> Duration;

    /// Begins a tunnel: from now on the client sends what it likes until it ends.
    fn open_tunnel(&mut self);
}

/// Passes the body of a response on, and what is left of the request. Both sides may be silent for `limit`.
///
/// # Errors
///
/// Nothing more can be said to the client if some of the response has been written.
pub async fn relay<K: Keeper, C: Client>(
    exchange: Exchange<K>,
    outgoing: &mut Outgoing,
    client: &mut C,
    alarm: &mut Alarm,
    limit: Duration,
) -> Result<(), Failure> {
    let tunnel = exchange.is_tunnel();
    if tunnel {
        outgoing.reopen();
        client.open_tunnel();
    }
    let mut running = Some(exchange);
    let mut seen = u64::MAX;
    let mut deadline = Instant::now();
    poll_fn(|cx| {
        loop {
            let mut waits = false;
            while let Some(exchange) = running.as_mut().filter(|_| client.buffered() < PIECE) {
                match exchange.poll_data(cx, outgoing, client) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => {
                        client.end();
                        if let Some(exchange) = running.take() {
                            exchange.finish(outgoing);
                        }
                    }
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            match client.poll_flush(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::Gone)),
                Poll::Ready(Ok(())) if running.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if !waits => continue,
                Poll::Ready(Ok(())) => {}
                // The client does not read. It may be sending, and not read before it has done so.
                Poll::Pending => {
                    if let Some(exchange) = &mut running {
                        exchange.send(cx, outgoing, client)?;
                    }
                }
            }
            let wants_body = running.as_ref().is_some_and(|exchange| exchange.wants_body(outgoing));
            if !tunnel && !wants_body && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Failure::Gone));
            }
            outgoing.forget();
            // Both sides wait for something: that may take as long as the first byte may.
            if seen != client.bytes_moved() {
                seen = client.bytes_moved();
                deadline = Instant::now() + if client.buffered() > 0 { client.stall() } else { limit };
            }
            return alarm.poll(cx, deadline).map(|()| Err(Failure::Timeout));
        }
    })
    .await
}
