//! What outlived all else of its replica, so that nobody would come to remove it: control groups, and what the
//! OCI runtime noted of a container that it was making when containerd gave it up.
//!
//! Only groups that are empty are listed. A process in one belongs to a shim that containerd still has to
//! clear up after, or to another daemon on this machine whose containerd namespace has the same name;
//! and one that is empty for a moment is perhaps being filled, so it must be so at two looks.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::cgroup::Hierarchies;
use super::lock;
use crate::private_file::if_there;
use model::function::ReplicaId;

/// How long a group has been empty before it is left over.
const REST: Duration = Duration::from_secs(60);
/// Where shims have the OCI runtime keep its notes, whatever containerd's own directories are.
const STATES: &str = "/run/containerd/runc";

/// What there may be of one containerd namespace.
#[derive(Debug)]
pub(super) struct Strays {
    /// The directory of the namespace in each hierarchy of control groups.
    groups: Vec<PathBuf>,
    /// That of the OCI runtime's notes.
    states: PathBuf,
    /// Replicas without a container and without a process, and since when they are known to be.
    empty: Mutex<HashMap<ReplicaId, Instant>>,
}

impl Strays {
    pub(super) fn new(hierarchies: &Hierarchies, namespace: &str) -> Self {
        let groups = hierarchies.roots().map(|root| root.join(namespace)).collect();
        Self { groups, states: Path::new(STATES).join(namespace), empty: Mutex::default() }
    }

    /// Removes what the OCI runtime noted of a replica that has no process.
    pub(super) fn remove_state(&self, id: &ReplicaId) -> io::Result<()> {
        if_there(fs::remove_dir_all(self.states.join(id.as_str()))).map(drop)
    }

    /// Those of replicas that are not `known` and have been without a process for a while. Blocks.
    pub(super) fn find(&self, known: impl Fn(&str) -> bool, now: Instant) -> Vec<ReplicaId> {
        let names: BTreeSet<String> = self
            .groups
            .iter()
            .chain([&self.states])
            .filter_map(|directory| fs::read_dir(directory).ok())
            .flat_map(|entries| entries.flatten().filter(|entry| entry.path().is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| ReplicaId::is_one(name) && !known(name))
            .collect();
        let found: BTreeSet<ReplicaId> =
            names.iter().map(|name| ReplicaId::from_existing(name)).filter(|id| self.is_empty(id)).collect();
        let mut empty = lock(&self.empty);
        empty.retain(|id, _| found.contains(id));
        let mut since = |id: &ReplicaId| now.duration_since(*empty.entry(id.clone()).or_insert(now));
        found
            .into_iter()
            .map(|id| (since(&id), id))
            .filter(|(age, _)| *age >= REST)
            .map(|(_, id)| id)
            .collect()
    }

    fn is_empty(&self, id: &ReplicaId) -> bool {
        self.groups.iter().all(|directory| {
            match fs::read_to_string(directory.join(id.as_str()).join("cgroup.procs")) {
                Ok(processes) => processes.is_empty(),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_left_over_when_it_stays_empty_and_has_no_container() {
        let points = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
        let directories: Vec<_> = points.iter().map(|point| point.path().join("ns")).collect();
        let group = |hierarchy: usize, id: &str, processes: &str| {
            let group = directories[hierarchy].join(id);
            fs::create_dir_all(&group).expect("a directory");
            fs::write(group.join("cgroup.procs"), processes).expect("a file");
        };
        let [left, busy, filled, known] =
            ["left-00000000aa", "busy-00000000bb", "filled-00000000cc", "known-00000000dd"];
        let noted = "noted-00000000ff";
        for id in [left, busy, filled, known] {
            group(0, id, "");
        }
        group(1, busy, "17\n");
        group(1, "left-00000000ee", "");
        // Of somebody else, however the directory is called.
        group(0, "0123456789abcdef0123456789abcdef", "");
        group(0, "postgres", "");
        let states = points[0].path().join("states");
        for id in [known, noted, busy] {
            fs::create_dir_all(states.join(id)).expect("a directory");
        }
        let strays = Strays { groups: directories.clone(), states: states.clone(), empty: Mutex::default() };
        let start = Instant::now();
        let find = |seconds| {
            let found = strays.find(|id| id == known, start + Duration::from_secs(seconds));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(find(0), [""; 0], "they may be about to be filled");
        group(0, filled, "18\n");
        assert_eq!(find(30), [""; 0]);
        group(0, filled, "");
        assert_eq!(find(60), [left, "left-00000000ee", noted]);
        assert_eq!(find(119), [left, "left-00000000ee", noted], "it was not empty at one of the looks");
        assert_eq!(find(120), [filled, left, "left-00000000ee", noted]);
        let noted = ReplicaId::from_existing(noted);
        strays.remove_state(&noted).expect("removed");
        strays.remove_state(&noted).expect("nothing to do");
        assert!(!states.join(noted.as_str()).exists() && states.join(known).exists());
        assert!(!find(200).contains(&noted.to_string()));
    }
}
