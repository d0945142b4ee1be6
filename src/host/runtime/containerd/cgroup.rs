//! Control groups, read and thawed directly: which hierarchies this machine has, where a process is
//! in them, and what its group uses. Both layouts, and the mixture of the two.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::private_file::if_there;
use crate::runtime::Usage;
use model::function::ReplicaId;

/// The controllers that are asked for.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "freezer", "pids"];

/// Where the control group file systems are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// Version 1, by controller.
    v1: BTreeMap<&'static str, PathBuf>,
    /// Version 2.
    v2: Option<PathBuf>,
    /// All of them, also those of controllers that are not asked for.
    roots: BTreeSet<PathBuf>,
}

impl Hierarchies {
    /// Those of this machine.
    pub(super) fn detect() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut filesystem = filesystem.split(' ');
            match (filesystem.next(), filesystem.nth(1)) {
                (Some("cgroup2"), _) => {
                    found.roots.insert(point.clone());
                    found.v2 = found.v2.or(Some(point));
                }
                (Some("cgroup"), Some(options)) => {
                    found.roots.insert(point.clone());
                    for controller in CONTROLLERS {
                        if options.split(',').any(|option| option == controller) {
                            found.v1.entry(controller).or_insert_with(|| point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Where each of them is mounted.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(PathBuf::as_path)
    }

    /// Whether version 2 does everything: containers then get a control group namespace.
    pub(super) fn unified(&self) -> bool {
        self.v1.is_empty()
    }

    /// The names of all controllers, wherever they are.
    pub(super) fn controllers(&self) -> Vec<String> {
        // An old kernel has no such file, and no such controllers.
        let v2 = self.v2.as_deref().map(|point| std::fs::read_to_string(point.join("cgroup.controllers")));
        let v2 = v2.and_then(Result::ok).unwrap_or_default();
        v2.split_whitespace().chain(self.v1.keys().copied()).map(str::to_owned).collect()
    }

    /// Whether swap can be limited. Without swap accounting version 1 lacks the file, and a runtime
    /// fails when it is to write it.
    pub(super) fn limits_swap(&self) -> bool {
        self.v1.get("memory").is_none_or(|point| point.join("memory.memsw.limit_in_bytes").exists())
    }

    /// The groups that the replica's first process is in; none when `pid` is not that any more.
    pub(super) fn of(&self, id: &ReplicaId, pid: u32) -> io::Result<Option<Groups>> {
        let text = if_there(std::fs::read_to_string(format!("/proc/{pid}/cgroup")))?;
        Ok(text.and_then(|text| self.groups(id, &text)))
    }

    /// Removes the groups of a replica that has no container any more: a runtime that is killed while it makes
    /// one forgets them. What still runs in them is killed; `false` means that it is not gone yet.
    pub(super) fn remove(&self, namespace: &str, id: &ReplicaId) -> io::Result<bool> {
        let mut gone = true;
        for root in &self.roots {
            let directory = root.join(namespace).join(id.as_str());
            match if_there(std::fs::remove_dir(&directory)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    gone = false;
                    kill_all(&directory)?;
                }
                Err(error) => {
                    let reason = format!("{}: {error}", directory.display());
                    return Err(io::Error::new(error.kind(), reason));
                }
            }
        }
        Ok(gone)
    }

    /// How many processes of a replica the kernel has killed for want of memory. The count is there until the
    /// replica is removed, also when all of them have ended.
    pub(super) fn killed_for_memory(&self, namespace: &str, id: &ReplicaId) -> io::Result<u64> {
        let (root, name) = match (self.v1.get("memory"), &self.v2) {
            (Some(point), _) => (point, "memory.oom_control"),
            (None, Some(point)) => (point, "memory.events"),
            (None, None) => return Ok(0),
        };
        field(&read(&root.join(namespace).join(id.as_str()), name)?, "oom_kill")
    }

    /// Returns the processes of a replica; none when its group is gone.
    pub(super) fn processes(&self, namespace: &str, id: &ReplicaId) -> io::Result<Vec<u32>> {
        // A runtime puts each process into all of them.
        let Some(root) = self.v1.values().next().or(self.v2.as_ref()) else { return Ok(Vec::new()) };
        let text =
            if_there(read(&root.join(namespace).join(id.as_str()), "cgroup.procs"))?.unwrap_or_default();
        // Processes outside of our own process namespace have the number 0.
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
    }

    fn groups(&self, id: &ReplicaId, text: &str) -> Option<Groups> {
        let mut paths: BTreeMap<&str, &str> = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            // The path ends in the id, so a number that the kernel has given to another process
            // since is not taken for the replica's.
            if Path::new(path).file_name().is_some_and(|name| name == id.as_str()) {
                paths.extend(controllers.split(',').map(|controller| (controller, path)));
            }
        }
        let directory = |controller: &str| match self.v1.get(controller) {
            Some(point) => Some(Group::V1(join(point, paths.get(controller)?))),
            None => Some(Group::V2(join(self.v2.as_deref()?, paths.get("")?))),
        };
        Some(Groups {
            cpu: directory("cpuacct")?,
            memory: directory("memory")?,
            freezer: directory("freezer")?,
        })
    }
}

/// Sends SIGKILL to all processes of a group, which is thawed where that would keep it from working.
fn kill_all(directory: &Path) -> io::Result<()> {
    let frozen = directory.join("freezer.state");
    if frozen.exists() {
        std::fs::write(frozen, "THAWED")?;
    }
    for line in read(directory, "cgroup.procs")?.lines() {
        let pid: i32 = line.parse().map_err(io::Error::other)?;
        // Numbers of processes outside of our own process namespace are 0: not to be reached from here.
        if pid > 0 {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

fn join(point: &Path, path: &str) -> PathBuf {
    point.join(path.trim_start_matches('/'))
}

/// The groups of one replica.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Groups {
    cpu: Group,
    memory: Group,
    freezer: Group,
}

/// A directory in one of the layouts.
#[derive(Debug, PartialEq, Eq)]
enum Group {
    V1(PathBuf),
    V2(PathBuf),
}

impl Groups {
    /// What the group uses.
    pub(super) fn usage(&self) -> io::Result<Usage> {
        let cpu = match &self.cpu {
            Group::V1(directory) => Duration::from_nanos(number(&read(directory, "cpuacct.usage")?)?),
            Group::V2(directory) => {
                Duration::from_micros(field(&read(directory, "cpu.stat")?, "usage_usec")?)
            }
        };
        // Page cache that nobody uses is given back when memory is wanted: it is not counted.
        let (used, cache) = match &self.memory {
            Group::V1(directory) => (
                number(&read(directory, "memory.usage_in_bytes")?)?,
                field(&read(directory, "memory.stat")?, "total_inactive_file")?,
            ),
            Group::V2(directory) => (
                number(&read(directory, "memory.current")?)?,
                field(&read(directory, "memory.stat")?, "inactive_file")?,
            ),
        };
        Ok(Usage { cpu, memory: used.saturating_sub(cache) })
    }

    /// Lets the group run again if it was frozen, by whomever.
    pub(super) fn thaw(&self) -> io::Result<()> {
        match &self.freezer {
            Group::V1(directory) => std::fs::write(directory.join("freezer.state"), "THAWED"),
            Group::V2(directory) => std::fs::write(directory.join("cgroup.freeze"), "0"),
        }
    }
}

fn read(directory: &Path, name: &str) -> io::Result<String> {
    let path = directory.join(name);
    std::fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn number(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(|_| io::Error::other(format!("{:?} is not a number", text.trim())))
}

/// The number on the line that starts with `key`.
fn field(text: &str, key: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    number(line.ok_or_else(|| io::Error::other(format!("there is no {key}")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 29 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";
    const UNIFIED: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn id() -> ReplicaId {
        ReplicaId::from_existing("env-00000000aa")
    }

    #[test]
    fn both_layouts_are_recognised() {
        let hybrid = Hierarchies::parse(HYBRID);
        assert!(!hybrid.unified());
        let roots = ["cpu,cpuacct", "freezer", "memory", "unified"]
            .map(|name| Path::new("/sys/fs/cgroup").join(name));
        assert!(hybrid.roots.iter().eq(&roots), "{:?}", hybrid.roots);
        let groups = hybrid
            .groups(&id(), "4:freezer:/ingle/env-00000000aa\n3:memory:/ingle/env-00000000aa\n2:cpu,cpuacct:/ingle/env-00000000aa\n0::/ingle/env-00000000aa\n")
            .expect("groups");
        assert_eq!(groups.cpu, Group::V1("/sys/fs/cgroup/cpu,cpuacct/ingle/env-00000000aa".into()));
        assert_eq!(groups.freezer, Group::V1("/sys/fs/cgroup/freezer/ingle/env-00000000aa".into()));

        let unified = Hierarchies::parse(UNIFIED);
        assert!(unified.unified() && unified.limits_swap());
        let groups = unified.groups(&id(), "0::/ingle/env-00000000aa\n").expect("groups");
        assert_eq!(groups.memory, Group::V2("/sys/fs/cgroup/ingle/env-00000000aa".into()));
    }

    #[test]
    fn a_process_of_something_else_is_not_measured() {
        let unified = Hierarchies::parse(UNIFIED);
        for text in ["0::/system.slice/cron.service\n", "0::/ingle/env-00000000ab\n", "0::/\n", ""] {
            assert_eq!(unified.groups(&id(), text), None, "{text:?}");
        }
    }

    /// A group's directory with these files.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("a file");
        }
        directory
    }

    #[test]
    fn usage_is_read_in_version_2() {
        // Written by hand in the format of version 2; not captured from a machine.
        let files = directory(&[
            (
                "cpu.stat",
                "usage_usec 148307\nuser_usec 105461\nsystem_usec 42845\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
            ),
            ("memory.current", "5722112\n"),
            (
                "memory.stat",
                "anon 1232896\nfile 3710976\nkernel 634880\ninactive_anon 1220608\nactive_anon 4096\ninactive_file 2662400\nactive_file 1048576\nworkingset_refault_file 0\n",
            ),
            ("cgroup.freeze", "1\n"),
        ]);
        let group = || Group::V2(files.path().to_owned());
        let groups = Groups { cpu: group(), memory: group(), freezer: group() };
        let usage = groups.usage().expect("usage");
        assert_eq!(usage.cpu, Duration::from_micros(148_307));
        assert_eq!(usage.memory, 5_722_112 - 2_662_400);
        groups.thaw().expect("thawed");
        assert_eq!(std::fs::read_to_string(files.path().join("cgroup.freeze")).expect("a file"), "0");
    }

    #[test]
    fn usage_is_read_in_version_1() {
        let files = directory(&[
            ("cpuacct.usage", "148307123\n"),
            ("memory.usage_in_bytes", "5722112\n"),
            (
                "memory.stat",
                "cache 3710976\ninactive_file 7\ntotal_cache 3710976\ntotal_inactive_file 2662400\n",
            ),
        ]);
        let group = || Group::V1(files.path().to_owned());
        let usage = Groups { cpu: group(), memory: group(), freezer: group() }.usage().expect("usage");
        assert_eq!(usage, Usage { cpu: Duration::from_nanos(148_307_123), memory: 3_059_712 });
    }

    #[test]
    fn kills_for_want_of_memory_and_processes_are_read_in_both_versions() {
        let root = tempfile::tempdir().expect("a directory");
        let group = root.path().join("ns").join(id().as_str());
        std::fs::create_dir_all(&group).expect("a directory");
        let v1 = Hierarchies {
            v1: BTreeMap::from([("memory", root.path().to_owned())]),
            v2: Some("/nowhere".into()),
            ..Hierarchies::default()
        };
        let v2 = Hierarchies { v2: Some(root.path().to_owned()), ..Hierarchies::default() };
        for (hierarchies, name, text) in [
            (v1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            (v2, "memory.events", "low 0\nhigh 0\nmax 67\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ] {
            let missing = hierarchies.killed_for_memory("ns", &id()).expect_err("there is no file yet");
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            std::fs::write(group.join(name), text).expect("a file");
            assert_eq!(hierarchies.killed_for_memory("ns", &id()).expect("a count"), 2, "{name}");
            std::fs::remove_file(group.join(name)).expect("it is there");
            assert_eq!(hierarchies.processes("ns", &id()).expect("no processes"), [0; 0], "{name}");
            std::fs::write(group.join("cgroup.procs"), "7\n0\n81\n").expect("a file");
            assert_eq!(hierarchies.processes("ns", &id()).expect("processes"), [7, 81], "{name}");
            std::fs::remove_file(group.join("cgroup.procs")).expect("it is there");
        }
        assert_eq!(Hierarchies::default().killed_for_memory("ns", &id()).expect("nothing is counted"), 0);
    }

    #[test]
    fn a_file_that_is_not_as_expected_is_named() {
        let files = directory(&[("cpu.stat", "user_usec 1\n")]);
        let group = || Group::V2(files.path().to_owned());
        let groups = Groups { cpu: group(), memory: group(), freezer: group() };
        assert!(groups.usage().expect_err("no usage_usec").to_string().contains("usage_usec"));
    }
}
