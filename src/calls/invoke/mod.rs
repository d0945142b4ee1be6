//! The one road to a function: find, wake, pick, forward. Gateway, queue and cron all take it.
//!
//! ```text
//! look at the view ── a replica ──▶ connect or reuse ──▶ send head and body ──▶ head of the answer ──▶ body
//!    ▲      │ none: ring `wanted`, wait        │ refused             │ closed, and can be sent again
//!    └──────┴──────────────────────────────────┴─────────────────────┘
//! ```
//!
//! Invariants: a call holds no lock while it waits, spawns no task, and asks nothing of containerd;
//! all waiting ends with the call's deadline or when its caller goes away.

mod await_replica;
mod error;
mod measure;
mod reserved;

pub use error::InvokeError;

pub use measure::CallTimer;
pub use reserved::{REALM, may_pass, push_cookies};

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use directory::{Endpoint, Entry, Lease};
use forward::{BodyError, Caller, Exchange, Expected, Failure, Outgoing, Stream};
use http1::Alarm;

/// How much longer than a function's timeout its response is waited for: a watchdog has the same timeout, and its
/// response says more.
pub const OUTWAIT: Duration = Duration::from_millis(500);
/// How long one attempt to connect may take. A replica is on this machine: it answers at once, or
/// its network is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a function whose replicas all refuse is tried again: as long as it takes to notice
/// that a process has died and to start it anew.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// The pause between two such attempts.
const REFUSED_PAUSE: Duration = Duration::from_millis(25);

/// One call, from its first byte until the head of its answer.
#[derive(Debug)]
pub struct Call<'a> {
    pub entry: &'a Arc<Entry>,
    pub expected: Expected,
    /// The time that it has, for messages.
    pub limit: Duration,
    /// The body's limit, for messages.
    pub body_limit: u64,
    /// It may be carried out twice: the method is safe or idempotent.
    pub idempotent: bool,
    /// Calls that may wait for a replica, this one included.
    pub max_waiting: usize,
    /// There was no replica, and it waited for one.
    pub has_waited: AtomicBool,
}

impl Call<'_> {
    /// Gets the call to a replica and its answer's head to the caller. The body of the answer is
    /// then read from the exchange.
    pub async fn begin<C: Caller>(
        &self,
        out: &mut Outgoing,
        caller: &mut C,
        alarm: &mut Alarm,
    ) -> Result<Exchange<Lease>, InvokeError> {
        let mut refused = Refused { unsent: true, endpoints: Vec::new(), since: None, error: None };
        // After a kept connection turned out to be closed, the next is a new one.
        let mut reuse = true;
        let mut broken = 0;
        loop {
            let lease = self.replica(&mut refused, caller, alarm).await?;
            let kept = if reuse { lease.endpoint().pool.checkout() } else { None };
            let was_kept = kept.is_some();
            let stream = match kept {
                Some(stream) => stream,
                None => match self.connect(&lease, caller, alarm).await? {
                    Ok(stream) => stream,
                    Err(error) => {
                        refused.by(lease.endpoint().clone(), error);
                        continue;
                    }
                },
            };
            let mut exchange = Exchange::new(stream, lease);
            let result = poll_fn(|cx| exchange.poll_head(cx, self.expected, out, caller, alarm)).await;
            match result {
                Ok(()) => return Ok(exchange),
                Err(Failure::Connection(error)) => {
                    refused.unsent &= out.is_untouched();
                    // A call that ends every replica it reaches must not reach them all.
                    if !was_kept {
                        broken += 1;
                    }
                    if broken > 1 || !out.rewind(self.idempotent) {
                        return Err(self.unreachable(error, refused.unsent));
                    }
                    if was_kept {
                        reuse = false;
                    } else {
                        refused.by(exchange.keeper().endpoint().clone(), error);
                    }
                }
                Err(failure) => return Err(self.failed(failure)),
            }
        }
    }

    /// A replica that has not refused yet. When all have, they are tried again after a pause.
    async fn replica<C: Caller>(
        &self,
        refused: &mut Refused,
        caller: &mut C,
        alarm: &mut Alarm,
    ) -> Result<Lease, InvokeError> {
        loop {
            let Some(lease) = self.find(&refused.endpoints, caller, alarm).await? else {
                let now = Instant::now();
                let since = *refused.since.get_or_insert(now);
                if now + REFUSED_PAUSE >= (since + REFUSED_FOR).min(self.expected.deadline) {
                    let error =
                        refused.error.take().unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into());
                    return Err(self.unreachable(error, refused.unsent));
                }
                refused.endpoints.clear();
                self.pause(now + REFUSED_PAUSE, caller, alarm).await?;
                continue;
            };
            return Ok(lease);
        }
    }

    async fn pause<C: Caller>(
        &self,
        until: Instant,
        caller: &mut C,
        alarm: &mut Alarm,
    ) -> Result<(), InvokeError> {
        poll_fn(|cx| {
            if caller.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(self.failed(Failure::Gone)));
            }
            alarm.poll(cx, until).map(Ok)
        })
        .await
    }

    /// A new connection; the inner error is the replica's.
    async fn connect<C: Caller>(
        &self,
        lease: &Lease,
        caller: &mut C,
        alarm: &mut Alarm,
    ) -> Result<io::Result<Stream>, InvokeError> {
        let until = (Instant::now() + CONNECT_TIMEOUT).min(self.expected.deadline);
        let mut connecting = pin!(lease.endpoint().pool.connect());
        poll_fn(|cx| {
            if let Poll::Ready(done) = connecting.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if caller.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(self.failed(Failure::Gone)));
            }
            alarm.poll(cx, until).map(|()| Ok(Err(io::ErrorKind::TimedOut.into())))
        })
        .await
    }

    fn unreachable(&self, source: io::Error, unsent: bool) -> InvokeError {
        InvokeError::Unreachable { function: self.entry.label.to_string(), source, unsent }
    }

    /// The failure, in words for this function.
    pub fn failed(&self, failure: Failure) -> InvokeError {
        let function = self.entry.label.to_string();
        match failure {
            Failure::Connection(source) => InvokeError::Unreachable { function, source, unsent: false },
            Failure::BadAnswer(reason) => InvokeError::BadAnswer { function, reason },
            Failure::Body(BodyError::TooLarge) => {
                InvokeError::BodyTooLarge { function, limit: self.body_limit }
            }
            Failure::Body(BodyError::Bad(reason)) => InvokeError::BadBody { function, reason },
            Failure::Body(BodyError::Gone) | Failure::Gone => InvokeError::CallerGone { function },
            Failure::BodyStalled => InvokeError::BodyStalled { function },
            Failure::Timeout => InvokeError::NoAnswerInTime { function, limit: self.limit },
        }
    }
}

/// Replicas that did not take the call.
#[derive(Debug)]
struct Refused {
    /// None of them has been sent anything.
    unsent: bool,
    endpoints: Vec<Arc<Endpoint>>,
    since: Option<Instant>,
    error: Option<io::Error>,
}

impl Refused {
    fn by(&mut self, endpoint: Arc<Endpoint>, error: io::Error) {
        self.endpoints.push(endpoint);
        // What a replica said is worth more than that the last attempt ran out of time.
        if self.error.is_none() || error.kind() != io::ErrorKind::TimedOut {
            self.error = Some(error);
        }
    }
}
