//! Network namespaces by name, where `ip netns` shows them.
//!
//! A thread enters a namespace only here, and only a thread that was started for it and ends right after.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use netns_rs::{DefaultEnv, Env, NetNs};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use tokio::net::TcpSocket;
use tokio::runtime::Handle;

use super::netlink::Netlink;
use crate::private_file::{blocking, if_there, names_in};

/// What is set in a new namespace before anything else happens in it.
const SYSCTLS: [(&str, &str); 3] = [
    // Replicas have IPv4 only, and no link-local addresses that no rule expects.
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    // An image that serves on port 80 does so without a capability, as in Docker.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
];

/// Where a namespace called `name` is.
pub(super) fn path(name: &str) -> PathBuf {
    DefaultEnv.persist_dir().join(name)
}

/// Makes the directory of all namespaces what it must be. Once, before several are made side by side.
pub(super) async fn prepare_directory() -> io::Result<()> {
    blocking(|| DefaultEnv.init().map_err(io::Error::other)).await
}

/// Makes a namespace and opens a socket in it.
pub(super) async fn create(name: String) -> io::Result<(NetNs, Netlink)> {
    let runtime = Handle::current();
    blocking(move || {
        let path = path(&name);
        if is_namespace(&path) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is there already", path.display()),
            ));
        }
        let netns = NetNs::new(&name).map_err(io::Error::other)?;
        let prepared = inside(&netns, || {
            for (key, value) in SYSCTLS {
                // A kernel without IPv6, or before 4.11, has not all of them.
                if_there(fs::write(Path::new("/proc/sys").join(key), value))?;
            }
            let _context = runtime.enter();
            Netlink::open()
        });
        match prepared {
            Ok(netlink) => Ok((netns, netlink)),
            Err(error) => {
                remove_now(&name)?;
                Err(error)
            }
        }
    })
    .await
}

/// Opens a socket in a namespace that exists; `None` when there is none of that name.
pub(super) async fn open(name: String) -> io::Result<Option<Netlink>> {
    let runtime = Handle::current();
    within(name, move || {
        let _context = runtime.enter();
        Netlink::open()
    })
    .await
}

/// Makes a socket for TCP in a namespace that exists; `None` when there is none of that name. Whichever thread uses it
/// later, it connects in there.
pub(super) async fn tcp_socket(name: String) -> io::Result<Option<TcpSocket>> {
    within(name, TcpSocket::new_v4).await
}

/// Runs `work` in a namespace that exists; `None` when there is none of that name.
async fn within<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<Option<T>> {
    blocking(move || {
        if !is_namespace(&path(&name)) {
            return Ok(None);
        }
        let netns = NetNs::get(&name).map_err(io::Error::other)?;
        inside(&netns, work).map(Some)
    })
    .await
}

/// Removes a namespace by name, and says whether it was there. The kernel takes it apart later, and the
/// links in it, once no process is left in it.
pub(super) async fn remove(name: String) -> io::Result<bool> {
    blocking(move || remove_now(&name)).await
}

fn remove_now(name: &str) -> io::Result<bool> {
    let path = path(name);
    let mut there = false;
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Once more: what is mounted over another one hides it.
            Ok(()) => there = true,
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(if_there(fs::remove_file(&path))?.is_some() || there)
}

/// The namespaces whose names begin with `prefix`.
pub(super) async fn list(prefix: String) -> io::Result<Vec<String>> {
    blocking(move || {
        let mut names = names_in(&DefaultEnv.persist_dir())?;
        names.retain(|name| name.starts_with(&prefix));
        Ok(names)
    })
    .await
}

/// Whether a namespace is mounted at `path`: the file alone is left when its maker was killed.
fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Runs `work` in a namespace, on a thread of its own.
fn inside<T: Send>(netns: &NetNs, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            netns.enter().map_err(io::Error::other)?;
            work()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread in the namespace panicked")))
    })
}
