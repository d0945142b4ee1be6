//! Calls without a pause, from clients that forgive nothing.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_local};

use super::http::{Answer, Client};

/// Longer than any call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client does with its connection after an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Connections {
    /// Keeps it for as long as it is allowed to.
    Kept,
    /// Asks for it to be closed, and makes another.
    New,
}

/// Clients that call a function one after the other, until the first call that fails. To be made
/// within a [`tokio::task::LocalSet`].
#[derive(Debug)]
pub(crate) struct Load {
    answered: Rc<Cell<u64>>,
    stop: Rc<Cell<bool>>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    /// So many clients that call `path` at `address` by `method`.
    pub(crate) fn start(
        address: SocketAddr,
        method: &'static str,
        path: &'static str,
        clients: usize,
        connections: Connections,
    ) -> Self {
        let (answered, stop) = (Rc::<Cell<u64>>::default(), Rc::<Cell<bool>>::default());
        let client = || {
            let (answered, stop) = (answered.clone(), stop.clone());
            let mut client = Client::new(address, matches!(connections, Connections::Kept), PATIENCE);
            spawn_local(async move {
                while !stop.get() {
                    match client.call(method, path).await {
                        Ok(Answer { status: 200, .. }) => answered.set(answered.get() + 1),
                        other => {
                            let number = answered.get();
                            return Err(format!(
                                "{method}, connections {connections:?}, after {number}: {other:?}"
                            ));
                        }
                    }
                }
                Ok(())
            })
        };
        let clients = (0..clients).map(|_| client()).collect();
        Self { answered, stop, clients }
    }

    /// Calls that were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.get()
    }

    /// Waits until so many more calls were answered. Panics when a client has given up.
    pub(crate) async fn more(&mut self, calls: u64) {
        let wanted = self.answered() + calls;
        while self.answered() < wanted {
            if let Some(index) = self.clients.iter().position(JoinHandle::is_finished) {
                let ended = self.clients.remove(index).await.expect("no panic");
                panic!("{}", ended.expect_err("clients go on"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets the calls in flight end; how many were answered. Panics when one was not.
    pub(crate) async fn end(self) -> u64 {
        self.stop.set(true);
        for client in self.clients {
            client.await.expect("no panic").expect("every call is answered");
        }
        self.answered.get()
    }
}
