//! The daemon of this machine: its addresses, and the socket through which local commands reach it.
//!
//! While the daemon is stopped, any user's program can listen on its port, which is not privileged. The
//! socket is in a directory owned by root, so commands need no password there, and never send one to another
//! program.

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
    /// The addresses that the daemon listens on.
    addresses: Vec<SocketAddr>,
    /// The gateway that functions are called at from this machine.
    pub(crate) gateway: Gateway,
    socket: PathBuf,
    state_dir: PathBuf,
}

impl LocalDaemon {
    /// Returns the daemon of the default configuration file, or of the default configuration if the file cannot be
    /// read.
    pub(crate) fn of_this_machine() -> Self {
        let config = host::config_file::load(Path::new(DEFAULT_PATH));
        let config = config.or_else(|_| Config::parse("", |_| None));
        Self::of(&config.expect("an empty configuration is valid"))
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

    /// Returns the socket of `gateway`, if that is this daemon and the socket may be opened.
    ///
    /// Users who may not open the socket log in instead. If the socket is missing, the daemon is not running.
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
            // No daemon ever ran here; the port may be the local end of a tunnel.
            _ if !self.state_dir.exists() => Ok(None),
            _ => Err(CliError::NotRunning { why: format!("no socket at {}", self.socket.display()) }),
        }
    }
}
