//! The daemon of this machine: where it listens, and the socket that commands here speak to it by.
//!
//! Whoever answers at its port may be somebody else while it is stopped, because no port of this kind is privileged.
//! The socket is in a directory of root's, so commands need no password there, and never send one to find out.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use model::config::{Config, DEFAULT_PATH};
use nix::unistd::{AccessFlags, access, geteuid};

use super::error::CliError;
use super::gateway::Gateway;

/// The daemon of this machine, as its configuration describes it.
#[derive(Debug)]
pub(crate) struct LocalDaemon {
    /// The addresses that it listens at.
    addresses: Vec<SocketAddr>,
    /// Where this machine calls functions.
    pub(crate) gateway: Gateway,
    socket: PathBuf,
    state_dir: PathBuf,
}

impl LocalDaemon {
    /// Returns the daemon of the usual configuration file. One that cannot be read tells nothing: then it is as if
    /// there were none.
    pub(crate) fn of_this_machine() -> Self {
        let config = host::config_file::load(Path::new(DEFAULT_PATH));
        let config = config.or_else(|_| Config::parse("", |_| None));
        Self::of(&config.expect("a configuration without anything in it is right"))
    }

    /// Returns the daemon of this configuration.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            addresses: [config.gateway.listen].into_iter().chain(config.gateway.admin_listen).collect(),
            gateway: Gateway::of_daemon(config.gateway.reached_at()),
            socket: config.daemon.api_socket(),
            state_dir: config.daemon.state_dir.clone(),
        }
    }

    /// Returns the socket to speak to `gateway` by, if it is this daemon and the socket may be opened.
    ///
    /// Whoever may not open it is an ordinary user, who logs in. Where the socket is missing the daemon does not run.
    pub(crate) fn socket_for(&self, gateway: &Gateway) -> Result<Option<&Path>, CliError> {
        if !self.addresses.iter().any(|own| gateway.is_at(*own)) {
            return Ok(None);
        }
        let is_ours = |owner| owner == 0 || owner == geteuid().as_raw();
        match std::fs::symlink_metadata(&self.socket) {
            Ok(file) if file.file_type().is_socket() && is_ours(file.uid()) => {
                let may_open = access(&self.socket, AccessFlags::W_OK).is_ok();
                Ok(Some(self.socket.as_path()).filter(|_| may_open))
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
            // No daemon ever ran here: it is the near end of a tunnel, perhaps.
            _ if !self.state_dir.exists() => Ok(None),
            _ => Err(CliError::NotRunning { why: format!("no socket at {}", self.socket.display()) }),
        }
    }
}
