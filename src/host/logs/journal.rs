//! Sends lines to journald, in its native protocol: one datagram for each, never waiting.
//!
//! Invariant: a function that floods is held to a rate of its own, so that it cannot use up the rate
//! that journald grants to the daemon and all functions together. What is over it stays in the files.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::lines::beginning;
use super::record::Source;
use model::function::{FunctionKey, ReplicaId};

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Bytes of a message. journald takes more, the socket's buffer may not.
const LONGEST: usize = 64 * 1024;
/// What is tried when that was too large.
const SHORTER: usize = 8 * 1024;
/// Lines that a replica may send at once, and in a second on average.
pub(super) const BURST: u64 = 2000;
pub(super) const PER_SECOND: u64 = 200;

/// The connection to journald.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// A way to journald, if it is there.
    pub(super) fn find(path: &Path) -> Option<Self> {
        if !path.exists() {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, path: path.to_owned() })
    }

    /// Sends a line; fails when journald does not keep up or is away.
    pub(super) fn send(
        &self,
        key: &FunctionKey,
        id: &ReplicaId,
        source: Source,
        text: &str,
    ) -> io::Result<()> {
        // By its path each time: journald may have been restarted.
        let send = |limit| {
            self.socket.send_to(&datagram(key, id, source, beginning(text, limit)), &self.path).map(drop)
        };
        send(LONGEST).or_else(|error| if too_large(&error) { send(SHORTER) } else { Err(error) })
    }
}

fn too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EMSGSIZE)
}

fn datagram(key: &FunctionKey, id: &ReplicaId, source: Source, text: &str) -> Vec<u8> {
    // Many programs write all they have to say to standard error: it is a notice, not a fault.
    let priority = if source == Source::Stdout { "6" } else { "5" };
    let mut out = Vec::with_capacity(text.len() + 200);
    field(&mut out, "MESSAGE", text);
    field(&mut out, "PRIORITY", priority);
    field(&mut out, "SYSLOG_IDENTIFIER", &format!("{}:{}", key.namespace, key.name));
    field(&mut out, "INGLE_REPLICA", id.as_str());
    out
}

/// `NAME=value`, or with a length when the value has lines.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> (FunctionKey, ReplicaId) {
        (FunctionKey::parse("env.dev").expect("a key"), ReplicaId::from_existing("env-00000000ab"))
    }

    #[test]
    fn a_line_is_one_datagram_with_its_fields() {
        let dir = temporary::TemporaryDirectory::new();
        let path = dir.path().join("socket");
        assert!(Journal::find(&path).is_none());
        let journald = UnixDatagram::bind(&path).expect("bound");
        let journal = Journal::find(&path).expect("there");
        let (key, id) = who();
        let receive = || {
            let mut buffer = vec![0; 1 << 20];
            let n = journald.recv(&mut buffer).expect("received");
            buffer.truncate(n);
            buffer
        };
        journal.send(&key, &id, Source::Stdout, "hello = x").expect("sent");
        assert_eq!(
            receive(),
            b"MESSAGE=hello = x\nPRIORITY=6\nSYSLOG_IDENTIFIER=dev:env\nINGLE_REPLICA=env-00000000ab\n"
        );
        journal.send(&key, &id, Source::Stderr, "a\nb").expect("sent");
        assert_eq!(
            receive(),
            b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=5\nSYSLOG_IDENTIFIER=dev:env\nINGLE_REPLICA=env-00000000ab\n"
        );
        journal.send(&key, &id, Source::Stdout, &"é".repeat(1 << 20)).expect("sent");
        assert!(receive().starts_with("MESSAGE=é".as_bytes()));
    }

    #[test]
    fn a_journald_that_reads_nothing_or_is_gone_is_not_waited_for() {
        let dir = temporary::TemporaryDirectory::new();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).expect("bound");
        let journal = Journal::find(&path).expect("there");
        let (key, id) = who();
        let failed = (0..100_000).any(|_| journal.send(&key, &id, Source::Stdout, "line").is_err());
        assert!(failed, "the socket took everything");
        drop(journald);
        assert!(journal.send(&key, &id, Source::Stdout, "line").is_err());
        std::fs::remove_file(&path).expect("removed");
        let journald = UnixDatagram::bind(&path).expect("bound again");
        journal.send(&key, &id, Source::Stdout, "back").expect("sent");
        assert!(journald.recv(&mut [0; 999]).is_ok());
    }
}
