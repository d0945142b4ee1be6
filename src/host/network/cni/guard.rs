//! Protection of the firewall rules against flushes by other programs.
//!
//! The table exists twice. An *owned* copy (`flags owner`, Linux 5.12) belongs to the netlink socket of an `nft -i`:
//! other programs' `flush ruleset` skips it, and it goes when the last duplicate of that socket is closed. The *plain*
//! copy is for the time after an orderly end of the daemon. A flush removes it; the kernel notifies us, and it is
//! loaded again.
//!
//! The owned copy outlives a daemon that is killed, until the next daemon has one of its own:
//!
//! - `nft` does not end with the daemon. Its input is a FIFO in the run directory, which it keeps open for writing
//!   too. The next daemon tells it to quit there, and so does `install.sh --uninstall`.
//! - The daemon takes a duplicate of the socket, so that the copy also outlives `nft`, and gives one to systemd, which
//!   kills `nft` with the rest of the service.
//!
//! A table can be changed by its owner alone. So each owned copy is loaded under a name that is free, and the one before
//! is removed after that. One `nft` replaces its own in the same way, and the plain copy is replaced while there is an
//! owned one: a transaction that replaces a table is not atomic for packets. One can pass the new table before it has
//! rules and the old one after it has lost them, and sets get their elements after that (Linux 6.18).
//!
//! If the kernel or `nft` does not support owners there is only the plain copy, and the log says so once.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::FutureExt as _;
use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rtnetlink::packet_core::{NetlinkBuffer, NlasIterator};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::rules::{Table, nft};
use crate::network::NetworkError;
use crate::private_file::{self, blocking, names_in};
use crate::{exec, fd_store};

/// Names of the copies' files in the run directory.
const PLAIN: &str = "rules.nft";
const OWNED: &str = "owned.nft";
/// The directory in the run directory with the inputs of holders. `install.sh` knows it.
const HOLDERS: &str = "rules";
/// The program that holds the owned copy. Signals to the whole service must not end it.
const HOLDER: &str = "trap '' TERM INT HUP; exec nft -i";
const QUIT: &str = "quit\n";
/// Name under which systemd keeps the socket that holds the owned copy.
const SOCKET: &str = "rules";
/// Longest time that the holder may take to load the owned copy.
const LIMIT: Duration = Duration::from_secs(5);
/// Pause after a repair, so that a program that flushes in a loop does not keep the machine busy.
const PAUSE: Duration = Duration::from_millis(100);
/// Attempts to load an owned copy, and the pause between them. Later attempts are made whenever the network is checked.
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
    table: Table,
    done: oneshot::Sender<Result<(), NetworkError>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guard {
    /// Starts the task, in this thread's network namespace. The tables that `inherited` sockets hold stay until there
    /// is an owned copy.
    pub(super) fn start(run_dir: &Path, inherited: Vec<OwnedFd>) -> Result<Self, NetworkError> {
        let changes = Changes::open()
            .map_err(|error| NetworkError::failed("listening to changes of the firewall rules", error))?;
        let (requests, received) = mpsc::channel(1);
        let keeper = Keeper {
            run_dir: run_dir.to_owned(),
            changes,
            there: BTreeSet::new(),
            table: Table::default(),
            holder: None,
            earlier: inherited,
            failures: 0,
        };
        Ok(Self { requests, task: tokio::spawn(keeper.run(received)) })
    }

    /// Replaces the rules. Succeeds without an owned copy, too.
    pub(super) async fn load(&self, table: Table) -> Result<(), NetworkError> {
        let (done, loaded) = oneshot::channel();
        let ended =
            || NetworkError::failed("loading the firewall rules", "the task that keeps them has ended");
        self.requests.send(Request { table, done }).await.map_err(|_| ended())?;
        loaded.await.map_err(|_| ended())?
    }
}

struct Keeper {
    run_dir: PathBuf,
    changes: Changes,
    /// Tables that the kernel has reported to exist.
    there: BTreeSet<String>,
    table: Table,
    holder: Option<Holder>,
    /// Sockets of holders that have ended: their tables stay until there is another owned copy.
    earlier: Vec<OwnedFd>,
    /// Failed attempts to load an owned copy since there was one.
    failures: u32,
}

