//! Waiters for the end of calls: clients, each through a channel, and timers, which are rung.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};

use super::keep::record::CallState;

/// All that wait, by the numbers of their calls.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    clients: HashMap<u64, Vec<oneshot::Sender<CallState>>>,
    timers: HashSet<u64>,
    /// Rung when a call of a timer has ended.
    pub(super) ended: Arc<Notify>,
}

impl Waiters {
    /// Tells `client` when a call has ended, and how. The channel closes without a word when the daemon stops before.
    pub(super) fn add(&mut self, number: u64, client: oneshot::Sender<CallState>) {
        let clients = self.clients.entry(number).or_default();
        clients.retain(|client| !client.is_closed());
        clients.push(client);
    }

    /// Forgets the clients of a call that have stopped waiting.
    pub(super) fn forget_closed(&mut self, number: u64) {
        if let Some(clients) = self.clients.get_mut(&number) {
            clients.retain(|client| !client.is_closed());
            if clients.is_empty() {
                self.clients.remove(&number);
            }
        }
    }

    /// Forgets the clients of all calls but these.
    pub(super) fn retain(&mut self, calls: impl Fn(&u64) -> bool) {
        self.clients.retain(|number, _| calls(number));
    }

    /// Forgets the clients of a call.
    pub(super) fn close(&mut self, number: u64) {
        self.clients.remove(&number);
    }

    /// Has `ended` rung when a call has ended.
    pub(super) fn watch(&mut self, number: u64) {
        self.timers.insert(number);
    }

    pub(super) fn unwatch(&mut self, number: u64) {
        self.timers.remove(&number);
    }

    pub(super) fn watches(&self, number: u64) -> bool {
        self.timers.contains(&number)
    }

    /// Tells all that a call has ended; without a state clients are told nothing more.
    pub(super) fn tell(&mut self, number: u64, state: Option<CallState>) {
        for client in self.clients.remove(&number).into_iter().flatten() {
            // It may have gone.
            let _ = state.map(|state| client.send(state));
        }
        if self.timers.remove(&number) {
            self.ended.notify_one();
        }
    }
}
