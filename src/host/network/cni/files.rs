//! `/etc/hosts` and `/etc/resolv.conf` for one replica.
//!
//! A replica cannot reach a resolver on the host's loopback, and has no IPv6: such resolvers are never
//! passed in. What is, in this order: those of the host's own `/etc/resolv.conf`; those that
//! systemd-resolved uses behind its stub; those of the file that `network.resolv_conf` names.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::private_file::names_in;
use crate::runtime::Mount;
use model::function::ReplicaId;

/// The host's settings.
const HOST: &str = "/etc/resolv.conf";
/// The same without systemd-resolved's stub.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// How names are resolved in a replica.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolvers {
    /// In the order in which they are asked.
    pub(super) servers: Vec<Ipv4Addr>,
    /// The lines that are not about servers, such as `search example.org`.
    settings: Vec<String>,
}

impl Resolvers {
    /// What a replica that starts now is to use. `fallback` is read when the host has nothing usable.
    pub(super) fn read(fallback: &Path) -> Self {
        Self::choose(|path| fs::read_to_string(path).ok(), fallback)
    }

    fn choose(read: impl Fn(&Path) -> Option<String>, fallback: &Path) -> Self {
        [Path::new(HOST), Path::new(RESOLVED), fallback]
            .into_iter()
            .filter_map(|path| read(path).map(|text| Self::parse(&text)))
            .find(|found| !found.servers.is_empty())
            .unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("nameserver"), Some(server)) => {
                    // `fe80::1%eth0` does not parse, and is no loss: replicas have IPv4 only.
                    if let Ok(IpAddr::V4(server)) = server.parse::<IpAddr>()
                        && !server.is_loopback()
                        && !server.is_unspecified()
                        && !found.servers.contains(&server)
                    {
                        found.servers.push(server);
                    }
                }
                (Some("search" | "domain" | "options" | "sortlist"), Some(_)) => {
                    found.settings.push(line.trim().to_owned());
                }
                _ => {}
            }
        }
        found
    }

    /// The text of a replica's `/etc/resolv.conf`.
    fn text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for line in &self.settings {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// The text of a replica's `/etc/hosts`.
fn hosts(id: &ReplicaId, address: Ipv4Addr, gateway: Ipv4Addr) -> String {
    format!("127.0.0.1\tlocalhost\n{address}\t{id}\n{gateway}\tgateway gateway.openfaas\n")
}

/// Where a replica's files are.
fn paths(directory: &Path) -> [(PathBuf, &'static str); 2] {
    [(directory.join("hosts"), "/etc/hosts"), (directory.join("resolv.conf"), "/etc/resolv.conf")]
}

/// Writes a replica's files into `directory`.
pub(super) fn write(
    directory: &Path,
    id: &ReplicaId,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    resolvers: &Resolvers,
) -> io::Result<Vec<Mount>> {
    fs::create_dir_all(directory)?;
    for ((path, _), text) in paths(directory).iter().zip([hosts(id, address, gateway), resolvers.text()]) {
        fs::write(path, text)?;
        // Whatever the umask: functions read them, and few of those run as root. The directories above
        // keep everyone else out.
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(mounts(directory))
}

/// The mounts of files that were written before.
pub(super) fn mounts(directory: &Path) -> Vec<Mount> {
    paths(directory)
        .into_iter()
        .map(|(source, target)| Mount { source, target: target.into(), holds_programs: false })
        .collect()
}

/// The resolvers that the replicas with files under `root` were given when they started.
pub(super) fn servers_in(root: &Path) -> io::Result<Vec<Ipv4Addr>> {
    let mut servers = Vec::new();
    for name in names_in(root)? {
        // A replica that is detached meanwhile needs none.
        if let Ok(text) = fs::read_to_string(root.join(name).join("resolv.conf")) {
            servers.extend(Resolvers::parse(&text).servers);
        }
    }
    Ok(servers)
}

/// Whether all files are there.
pub(super) fn are_there(directory: &Path) -> bool {
    paths(directory).iter().all(|(path, _)| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALLBACK: &str = include_str!("../../../../resolv/resolv.conf");

    fn choose(host: &str, resolved: Option<&str>) -> String {
        let read = |path: &Path| match path.to_str() {
            Some(HOST) => Some(host.to_owned()),
            Some(RESOLVED) => resolved.map(str::to_owned),
            _ => Some(FALLBACK.to_owned()),
        };
        Resolvers::choose(read, Path::new("/etc/ingle/resolv.conf")).text()
    }

    #[test]
    fn the_hosts_resolvers_are_passed_on_with_its_settings() {
        let text = choose(
            "# made by hand\nnameserver 192.168.1.1\nnameserver\t1.1.1.1\nsearch lan\noptions timeout:1\n",
            None,
        );
        assert_eq!(text, "nameserver 192.168.1.1\nnameserver 1.1.1.1\nsearch lan\noptions timeout:1\n");
    }

    #[test]
    fn a_stub_on_loopback_is_never_passed_on() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n";
        let real = "nameserver 10.0.0.2\nnameserver fe80::1%eth0\nsearch example.org\n";
        assert_eq!(choose(stub, Some(real)), "nameserver 10.0.0.2\nsearch example.org\n");
        assert_eq!(choose("nameserver 127.0.0.1\nnameserver 9.9.9.9\n", None), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn resolvers_that_cannot_be_reached_give_way_to_the_shipped_file() {
        let shipped = Resolvers::parse(FALLBACK);
        assert!(shipped.servers.len() >= 2, "{FALLBACK}");
        for unusable in
            ["nameserver 127.0.0.53\n", "nameserver ::1\nnameserver 2606:4700::1111\n", "", "nameserver\n"]
        {
            assert_eq!(choose(unusable, None), shipped.text(), "{unusable:?}");
            assert_eq!(choose(unusable, Some("nameserver fe80::1%eth0\n")), shipped.text(), "{unusable:?}");
        }
    }

    #[test]
    fn functions_that_are_not_root_can_read_them() {
        // As the unit file sets it; each test is a process of its own.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let directory = tempfile::tempdir().expect("a directory");
        let id = ReplicaId::from_existing("env-0000000001");
        let (address, gateway) = (Ipv4Addr::new(10, 62, 0, 9), Ipv4Addr::new(10, 62, 0, 1));
        let files = write(directory.path(), &id, address, gateway, &Resolvers::parse(FALLBACK));
        for file in files.expect("written") {
            let mode = fs::metadata(&file.source).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{}", file.target.display());
        }
    }

    #[test]
    fn hosts_names_the_replica_and_the_gateway() {
        let id = ReplicaId::from_existing("env-0000000001");
        let text = hosts(&id, Ipv4Addr::new(10, 62, 0, 9), Ipv4Addr::new(10, 62, 0, 1));
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n10.62.0.9\tenv-0000000001\n10.62.0.1\tgateway gateway.openfaas\n"
        );
    }
}
