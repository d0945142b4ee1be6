//! What a shim leaves behind that nobody else removes: its socket, when it was killed; and itself, when
//! containerd was killed while it was starting. containerd 1.7 and later know nothing of such a shim.
//!
//! containerd takes the rest of a dead shim away, the file that names the socket included, so the
//! name is computed as the shim does it. Only the socket of one replica is ever looked at: the
//! directory belongs to all users of all containerds on this machine.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::function::ReplicaId;

/// Where shims listen, whatever containerd's own directories are.
const SOCKETS: &str = "/run/containerd/s";
/// How long a shim may take to leave when containerd has told it to.
const LEAVE: Duration = Duration::from_secs(1);
/// How long it may take to be gone after SIGKILL.
const KILL: Duration = Duration::from_secs(5);
/// How often is looked whether it is gone.
const LOOK: Duration = Duration::from_millis(10);

/// The socket of the shim of a replica; `containerd` is the socket of containerd itself.
pub(super) fn socket_of(containerd: &Path, namespace: &str, id: &ReplicaId) -> PathBuf {
    let name = containerd.join(namespace).join(id.as_str());
    Path::new(SOCKETS).join(hex::encode(Sha256::digest(name.as_os_str().as_encoded_bytes())))
}

/// Ends the shim of a replica that containerd knows no task of, and removes its socket.
pub(super) async fn end(socket: &Path, id: &ReplicaId) -> io::Result<()> {
    let began = Instant::now();
    let mut killed = false;
    loop {
        match UnixStream::connect(socket).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return remove(socket).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        if began.elapsed() > LEAVE && !killed {
            // Not by whom the kernel says that the socket is: the shim got it from one that has ended.
            let (id, found) = (id.clone(), id.clone());
            let shims = tokio::task::spawn_blocking(move || shims_of(&found)).await??;
            if shims.is_empty() {
                return Err(io::Error::other("somebody else listens there"));
            }
            for pid in shims {
                tracing::info!(replica = %id, pid, "killing a shim that containerd knows nothing of");
                kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            }
            killed = true;
        }
        if began.elapsed() > LEAVE + KILL {
            return Err(io::Error::other("its shim does not end"));
        }
        sleep(LOOK).await;
    }
}

/// The processes that were started as this replica's shim.
fn shims_of(id: &ReplicaId) -> io::Result<Vec<i32>> {
    let processes = std::fs::read_dir("/proc")?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids
        .filter(|pid| {
            // One that has ended meanwhile has none.
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            is_shim_of(&line, id)
        })
        .collect())
}

fn is_shim_of(command: &[u8], id: &ReplicaId) -> bool {
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    let program = Path::new(std::ffi::OsStr::from_bytes(words[0]));
    program.file_name().is_some_and(|name| name == "containerd-shim-runc-v2")
        && words.windows(2).any(|pair| pair == [b"-id", id.as_str().as_bytes()])
}

async fn remove(socket: &Path) -> io::Result<()> {
    match tokio::fs::remove_file(socket).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
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

    #[test]
    fn a_shim_is_known_by_the_command_that_started_it() {
        let id = ReplicaId::from_existing("env-0000000001");
        for (command, is_one) in [
            (
                "/usr/bin/containerd-shim-runc-v2\0-namespace\0ingle\0-id\0env-0000000001\0-address\0/a\0",
                true,
            ),
            ("/usr/bin/containerd-shim-runc-v2\0-namespace\0ingle\0-id\0env-0000000002\0", false),
            ("/usr/bin/vi\0-id\0env-0000000001\0", false),
            ("", false),
        ] {
            assert_eq!(is_shim_of(command.as_bytes(), &id), is_one, "{command:?}");
        }
    }

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_removed() {
        let id = ReplicaId::from_existing("env-0000000001");
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        end(&socket, &id).await.expect("there is none");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        // This process is no shim, and is not killed.
        let error = end(&socket, &id).await.expect_err("somebody listens");
        assert_eq!(error.to_string(), "somebody else listens there");
        assert!(socket.exists());
        drop(listener);
        end(&socket, &id).await.expect("removed");
        assert!(!socket.exists());
    }
}
