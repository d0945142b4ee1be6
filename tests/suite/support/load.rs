//! Calls without a pause, from clients that forgive nothing.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

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
    /// So many clients that `GET` `path` from `address`.
    pub(crate) fn start(address: &str, path: &str, clients: usize, connections: Connections) -> Self {
        let (answered, stop) = (Rc::<Cell<u64>>::default(), Rc::<Cell<bool>>::default());
        let header = match connections {
            Connections::Kept => "",
            Connections::New => "Connection: close\r\n",
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{header}\r\n");
        let client = || {
            let (answered, stop) = (answered.clone(), stop.clone());
            let (address, request) = (address.to_owned(), request.clone());
            spawn_local(async move {
                let mut kept = None;
                while !stop.get() {
                    let used = kept.is_some();
                    kept = timeout(PATIENCE, call(kept, &address, &request))
                        .await
                        .map_err(|_| "no answer in time".to_owned())
                        .flatten()
                        .map_err(|error| {
                            let on = if used { "kept" } else { "new" };
                            format!("call {} on a {on} connection: {error}", answered.get())
                        })?;
                    answered.set(answered.get() + 1);
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

/// One call; the connection, if it can carry another.
async fn call(kept: Option<TcpStream>, address: &str, request: &str) -> Result<Option<TcpStream>, String> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"))?,
    };
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("writing: {error}"))?;
    let mut answer = Vec::new();
    loop {
        if let Some((head, body)) = parts(&answer) {
            if !head.starts_with("http/1.1 200 ") {
                return Err(format!("answered {head:?} {:?}", String::from_utf8_lossy(body)));
            }
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse::<usize>().ok())
                .ok_or_else(|| format!("an answer without a length: {head:?}"))?;
            if body.len() == length {
                let ends = head.lines().any(|line| line == "connection: close");
                return Ok((!ends).then_some(stream));
            }
        }
        let count = stream.read_buf(&mut answer).await.map_err(|error| format!("reading: {error}"))?;
        if count == 0 {
            return Err(format!("closed after {:?}", String::from_utf8_lossy(&answer)));
        }
    }
}

/// The head in lower case and the body, once the head is whole.
fn parts(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let (head, body) = answer.split_at(end);
    Some((String::from_utf8_lossy(head).to_ascii_lowercase(), body))
}