impl Keeper {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            tokio::select! {
                request = requests.recv() => {
                    let Some(Request { table, done }) = request else { return };
                    let loaded = self.load(table).await;
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
                end = ended(self.holder.as_mut()) => {
                    let socket = self.holder.take().and_then(|mut holder| holder.socket.take());
                    // One that has quit was told to, by another daemon with rules of its own.
                    if end.is_none_or(|status| !status.success()) {
                        self.earlier.extend(socket);
                        tracing::warn!("nft, which held the firewall rules, has ended; it is started again");
                        self.own().await;
                        sleep(PAUSE).await;
                    }
                }
                () = sleep(TRY_AGAIN), if (1..TRIES).contains(&self.failures) => self.own().await,
            }
        }
    }

    async fn load(&mut self, table: Table) -> Result<(), NetworkError> {
        self.table = table;
        let plain = self.table.plain();
        self.write(PLAIN, plain.clone())
            .await
            .map_err(|error| NetworkError::failed(format!("writing {PLAIN}"), error))?;
        let loaded = self.holder.as_ref().is_some_and(|holder| holder.loaded == self.table);
        if !loaded {
            self.own().await;
        }
        nft(&[], &plain, "loading the firewall rules").await?;
        self.there.insert(self.table.name.clone());
        Ok(())
    }

    async fn write(&self, name: &'static str, script: String) -> io::Result<()> {
        let directory = self.run_dir.clone();
        blocking(move || {
            private_file::make_directory(&directory)?;
            private_file::write(&directory, name, script.as_bytes(), 0o600)
        })
        .await
    }

    /// Loads the plain copy again if it is gone.
    async fn repair(&mut self) {
        if self.table.name.is_empty() || self.there.contains(&self.table.name) {
            return;
        }
        tracing::debug!(table = self.table.name, "the firewall rules were flushed; loading them again");
        match nft(&[], &self.table.plain(), "loading the firewall rules again").await {
            Ok(()) => drop(self.there.insert(self.table.name.clone())),
            // The next check of the network tries again.
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the plain copy of the firewall rules is not in force"
            ),
        }
        sleep(PAUSE).await;
    }

    /// Loads an owned copy. Logs once why that is not possible.
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
        let tables = exec::said(Path::new("nft"), &["list", "tables"])
            .await
            .map_err(|reason| NetworkError::failed(operation, reason))?;
        let taken: BTreeSet<&str> =
            tables.lines().filter_map(|line| line.strip_prefix("table inet ")).collect();
        let name = self.table.owned_names().find(|name| !taken.contains(name.as_str())).unwrap_or_default();
        let script = self.table.owned(&name);
        let mut holder = match self.holder.take() {
            Some(holder) => holder,
            None => {
                // Fails at once, with a reason, if owners are not supported.
                nft(&["-c"], &script, operation).await?;
                Holder::start(&self.run_dir).map_err(failed)?
            }
        };
        self.there.remove(&name);
        let loaded = async {
            self.write(OWNED, script).await?;
            holder.send(&format!("include \"./{OWNED}\"\n"))?;
            while !self.there.contains(&name) {
                self.changes.next(&mut self.there).await?;
            }
            Ok(())
        };
        let loaded = timeout(LIMIT, loaded).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = loaded {
            self.earlier.extend(holder.socket.take());
            let _ = holder.nft.start_kill();
            return Err(failed(error));
        }
        holder.replace(&self.table, name).map_err(failed)?;
        self.earlier.clear();
        let (directory, input) = (self.run_dir.join(HOLDERS), holder.input.clone());
        self.holder = Some(holder);
        blocking(move || end_others(&directory, &input)).await.map_err(failed)
    }
}

/// An `nft` that owns a table. When this is dropped the process ends, and the table goes with it.
#[derive(Debug)]
struct Holder {
    nft: Child,
    /// The path of its input.
    input: PathBuf,
    /// The input, which both open for reading and writing: it does not end with the daemon.
    fifo: File,
    /// A duplicate of its netlink socket.
    socket: Option<OwnedFd>,
    /// The table that it holds, and its name.
    loaded: Table,
    name: String,
}

/// Waits for the end of a holder, and returns how it has ended. The kernel sends no message when its table goes.
async fn ended(holder: Option<&mut Holder>) -> Option<ExitStatus> {
    match holder {
        Some(holder) => holder.nft.wait().await.ok(),
        None => std::future::pending().await,
    }
}

impl Holder {
    fn start(run_dir: &Path) -> io::Result<Self> {
        let directory = run_dir.join(HOLDERS);
        private_file::make_directory(&directory)?;
        let input = directory.join(Uuid::new_v4().to_string());
        mkfifo(&input, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let fifo = OpenOptions::new().read(true).write(true).open(&input)?;
        let mut command = exec::command(Path::new("sh"));
        // The paths of scripts are relative. `nft -i` must not write a history file.
        command.args(["-c", HOLDER]).current_dir(run_dir).env("HOME", "/dev/null");
        let nft = command.stdin(fifo.try_clone()?).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Self { nft, input, fifo, socket: None, loaded: Table::default(), name: String::new() })
    }

    /// Sends commands, which fit into its input as a whole.
    fn send(&mut self, commands: &str) -> io::Result<()> {
        self.fifo.write_all(commands.as_bytes())
    }

    /// Removes the table that it has held before: `table` is in force under this name.
    fn replace(&mut self, table: &Table, name: String) -> io::Result<()> {
        self.loaded = table.clone();
        let before = std::mem::replace(&mut self.name, name);
        if !before.is_empty() {
            return self.send(&format!("delete table inet {before}\n"));
        }
        let kept = self.duplicate().and_then(|socket| {
            let socket = self.socket.insert(socket);
            fd_store::keep(SOCKET, Some(socket.as_fd()))
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "the firewall rules can be flushed when nft, which holds them, is killed");
        }
        Ok(())
    }

    /// Returns a duplicate of its netlink socket (Linux 5.6).
    fn duplicate(&self) -> io::Result<OwnedFd> {
        let no_socket = || io::Error::new(io::ErrorKind::NotFound, "it has no socket");
        let id = self.nft.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or_else(no_socket)?;
        let is_socket = |file: &fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        };
        let files = fs::read_dir(format!("/proc/{}/fd", id.as_raw_nonzero()))?.flatten();
        let mut numbers = files.filter(is_socket).filter_map(|file| file.file_name().to_str()?.parse().ok());
        let number = numbers.next().ok_or_else(no_socket)?;
        let process = pidfd_open(id, PidfdFlags::empty())?;
        Ok(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The plain copy is loaded before the owned one goes: it may have been flushed a moment before.
        let _ = self.send(&format!("include \"./{PLAIN}\"\n{QUIT}"));
        let _ = fs::remove_file(&self.input);
    }
}

/// Ends the holders of daemons that were killed.
fn end_others(directory: &Path, own: &Path) -> io::Result<()> {
    for name in names_in(directory)? {
        let input = directory.join(name);
        if input == own {
            continue;
        }
        // Nobody reads it after the holder's end.
        if let Ok(mut fifo) = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&input) {
            fifo.write_all(QUIT.as_bytes())?;
        }
        fs::remove_file(&input)?;
    }
    Ok(())
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
