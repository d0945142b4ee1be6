//! A real daemon: the built binary on a containerd of the test's own, in a network namespace of the
//! test's own, with the directories and names that belong to it alone.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::PrivateContainerd;

/// The image of the sample function, once it was loaded.
pub(crate) const SAMPLE: &str = "examples/hello:latest";
/// Where every daemon listens: each has a network of its own.
const PORT: u16 = 8080;
/// Lines of the log that are shown when a test has failed.
const LOG_SHOWN: usize = 1000;

/// The gateway of the daemon of this test.
pub(crate) fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
}

/// Runs a test in a network namespace of its own: the thread and all that it starts.
pub(crate) fn in_own_network<F: Future<Output = ()>>(test: F) {
    unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
    run("ip", &["link", "set", "lo", "up"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

/// Runs a command that must succeed; what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(super::tool(program).expect("an installed program"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// A daemon with its containerd. Dropping it ends both and removes what they made.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) containerd: PrivateContainerd,
    pub(crate) client: reqwest::Client,
    process: Option<Child>,
    settings: String,
    /// The gateway's socket, kept between two processes.
    socket: Option<TcpListener>,
    /// Variables that the process is given beside the usual ones.
    environment: Vec<(String, String)>,
    program: PathBuf,
}

impl Daemon {
    /// Starts a daemon with the sample image loaded; `more` is TOML for sections other than
    /// `gateway`, `containerd`, `network` and `daemon`.
    pub(crate) async fn start(more: &str) -> Self {
        let mut daemon = Self::bare(more).await;
        daemon.resume().await;
        daemon.load(&super::sample_archive()).await;
        daemon
    }

    /// Everything but the process.
    pub(crate) async fn bare(more: &str) -> Self {
        let containerd = PrivateContainerd::start().await;
        let dir = containerd.path();
        let conflist = json!({
            "cniVersion": "1.0.0",
            // The name is part of those of network namespaces, which all tests share.
            "name": containerd.namespace(),
            "plugins": [{
                "type": "bridge", "bridge": "ingle0", "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": "10.62.0.0/16" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }, { "type": "firewall" }],
        });
        fs::write(dir.join("ingle.conflist"), conflist.to_string()).expect("write the conflist");
        fs::write(dir.join("resolv.conf"), "nameserver 9.9.9.9\n").expect("write resolv.conf");
        let settings = format!(
            "[gateway]\nlisten = \"0.0.0.0:{PORT}\"\n\
             [containerd]\nsocket = {socket:?}\nnamespace = {namespace:?}\n\
             [network]\nconflist = {conflist:?}\nresolv_conf = {resolv:?}\n\
             [daemon]\nstate_dir = {state:?}\nrun_dir = {run:?}\nlog = \"ingle=debug,info\"\n{more}",
            socket = containerd.socket(),
            namespace = containerd.namespace(),
            conflist = dir.join("ingle.conflist"),
            resolv = dir.join("resolv.conf"),
            state = dir.join("state-ingle"),
            run = dir.join("run-ingle"),
        );
        // reqwest has no TLS of its own; a second installation is refused, and means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Redirects are answers of functions: never followed.
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client");
        let program = env!("CARGO_BIN_EXE_ingle").into();
        Self { containerd, client, process: None, settings, socket: None, environment: Vec::new(), program }
    }

    /// Gives the process a variable, from its next start on.
    pub(crate) fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs this program from its next start on: an older release, or a newer one.
    pub(crate) fn run_as(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Starts the process; returns when it serves.
    pub(crate) async fn resume(&mut self) {
        self.spawn();
        self.serves().await;
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        let dir = self.containerd.path();
        fs::write(dir.join("config.toml"), &self.settings).expect("write config.toml");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("ingle.log"))
            .expect("open the log");
        let mut command = match &self.socket {
            None => {
                let mut command = Command::new(&self.program);
                command.stdin(Stdio::null());
                command
            }
            // Handed over as systemd does it: as file 3, meant for the process that reads this.
            Some(socket) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""])
                    .arg(&self.program)
                    .stdin(OwnedFd::from(socket.try_clone().expect("a copy of the socket")));
                command
            }
        };
        let process = command
            .args(["serve", "--config"])
            .arg(dir.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .spawn()
            .expect("start the daemon");
        self.process = Some(process);
    }

    /// Returns when it serves.
    pub(crate) async fn serves(&self) {
        eventually!(
            within 30,
            self.client.get(self.url("/healthz")).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK),
            "the daemon does not serve: {}",
            self.log()
        );
    }

    /// Sends a signal to the process and waits until it is gone.
    pub(crate) fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            let _ = kill(Pid::from_raw(process.id().cast_signed()), signal);
            process.wait().expect("wait for the daemon");
        }
    }

    /// Whether the process has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().expect("wait for the daemon").is_some())
    }

    /// How the process ended, which it does by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.process.take().expect("it runs").wait().expect("wait for the daemon")
    }

    /// Its configuration, as TOML.
    pub(crate) fn settings(&self) -> &str {
        &self.settings
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The same with SIGTERM, while other tasks of the test go on.
    pub(crate) async fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM).expect("it runs");
        eventually!(
            within 60,
            process.try_wait().expect("wait for the daemon").is_some(),
            "the daemon does not end: {}",
            self.log()
        );
    }

    /// Plays systemd's file descriptor store: each process gets the same socket to listen on.
    pub(crate) fn keep_socket(&mut self) {
        self.socket = Some(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a free port"));
    }

    /// What the daemon wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.containerd.path().join("ingle.log")).unwrap_or_default()
    }

    /// Where it keeps its state.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.containerd.path().join("state-ingle")
    }

    /// A URL of it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}:{PORT}{path}", Ipv4Addr::LOCALHOST)
    }

    /// The admin's password.
    pub(crate) fn password(&self) -> String {
        let file = self.state_dir().join("secrets/basic-auth-password");
        fs::read_to_string(file).expect("read the password").trim().to_owned()
    }

    /// A request to the API, as the admin.
    pub(crate) fn api(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path)).basic_auth("admin", Some(self.password()))
    }

    /// Loads an image archive.
    pub(crate) async fn load(&self, archive: &Path) {
        let body = fs::read(archive).expect("read the archive");
        let answer = self.api(Method::POST, "/system/images").body(body).send().await.expect("an answer");
        let status = answer.status();
        assert!(status.is_success(), "loading: {status} {}", answer.text().await.unwrap_or_default());
    }

    /// Deploys the sample under `name`, with `more` over the defaults; the answer.
    pub(crate) async fn deploy(&self, name: &str, more: Value) -> Response {
        let mut body = json!({
            "service": name, "image": SAMPLE, "annotations": { "ingle.pull-policy": "Never" },
        });
        merge(&mut body, more);
        self.api(Method::POST, "/system/functions").json(&body).send().await.expect("an answer")
    }

    /// Deploys the sample and waits until it is ready.
    pub(crate) async fn ready(&self, name: &str, more: Value) {
        let answer = self.deploy(name, more).await;
        let (status, revision) = (answer.status(), answer.headers().get("x-revision").cloned());
        assert_eq!(status, StatusCode::ACCEPTED, "{}", answer.text().await.unwrap_or_default());
        let revision: u64 = revision.expect("a revision").to_str().expect("text").parse().expect("a number");
        eventually!(
            within 30,
            {
                let found = self.describe(name).await;
                found["revision"] == revision && found["phase"] == "ready"
            },
            "{name} is {:#}\n{}",
            self.describe(name).await,
            self.log()
        );
    }

    /// What the API says of a function; null when there is none.
    pub(crate) async fn describe(&self, name: &str) -> Value {
        let answer =
            self.api(Method::GET, &format!("/system/function/{name}")).send().await.expect("an answer");
        if answer.status() == StatusCode::NOT_FOUND {
            Value::Null
        } else {
            answer.json().await.expect("JSON")
        }
    }

    /// Removes a function and waits until nothing of it is left.
    pub(crate) async fn remove(&self, name: &str) {
        let body = json!({ "functionName": name });
        let answer =
            self.api(Method::DELETE, "/system/functions").json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }

    /// `GET` on a function's path: status and body.
    pub(crate) async fn call(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.get(self.url(&format!("/function/{path}"))).send().await.expect("an answer");
        (answer.status(), answer.text().await.unwrap_or_default())
    }

    /// Ids of all containers.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.list(&["containers", "list", "--quiet"])
    }

    /// Everything on this machine that belongs to a replica: containers, tasks, their snapshots,
    /// network namespaces, links, FIFOs, network files and control groups.
    pub(crate) fn replica_parts(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut add =
            |kind: &str, names: Vec<String>| found.extend(names.iter().map(|name| format!("{kind} {name}")));
        add("container", self.containers());
        add("task", self.list(&["tasks", "list", "--quiet"]));
        // An active snapshot belongs to a container; committed ones are layers.
        let snapshots = self.list(&["snapshots", "list"]);
        add("snapshot", snapshots.into_iter().filter(|line| line.trim_end().ends_with("Active")).collect());
        let files = |dir: PathBuf| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        let namespace = self.containerd.namespace();
        add(
            "netns",
            files("/run/netns".into()).into_iter().filter(|name| name.contains(namespace)).collect(),
        );
        let links = run("ip", &["-o", "link", "show", "type", "veth"]);
        add("link", links.lines().map(str::to_owned).collect());
        add("fifos", files(self.containerd.path().join("run-ingle/io")));
        add("network files", files(self.containerd.path().join("run-ingle/net")));
        let groups = |directory: PathBuf| {
            let groups = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
            groups.filter(|path| path.is_dir()).map(|path| path.display().to_string()).collect()
        };
        for directory in super::containerd::cgroups(namespace) {
            add("group", groups(directory));
        }
        found
    }

    /// Waits until no replica has left anything.
    pub(crate) async fn nothing_left(&self) {
        eventually!(
            within 30,
            self.replica_parts().is_empty(),
            "left over: {:#?}\n{}",
            self.replica_parts(),
            self.log()
        );
    }

    fn list(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.containerd.ctr(arguments);
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            // The end of it, where a long test has failed.
            let skipped = log.lines().count().saturating_sub(LOG_SHOWN);
            eprintln!("the daemon's log, without the first {skipped} lines:");
            log.lines().skip(skipped).for_each(|line| eprintln!("{line}"));
        }
        self.end(Signal::SIGKILL);
        super::end_holders(&self.containerd.path().join("run-ingle"));
        // containerd ends the containers; what the network made goes by name.
        let namespace = self.containerd.namespace().to_owned();
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(&namespace) {
                let _ = Command::new("ip").args(["netns", "delete", &name]).status();
            }
        }
    }
}

/// Lays `more` over `base`, object by object.
fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}
