//! Clients that call all the time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::plan::{PASSING, STEADY};
use super::truth::Truth;
use crate::support::daemon::address;
use crate::support::http::Client;

/// What the daemon gives a call.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);
/// A call that has no answer by then hangs.
pub(super) const DEADLINE: Duration = TIMEOUT.saturating_add(Duration::from_secs(5));
/// Between two calls of a client: this load is there to notice things, not to slow down what it watches.
const PAUSE: Duration = Duration::from_millis(5);

/// Clients at work, until it is dropped.
#[derive(Debug)]
pub(super) struct Load {
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Load {
    /// Six clients: half of them keep their connection, every third makes calls that may not be made twice.
    pub(super) fn start(truth: &Arc<Truth>) -> Self {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for number in 0..6_usize {
            let client = Client::new(address(), number % 2 == 0, DEADLINE);
            let method = if number % 3 == 2 { "POST" } else { "GET" };
            clients.spawn(call_on(client, method, number, truth.clone(), stop.clone()));
        }
        Self { stop, clients }
    }

    /// Ends it; returns when no call is in flight.
    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no panic in a client");
        }
    }
}

async fn call_on(
    mut client: Client,
    method: &'static str,
    number: usize,
    truth: Arc<Truth>,
    stop: CancellationToken,
) {
    let names = [STEADY.as_slice(), &PASSING].concat();
    let mut turns = names.iter().cycle().skip(number);
    while let Some(function) = turns.next().filter(|_| !stop.is_cancelled()) {
        let called = truth.call(function, method == "GET");
        let outcome = client.call(method, &format!("/function/{function}/env")).await;
        truth.judge(&called, outcome);
        tokio::time::sleep(PAUSE).await;
    }
}
