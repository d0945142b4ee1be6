//! What a shim leaves behind that nobody else removes: its socket, when it was killed.
//!
//! containerd takes the rest of a dead shim away, the file that names the socket included, so the
//! name is computed as the shim does it. Only the socket of one replica is ever looked at: the
//! directory belongs to all users of all containerds on this machine.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::net::UnixStream;

use crate::function::ReplicaId;

/// Where shims listen, whatever containerd's own directories are.
const SOCKETS: &str = "/run/containerd/s";

/// The socket of the shim of a replica; `containerd` is the socket of containerd itself.
pub(super) fn socket_of(containerd: &Path, namespace: &str, id: &ReplicaId) -> PathBuf {
    let name = containerd.join(namespace).join(id.as_str());
    Path::new(SOCKETS).join(hex::encode(Sha256::digest(name.as_os_str().as_encoded_bytes())))
}

/// Removes a socket that nobody listens on.
pub(super) async fn remove_dead(socket: &Path) -> io::Result<()> {
    match UnixStream::connect(socket).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Ok(()),
    }
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

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        remove_dead(&socket).await.expect("there is none");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        remove_dead(&socket).await.expect("left alone");
        assert!(socket.exists(), "somebody listens");
        drop(listener);
        remove_dead(&socket).await.expect("removed");
        assert!(!socket.exists());
    }
}
