//! Protection of the firewall rules against flushes by other programs.
//!
//! The table exists twice. The *owned* copy (`flags owner`, Linux 5.12) belongs to the netlink socket of an `nft -i`
//! that is kept open here: other programs' `flush ruleset` skips it, and it goes when that process ends. The *plain*
//! copy is for the time without a daemon. A flush removes it; the kernel notifies us, and it is loaded again.
//!
//! The input of `nft -i` comes from a feeder. When the daemon is killed, the feeder first has `nft` load the
//! plain copy once more, from a file, so the plain copy is there when the owned one goes, even after a flush
//! a moment before. The file is that of the latest daemon, so a daemon that has started meanwhile does not
//! lose rules.
//!
//! If the kernel or `nft` does not support owners there is only the plain copy, and the log says so once.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::FutureExt as _;
use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::rules::{Copy, nft};
use crate::exec;
use crate::network::NetworkError;
use crate::private_file::{self, blocking};

/// The name of the plain copy's file in the run directory.
const FILE: &str = "rules.nft";
/// Programs that hold the owned copy and feed the holder. Signals to the whole service must not end them before the
/// daemon.
const HOLDER: &str = "trap '' TERM INT HUP; exec nft -i";
const FEEDER: &str = "trap '' TERM INT HUP; cat; cat \"$1\"";
/// Longest time that the holder may take to load the owned copy.
const LIMIT: Duration = Duration::from_secs(5);
/// Pause after a repair, so that a program that flushes in a loop does not keep the machine busy.
const PAUSE: Duration = Duration::from_millis(100);
/// Attempts to load an owned copy, and the pause between them: the copy of a killed daemon may still be there for a
/// moment. Later attempts are made whenever the network is checked.
const TRIES: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// The kernel's group of changes to nftables: `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// Messages of nftables: `NFNL_SUBSYS_NFTABLES`, `NFT_MSG_NEWTABLE` and `NFT_MSG_DELTABLE`.
const NEW_TABLE: u16 = 10 << 8;
const DELETED_TABLE: u16 = 10 << 8 | 2;
/// The attribute with a table's name, after a header of four bytes.
const TABLE_NAME: u16 = 1;
const HEADER: usize = 4;
/// The family of our tables: `NFPROTO_INET`.
const INET: u8 = 1;

/// The task that keeps both copies in force; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Request {
    plain: Copy,
    owned: Copy,
    done: oneshot::Sender<Result<(), NetworkError>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guard {
    /// Starts the task, in this thread's network namespace.
    pub(super) fn start(run_dir: &Path) -> Result<Self, NetworkError> {
        let changes = Changes::open()
            .map_err(|error| NetworkError::failed("listening to changes of the firewall rules", error))?;
        let (requests, received) = mpsc::channel(1);
        let keeper = Keeper {
            run_dir: run_dir.to_owned(),
            changes,
            there: BTreeSet::new(),
            plain: Copy::default(),
            owned: Copy::default(),
            holder: None,
            failures: 0,
        };
        Ok(Self { requests, task: tokio::spawn(keeper.run(received)) })
    }

    /// Replaces the rules. Succeeds without an owned copy, too.
    pub(super) async fn load(&self, plain: Copy, owned: Copy) -> Result<(), NetworkError> {
        let (done, loaded) = oneshot::channel();
        let ended =
            || NetworkError::failed("loading the firewall rules", "the task that keeps them has ended");
        self.requests.send(Request { plain, owned, done }).await.map_err(|_| ended())?;
        loaded.await.map_err(|_| ended())?
    }
}

struct Keeper {
    run_dir: PathBuf,
    changes: Changes,
    /// Tables that the kernel has reported to exist.
    there: BTreeSet<String>,
    plain: Copy,
    owned: Copy,
    holder: Option<Holder>,
    /// Failed attempts to load an owned copy since there was one.
    failures: u32,
}

