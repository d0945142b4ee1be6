//! Everything on this machine that belongs to the replicas of one daemon, kind by kind, and whether that is
//! exactly what its functions own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::containerd::{cgroups, ctr, shims};
use super::daemon::{Daemon, run};

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) struct Surveyor {
    directory: PathBuf,
    socket: PathBuf,
    namespace: String,
    daemon: Option<u32>,
    /// Sockets of shims that were seen at any time, by container.
    shim_sockets: Vec<(String, PathBuf)>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// Ids of replicas by the kind of thing that is there of them; twice where there are two.
    pub(crate) of_replicas: BTreeMap<String, Vec<String>>,
    /// Tasks that do not run, with what they do instead.
    idle_tasks: Vec<String>,
    /// Names of functions with files of output.
    logs: Vec<String>,
    /// Leases of containerd's.
    leases: Vec<String>,
    /// All rules.
    pub(crate) rules: String,
}

/// What every replica has one of; control groups, of which kernels have several, are not among them.
const KINDS: [&str; 14] = [
    "address",
    "bundle",
    "container",
    "FIFOs",
    "link",
    "mount",
    "neighbour",
    "netns",
    "network files",
    "open FIFOs",
    "runc state",
    "shim",
    "shim socket",
    "snapshot",
];

impl Surveyor {
    /// One for what this daemon makes.
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let containerd = &daemon.containerd;
        containerd.shims();
        let seen = containerd.seen().into_iter();
        Self {
            directory: containerd.path().to_owned(),
            socket: containerd.socket(),
            namespace: containerd.namespace().to_owned(),
            daemon: daemon.pid(),
            shim_sockets: seen.map(|id| (id.clone(), containerd.shim_socket(&id))).collect(),
        }
    }

    /// Looks, on a thread of its own: this takes a while.
    pub(crate) async fn look(self) -> Inventory {
        tokio::task::spawn_blocking(move || self.look_here()).await.expect("no panic")
    }

    fn look_here(&self) -> Inventory {
        let mut found = Inventory::default();
        let mut add = |kind: &str, ids: Vec<String>| {
            found.of_replicas.entry(kind.to_owned()).or_default().extend(ids);
        };
        KINDS.iter().for_each(|kind| add(kind, Vec::new()));
        add("container", self.ctr(&["containers", "list", "--quiet"]));
        // An active snapshot belongs to a container; committed ones are layers.
        let snapshots = self.ctr(&["snapshots", "list"]);
        let active = snapshots.iter().filter(|line| line.trim_end().ends_with("Active"));
        add("snapshot", active.map(|line| word(line, 0)).collect());
        let mine = |name: &String| name.contains(&self.namespace);
        add("netns", names("/run/netns").into_iter().filter(mine).map(after_dot).collect());
        let links = run("ip", &["-o", "link", "show", "type", "veth"]);
        add("link", links.lines().map(|line| after_dot(following(line, "alias"))).collect());
        add("FIFOs", names(self.directory.join("run-ingle/io")));
        let networks = names(self.directory.join("run-ingle/net"));
        add("network files", networks.clone());
        let addresses: Vec<_> =
            networks.iter().filter_map(|id| Some((self.address(id)?, id.clone()))).collect();
        let owners: BTreeMap<String, String> = addresses.iter().cloned().collect();
        // By address, so that two with the same one are told.
        add("address", owners.values().cloned().collect());
        let neighbours = run("ip", &["-4", "neigh", "show", "dev", "ingle0", "nud", "permanent"]);
        let neighbours = neighbours.lines().map(|line| word(line, 0));
        add(
            "neighbour",
            neighbours.map(|address| owners.get(&address).cloned().unwrap_or(address)).collect(),
        );
        add("shim", shims(&self.socket).into_iter().map(|(_, id)| id).collect());
        let sockets = self.shim_sockets.iter().filter(|(_, socket)| socket.exists());
        add("shim socket", sockets.map(|(id, _)| id.clone()).collect());
        add("runc state", names(Path::new("/run/containerd/runc").join(&self.namespace)));
        let bundles = self.directory.join("state/io.containerd.runtime.v2.task").join(&self.namespace);
        add("bundle", names(&bundles));
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        let points = mounts.lines().map(|line| PathBuf::from(word(line, 4)));
        let below = points.filter_map(|point| Some(point.strip_prefix(&bundles).ok()?.to_owned()));
        add("mount", below.map(|point| first(&point)).collect());
        for directory in cgroups(&self.namespace) {
            let directories = fs::read_dir(&directory).into_iter().flatten().flatten();
            let ids = directories.filter(|entry| entry.path().is_dir()).map(|entry| name(&entry)).collect();
            let hierarchy = directory.parent().map(Path::display).expect("a parent");
            add(&format!("control group in {hierarchy}"), ids);
        }
        let io = self.directory.join("run-ingle/io");
        let open: BTreeSet<String> = fs::read_dir(format!("/proc/{}/fd", self.daemon.unwrap_or_default()))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some(first(fs::read_link(entry.path()).ok()?.strip_prefix(&io).ok()?)))
            .collect();
        add("open FIFOs", open.into_iter().collect());
        for line in self.ctr(&["tasks", "list"]).iter().skip(1) {
            add("task", vec![word(line, 0)]);
            if word(line, 2) != "RUNNING" {
                found.idle_tasks.push(line.clone());
            }
        }
        found.of_replicas.values_mut().for_each(|ids| ids.sort_unstable());
        found.leases = self.ctr(&["leases", "list", "--quiet"]);
        found.logs = names(self.directory.join("state-ingle/logs/openfaas-fn"));
        // The copy that stays when the daemon ends.
        found.rules = run("nft", &["list", "table", "inet", &self.namespace]);
        found
    }

    fn ctr(&self, arguments: &[&str]) -> Vec<String> {
        let output = ctr(&self.socket, &self.namespace, arguments);
        assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// The replica's own address, by its hosts file.
    fn address(&self, id: &str) -> Option<String> {
        let hosts = fs::read_to_string(self.directory.join("run-ingle/net").join(id).join("hosts")).ok()?;
        let mut addresses = hosts.lines().map(|line| word(line, 0));
        addresses.find(|address| address.starts_with("10.62.") && address != "10.62.0.1")
    }
}

