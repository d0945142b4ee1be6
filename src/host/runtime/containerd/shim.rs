//! What a shim leaves behind that nobody else removes: its socket, when it was killed; and itself, when
//! containerd was killed while it was starting. containerd 1.7 and later know nothing of such a shim.
//!
//! containerd takes the rest of a dead shim away, the file that names the socket included, so the
//! name is computed as the shim does it. Only the socket of one replica is ever looked at: the
//! directory belongs to all users of all containerds on this machine.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::private_file::{blocking, if_there};
use model::function::ReplicaId;

/// Where shims listen, whatever containerd's own directories are.
const SOCKETS: &str = "/run/containerd/s";
/// How long a shim may take to leave when containerd has told it to.
const LEAVE: Duration = Duration::from_secs(1);
/// How long it may take to be gone after SIGKILL.
const KILL: Duration = Duration::from_secs(5);
/// How often is looked whether it is gone.
const LOOK: Duration = Duration::from_millis(10);

/// The socket of the shim of a replica; `containerd` is the socket of containerd itself.
fn socket_of(containerd: &Path, namespace: &str, id: &ReplicaId) -> PathBuf {
    let name = containerd.join(namespace).join(id.as_str());
    Path::new(SOCKETS).join(hex::encode(Sha256::digest(name.as_os_str().as_encoded_bytes())))
}

/// Ends the shim of a replica that containerd knows no task of, and removes its socket.
pub(super) async fn end(containerd: &Path, namespace: &str, id: &ReplicaId) -> io::Result<()> {
    let shim = Shim { containerd: containerd.to_owned(), namespace: namespace.to_owned(), id: id.clone() };
    end_at(&socket_of(containerd, namespace, id), shim).await
}

/// What a shim was started for.
#[derive(Debug, Clone)]
struct Shim {
    containerd: PathBuf,
    namespace: String,
    id: ReplicaId,
}

async fn end_at(socket: &Path, shim: Shim) -> io::Result<()> {
    let began = Instant::now();
    let mut killed = false;
    loop {
        match UnixStream::connect(socket).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return if_there(tokio::fs::remove_file(socket).await).map(drop);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        if began.elapsed() > LEAVE && !killed {
            // Not by whom the kernel says that the socket is: the shim got it from one that has ended.
            let wanted = shim.clone();
            let found = blocking(move || wanted.processes()).await?;
            if found.is_empty() {
                let socket = socket.display();
                return Err(io::Error::other(format!("somebody else listens on its socket {socket}")));
            }
            for pid in found {
                tracing::info!(replica = %shim.id, pid, "killing a shim that containerd knows nothing of");
                match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                    // It has ended by itself.
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            killed = true;
        }
        if began.elapsed() > LEAVE + KILL {
            return Err(io::Error::other("its shim does not end"));
        }
        sleep(LOOK).await;
    }
}

impl Shim {
    /// The processes that were started as this one.
    fn processes(&self) -> io::Result<Vec<i32>> {
        let processes = std::fs::read_dir("/proc")?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(pids
            .filter(|pid| {
                // One that has ended meanwhile has none.
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                self.is_started_by(&command)
            })
            .collect())
    }

    fn is_started_by(&self, command: &[u8]) -> bool {
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        let program = Path::new(OsStr::from_bytes(words[0]));
        let has = |flag: &str, value: &[u8]| words.windows(2).any(|pair| pair == [flag.as_bytes(), value]);
        program.file_name().is_some_and(|name| name == "containerd-shim-runc-v2")
            && has("-id", self.id.as_str().as_bytes())
            && has("-namespace", self.namespace.as_bytes())
            && has("-address", self.containerd.as_os_str().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_that_shims_choose() {
        let id = ReplicaId::from_existing("env-0000000001");
        let socket = socket_of(Path::new("/run/containerd/containerd.sock"), "ingle", &id);
        // printf %s /run/containerd/containerd.sock/ingle/env-0000000001 | sha256sum
        let name = "0e02426034985ae7a66eaffe8071192c8409e9a1455ad4c29004ae67b5e0d9b1";
        assert_eq!(socket, Path::new(SOCKETS).join(name));
    }

    fn shim() -> Shim {
        let id = ReplicaId::from_existing("env-0000000001");
        Shim { containerd: "/c.sock".into(), namespace: "ingle".into(), id }
    }

    #[test]
    fn a_shim_is_known_by_the_command_that_started_it() {
        let good =
            "/usr/bin/containerd-shim-runc-v2\0-namespace\0ingle\0-id\0env-0000000001\0-address\0/c.sock\0";
        assert!(shim().is_started_by(good.as_bytes()));
        for (what, other) in [
            ("containerd-shim-runc-v2", "vi"),
            ("env-0000000001", "env-0000000002"),
            ("\0ingle\0", "\0moby\0"),
            ("/c.sock", "/d.sock"),
        ] {
            let command = good.replace(what, other);
            assert_ne!(command, good);
            assert!(!shim().is_started_by(command.as_bytes()), "{command:?}");
        }
        assert!(!shim().is_started_by(b""));
    }

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        end_at(&socket, shim()).await.expect("there is none");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        // This process is no shim, and is not killed.
        let error = end_at(&socket, shim()).await.expect_err("somebody listens");
        assert!(error.to_string().contains("somebody else listens"), "{error}");
        assert!(socket.exists());
        drop(listener);
        end_at(&socket, shim()).await.expect("removed");
        assert!(!socket.exists());
    }
}
