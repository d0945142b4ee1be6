//! A containerd of the test's own: its root, state and socket are in a temporary directory, its
//! containerd namespace has a name of its own, and nothing of it is left when it is dropped.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::TemporaryDirectory;
use model::config::Config;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::Digest as _;

/// A running containerd.
#[derive(Debug)]
pub(crate) struct PrivateContainerd {
    directory: TemporaryDirectory,
    namespace: String,
    process: Option<Child>,
    /// Containers that were seen: a shim that is killed leaves a socket behind that is named after
    /// its container.
    seen: Mutex<BTreeSet<String>>,
}

impl PrivateContainerd {
    /// Starts one; returns when it answers.
    pub(crate) async fn start() -> Self {
        let directory = TemporaryDirectory::new();
        let mut containerd =
            Self { directory, namespace: super::unique_name(), process: None, seen: Mutex::default() };
        let path = containerd.path();
        let settings = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n",
            root = path.join("root"),
            state = path.join("state"),
            socket = containerd.socket(),
            ttrpc = path.join("ttrpc.sock"),
            // Otherwise it makes one in /opt.
            opt = path.join("opt"),
        );
        fs::write(path.join("containerd.toml"), settings).expect("write containerd.toml");
        containerd.resume().await;
        containerd
    }

    /// Where its files are, and where a test may put its own.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("containerd.sock")
    }

    /// The containerd namespace for the test.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Settings of a daemon that uses it, with its own directories here; `more` is TOML to add to
    /// sections other than `containerd` and `daemon`.
    pub(crate) fn config(&self, more: &str) -> Config {
        let text = format!(
            "[containerd]\nsocket = {socket:?}\nnamespace = {namespace:?}\n\
             [daemon]\nstate_dir = {state:?}\nrun_dir = {run:?}\n{more}",
            socket = self.socket(),
            namespace = self.namespace,
            state = self.path().join("ingle-state"),
            run = self.path().join("ingle-run"),
        );
        Config::parse(&text, |_| None).expect("a configuration")
    }

    /// Ends containerd, not its containers.
    pub(crate) fn pause(&mut self) {
        // SIGTERM lets it close its database; it does not wait for containers.
        self.end(Signal::SIGTERM);
    }

    /// Ends containerd by a signal, not its containers.
    pub(crate) fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            let pid = Pid::from_raw(process.id().cast_signed());
            kill(pid, signal).expect("end containerd");
            process.wait().expect("wait for containerd");
        }
    }

    /// Starts containerd again after [`Self::end`].
    pub(crate) async fn resume(&mut self) {
        let log = fs::File::create(self.path().join("containerd.log")).expect("make the log");
        let process = Command::new(super::tool("containerd").expect("containerd"))
            .arg("--config")
            .arg(self.path().join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start containerd");
        self.process = Some(process);
        let socket = self.socket();
        eventually!(within 30, UnixStream::connect(&socket).is_ok(), "containerd does not answer: {}", self.log());
    }

    /// What containerd wrote since it was started.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path().join("containerd.log")).unwrap_or_default()
    }

    /// Process ids of the shims that this containerd started, with their container's id.
    pub(crate) fn shims(&self) -> Vec<(u32, String)> {
        let found = shims(&self.socket());
        let ids = found.iter().map(|(_, id)| id.clone());
        self.seen.lock().expect("no panic while it was locked").extend(ids);
        found
    }

    /// Removes bundles of no container that containerd cannot, for want of a file that their shim did not come
    /// to write; how many there were.
    pub(crate) fn remove_half_made_bundles(&self) -> usize {
        let listed = self.ctr(&["containers", "list", "--quiet"]).stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let bundles = self.path().join("state/io.containerd.runtime.v2.task").join(&self.namespace);
        let entries = fs::read_dir(bundles).into_iter().flatten().flatten();
        let is_one = |entry: &fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            listed.lines().all(|id| id != name) && !entry.path().join("runtime").exists()
        };
        let half: Vec<PathBuf> = entries.filter(is_one).map(|entry| entry.path()).collect();
        half.iter().for_each(|bundle| fs::remove_dir_all(bundle).expect("nobody uses it"));
        half.len()
    }

    /// Runs `ctr` in the test's namespace.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        ctr(&self.socket(), &self.namespace, arguments)
    }

    /// Containers whose shims were seen, living or not.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic while it was locked").iter().cloned().collect()
    }

    /// Where the shim of a container of this containerd listens.
    pub(crate) fn shim_socket(&self, id: &str) -> PathBuf {
        let name = format!("{}/{}/{id}", self.socket().display(), self.namespace);
        Path::new("/run/containerd/s").join(hex::encode(sha2::Sha256::digest(name)))
    }

    /// Ends the containers that a failed test left.
    fn remove_tasks(&self) {
        for what in ["containers", "tasks"] {
            let listed = self.ctr(&[what, "list", "--quiet"]);
            for id in String::from_utf8_lossy(&listed.stdout).lines() {
                self.seen.lock().expect("no panic while it was locked").insert(id.to_owned());
                if what == "tasks" {
                    self.ctr(&["tasks", "delete", "--force", id]);
                }
            }
        }
        for (pid, _) in self.shims() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }

    /// Files that shims and runc keep outside of the directory.
    fn remove_files(&self) {
        for id in self.seen.lock().expect("no panic while it was locked").iter() {
            let _ = fs::remove_file(self.shim_socket(id));
        }
        let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(&self.namespace));
        // Outside of tests/isolated the directory is everybody's.
        if std::env::var_os("INGLE_TESTS_ISOLATED").is_some() {
            Self::remove_dead_sockets();
        }
    }

    /// A shim whose start was broken off leaves a socket of a container that was never seen.
    fn remove_dead_sockets() {
        for entry in fs::read_dir("/run/containerd/s").into_iter().flatten().flatten() {
            let age = entry.metadata().ok().and_then(|found| found.modified().ok()?.elapsed().ok());
            let refused = UnixStream::connect(entry.path())
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
            if refused && age.is_some_and(|age| age > Duration::from_secs(1)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn unmount(&self) {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().rev().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(self.path())) {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }

    /// Control groups of containers are removed with them, the directory above is not; nor are those
    /// of a container whose shim was killed.
    fn remove_cgroups(&self) {
        let directories = self.cgroups();
        for directory in &directories {
            for child in fs::read_dir(directory).into_iter().flatten().flatten() {
                let processes = fs::read_to_string(child.path().join("cgroup.procs")).unwrap_or_default();
                for pid in processes.lines().filter_map(|line| line.parse().ok()) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                let _ = fs::remove_dir(child.path());
            }
            let _ = fs::remove_dir(directory);
        }
    }

    /// The namespace's directory in each hierarchy where there is one.
    fn cgroups(&self) -> Vec<PathBuf> {
        cgroups(&self.namespace)
    }
}

/// Process ids of the shims of the containerd at `socket`, with their container's id.
pub(super) fn shims(socket: &Path) -> Vec<(u32, String)> {
    let socket = socket.display().to_string();
    let processes = fs::read_dir("/proc").expect("read /proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<&str> = line.split('\0').collect();
        let after = |flag| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
        let ours = words[0].contains("containerd-shim") && *after("-address")? == socket;
        Some((pid, (*after("-id").filter(|_| ours)?).to_owned()))
    })
    .collect()
}

/// Runs `ctr` in a namespace of the containerd at `socket`.
pub(super) fn ctr(socket: &Path, namespace: &str, arguments: &[&str]) -> std::process::Output {
    Command::new(super::tool("ctr").expect("ctr"))
        .arg("--address")
        .arg(socket)
        .args(["--namespace", namespace])
        .args(arguments)
        .output()
        .expect("run ctr")
}

/// The directory of a containerd namespace in each hierarchy of control groups where there is one.
pub(super) fn cgroups(namespace: &str) -> Vec<PathBuf> {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let all = roots.chain([PathBuf::from("/sys/fs/cgroup")]).map(|root| root.join(namespace));
    all.filter(|directory| directory.exists()).collect()
}

impl Drop for PrivateContainerd {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.remove_tasks();
        }
        self.pause();
        self.remove_files();
        self.unmount();
        // The kernel lets go of a control group a little after its last process.
        let started = Instant::now();
        while !self.cgroups().is_empty() && started.elapsed() < Duration::from_secs(5) {
            self.remove_cgroups();
            std::thread::yield_now();
        }
    }
}
