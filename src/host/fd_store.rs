//! Sockets that systemd keeps while the daemon is away, and hands to the next one, also after a crash (its file
//! descriptor store).

use std::io;
use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

/// Has systemd keep only this socket under this name: one that it kept before may be for an address that is no longer
/// in use. Does nothing without systemd.
pub fn keep(name: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let name = NotifyState::FdName(name);
    sd_notify::notify(&[NotifyState::FdStoreRemove, name.clone()])?;
    match socket {
        Some(socket) => {
            // It stays whatever becomes of the other side.
            let unpolled = NotifyState::Custom("FDPOLL=0");
            sd_notify::notify_with_fds(&[NotifyState::FdStore, name, unpolled], &[socket])
        }
        None => Ok(()),
    }
}