impl Inventory {
    /// What is not as it should be, when each of these functions has so many replicas.
    pub(crate) fn differences(&self, owned: &BTreeMap<String, usize>) -> Vec<String> {
        let containers = &self.of_replicas["container"];
        let mut differences = Vec::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for id in containers {
            *counts.entry(id.rsplit_once('-').map_or(id, |(function, _)| function)).or_default() += 1;
        }
        let wanted: BTreeMap<&str, usize> = owned
            .iter()
            .filter(|(_, replicas)| **replicas > 0)
            .map(|(name, replicas)| (name.as_str(), *replicas))
            .collect();
        if counts != wanted {
            differences.push(format!("containers by function are {counts:?}, wanted are {wanted:?}"));
        }
        for (kind, ids) in &self.of_replicas {
            let (extra, missing) = (without(ids, containers), without(containers, ids));
            if !extra.is_empty() {
                differences.push(format!("{kind}: of no container, or twice: {extra:?}"));
            }
            if !missing.is_empty() {
                differences.push(format!("{kind}: not there for {missing:?}"));
            }
        }
        if !containers.is_empty() && !self.of_replicas.keys().any(|kind| kind.starts_with("control group")) {
            differences.push("control groups: there are none".into());
        }
        let logs = self.logs.iter().filter(|name| !owned.contains_key(*name));
        differences.extend(logs.map(|name| format!("output is kept of {name}, which is not deployed")));
        differences.extend(self.leases.iter().map(|lease| format!("containerd keeps lease {lease}")));
        differences.extend(self.idle_tasks.iter().map(|task| format!("a task does not run: {task}")));
        differences
    }
}

/// What is in `left` more often than in `right`; both are sorted.
fn without(left: &[String], right: &[String]) -> Vec<String> {
    let mut right = right.to_vec();
    let mut rest = Vec::new();
    for id in left {
        match right.iter().position(|other| other == id) {
            Some(at) => drop(right.swap_remove(at)),
            None => rest.push(id.clone()),
        }
    }
    rest
}

fn names(directory: impl AsRef<Path>) -> Vec<String> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| name(&entry)).collect()
}

fn name(entry: &fs::DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

fn first(path: &Path) -> String {
    path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned()).unwrap_or_default()
}

fn word(line: &str, at: usize) -> String {
    line.split_whitespace().nth(at).unwrap_or_default().to_owned()
}

/// The word after `key`; the whole line where there is none, so that it is seen.
fn following(line: &str, key: &str) -> String {
    let mut words = line.split_whitespace().skip_while(|word| *word != key);
    words.nth(1).unwrap_or(line).to_owned()
}

fn after_dot(name: String) -> String {
    name.rsplit_once('.').map(|(_, id)| id.to_owned()).unwrap_or(name)
}

mod tests {
    use super::*;

    fn inventory(kinds: &[(&str, &[&str])]) -> Inventory {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let of_replicas = kinds.iter().map(|(kind, list)| ((*kind).to_owned(), ids(list))).collect();
        Inventory { of_replicas, ..Inventory::default() }
    }

    #[test]
    fn what_is_there_must_be_exactly_what_is_owned() {
        let owned = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 0)]);
        let group = "control group in /";
        let good = [("container", &["a-1", "a-2"][..]), ("link", &["a-1", "a-2"]), (group, &["a-1", "a-2"])];
        assert_eq!(inventory(&good).differences(&owned), [""; 0]);
        for (bad, word) in [
            ([("container", &["a-1"][..]), ("link", &["a-1"]), (group, &["a-1"])], "by function"),
            ([good[0], ("link", &["a-1"]), good[2]], "not there for"),
            ([good[0], ("link", &["a-1", "a-2", "a-3"]), good[2]], "of no container"),
            ([good[0], ("link", &["a-1", "a-2", "a-2"]), good[2]], "twice"),
            ([good[0], good[1], ("nothing", &["a-1", "a-2"])], "there are none"),
        ] {
            let differences = inventory(&bad).differences(&owned);
            assert!(differences.len() == 1 && differences[0].contains(word), "{word}: {differences:?}");
        }
        let mut found = inventory(&good);
        found.logs = vec!["a".into(), "c".into()];
        found.leases = vec!["left".into()];
        found.idle_tasks = vec!["a-1 STOPPED".into()];
        assert_eq!(found.differences(&owned).len(), 3);
    }
}