impl Keeper {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let Some(Request { plain, owned, done }) = request else { return };
                    let loaded = self.load(plain, owned).await;
                    let _ = done.send(loaded);
                }
                seen = self.changes.next(&mut self.there) => match seen {
                    Ok(()) => self.repair().await,
                    // The buffer for messages of the kernel has overflowed.
                    Err(error) => {
                        tracing::debug!(%error, "changes of the firewall rules were missed");
                        self.there.clear();
                        self.repair().await;
                    }
                },
                () = ended(self.holder.as_mut()) => {
                    tracing::warn!("nft, which held the firewall rules, has ended; it is started again");
                    self.holder = None;
                    self.own().await;
                    sleep(PAUSE).await;
                }
                () = sleep(TRY_AGAIN), if (1..TRIES).contains(&self.failures) => self.own().await,
            }
        }
    }

    async fn load(&mut self, plain: Copy, owned: Copy) -> Result<(), NetworkError> {
        (self.plain, self.owned) = (plain, owned);
        let (directory, line) = (self.run_dir.clone(), self.plain.line());
        blocking(move || {
            private_file::make_directory(&directory)?;
            private_file::write(&directory, FILE, line.as_bytes(), 0o600)
        })
        .await
        .map_err(|error| NetworkError::failed(format!("writing {FILE}"), error))?;
        nft(&[], &self.plain.script, "loading the firewall rules").await?;
        self.there.insert(self.plain.table.clone());
        let loaded = self.holder.as_ref().is_some_and(|holder| holder.loaded == self.owned);
        if !loaded {
            self.own().await;
        }
        Ok(())
    }

    /// Loads the plain copy again if it is gone.
    async fn repair(&mut self) {
        if self.plain.table.is_empty() || self.there.contains(&self.plain.table) {
            return;
        }
        tracing::debug!(table = self.plain.table, "the firewall rules were flushed; loading them again");
        match nft(&[], &self.plain.script, "loading the firewall rules again").await {
            Ok(()) => drop(self.there.insert(self.plain.table.clone())),
            // The next check of the network tries again.
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the plain copy of the firewall rules is not in force"
            ),
        }
        sleep(PAUSE).await;
    }

    /// Loads the owned copy. Logs once why that is not possible.
    async fn own(&mut self) {
        let Err(error) = self.try_to_own().await else {
            self.failures = 0;
            return;
        };
        self.failures = self.failures.saturating_add(1);
        if self.failures == TRIES {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "other programs' `nft flush ruleset` can take the firewall rules of functions for a moment: \
                 no nft holds a copy of them (Linux 5.12)"
            );
        }
    }

    async fn try_to_own(&mut self) -> Result<(), NetworkError> {
        let operation = "holding a copy of the firewall rules";
        let failed = |error: io::Error| NetworkError::failed(operation, error);
        let mut holder = match self.holder.take() {
            Some(holder) => holder,
            None => {
                // Fails at once, with a reason, if owners are not supported.
                nft(&["-c"], &self.owned.script, operation).await?;
                Holder::start(&self.run_dir.join(FILE)).map_err(failed)?
            }
        };
        self.there.remove(&self.owned.table);
        let loaded = async {
            holder.load(&self.owned).await?;
            while !self.there.contains(&self.owned.table) {
                self.changes.next(&mut self.there).await?;
            }
            Ok(())
        };
        timeout(LIMIT, loaded)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        self.holder = Some(holder);
        Ok(())
    }
}

/// The `nft` that owns a table. When this is dropped the process ends, and the table goes with it.
#[derive(Debug)]
struct Holder {
    nft: Child,
    _feeder: Child,
    stdin: ChildStdin,
    loaded: Copy,
}

/// Waits for the end of a holder. The kernel sends no message when its table goes.
async fn ended(holder: Option<&mut Holder>) {
    match holder {
        Some(holder) => drop(holder.nft.wait().await),
        None => std::future::pending().await,
    }
}

impl Holder {
    fn start(file: &Path) -> io::Result<Self> {
        let shell = |script: &str| {
            let mut command = exec::command(Path::new("sh"));
            command.args(["-c", script, "sh"]).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        let mut feeder = shell(FEEDER).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = feeder.stdin.take().ok_or_else(broken)?;
        let input: Stdio = feeder.stdout.take().ok_or_else(broken)?.try_into()?;
        // `nft -i` must not write a history file.
        let nft = shell(HOLDER).env("HOME", "/dev/null").stdin(input).spawn()?;
        Ok(Self { nft, _feeder: feeder, stdin, loaded: Copy::default() })
    }

    async fn load(&mut self, copy: &Copy) -> io::Result<()> {
        self.stdin.write_all(copy.line().as_bytes()).await?;
        self.stdin.flush().await?;
        self.loaded = copy.clone();
        Ok(())
    }
}

/// Messages of the kernel about new and deleted tables, in the namespace in which this was opened.
struct Changes {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Changes {
    fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_ref().add_membership(GROUP)?;
        Ok(Self { socket, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Waits for changes and applies them to `there`. A table that is replaced is deleted and added.
    async fn next(&mut self, there: &mut BTreeSet<String>) -> io::Result<()> {
        self.buffer.clear();
        let mut received = Some(self.socket.recv(&mut self.buffer).await);
        while let Some(outcome) = received {
            outcome?;
            for (table, is_there) in tables_in(&self.buffer) {
                if is_there {
                    there.insert(table);
                } else {
                    there.remove(&table);
                }
            }
            self.buffer.clear();
            received = self.socket.recv(&mut self.buffer).now_or_never();
        }
        Ok(())
    }
}

/// Returns the tables that messages of nftables name, and whether each was added or deleted.
fn tables_in(mut messages: &[u8]) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    while let Ok(message) = NetlinkBuffer::new_checked(messages) {
        let is_there = match message.message_type() {
            NEW_TABLE => Some(true),
            DELETED_TABLE => Some(false),
            _ => None,
        };
        if let (Some(is_there), Some((&[INET, ..], attributes))) =
            (is_there, message.payload().split_first_chunk::<HEADER>())
        {
            let name =
                NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == TABLE_NAME);
            let name =
                name.map(|name| String::from_utf8_lossy(name.value()).trim_end_matches('\0').to_owned());
            found.extend(name.map(|name| (name, is_there)));
        }
        let length = (message.length() as usize).next_multiple_of(4);
        messages = messages.get(length..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a message as the kernel sends it.
    fn message(kind: u16, family: u8, table: &str) -> Vec<u8> {
        let name = [table.as_bytes(), b"\0"].concat();
        let length = u16::try_from(name.len() + 4).expect("short");
        let mut attribute = [length.to_ne_bytes(), TABLE_NAME.to_ne_bytes()].concat();
        attribute.extend(name);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let length = 16 + 4 + u32::try_from(attribute.len()).expect("short");
        let header = [length.to_ne_bytes(), u32::from(kind).to_ne_bytes(), [0; 4], [0; 4]].concat();
        [header, vec![family, 0, 0, 0], attribute].concat()
    }

    #[test]
    fn added_and_deleted_tables_are_read_in_order() {
        let messages = [
            message(DELETED_TABLE, INET, "ingle"),
            message(DELETED_TABLE, 2, "ingle"),
            message(10 << 8 | 6, INET, "a rule"),
            message(NEW_TABLE, INET, "ingle/owned"),
        ]
        .concat();
        let expected = [("ingle".to_owned(), false), ("ingle/owned".to_owned(), true)];
        assert_eq!(tables_in(&messages), expected);
        for cut in 0..messages.len() {
            assert!(expected.starts_with(&tables_in(&messages[..cut])), "{cut}");
        }
    }
}
