//! Where these tests happen: a containerd, a network namespace, an image of busybox.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::runtime::containerd::Containerd;
use host::runtime::{ContainerRequest, Image, Progress, Runtime, RuntimeEvent, Stdio};
use model::function::{FunctionSpec, Incarnation, Memory, PullPolicy, ReplicaId};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

use crate::support::{Item, PrivateContainerd, exit_code, write_archive};

const IMAGE: &str = "docker.io/ingle-test/box:1";

/// A containerd with an image to run.
pub(super) struct Room {
    // Dropped in this order: first what uses the rest.
    pub(super) runtime: Arc<Containerd>,
    pub(super) containerd: PrivateContainerd,
    pub(super) image: Arc<Image>,
    netns: Netns,
    made: AtomicU64,
}

/// What is left when a container has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: u32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Room {
    /// A room whose image is busybox.
    pub(super) async fn new() -> Self {
        Self::with(&crate::support::busybox(), "").await
    }

    /// A room whose image holds `items`; `settings` is TOML for the daemon.
    pub(super) async fn with(items: &[Item], settings: &str) -> Self {
        let containerd = PrivateContainerd::start().await;
        let config = containerd.config(settings);
        let runtime = Arc::new(Containerd::connect(&config).await.expect("a connection"));
        let archive = containerd.path().join("box.tar");
        write_archive(&archive, IMAGE, items, &json!({ "Cmd": ["/bin/sh"] }));
        runtime.load(archive, None).await.expect("the archive is loaded");
        let name = IMAGE.parse().expect("an image name");
        let resolved = runtime.resolve(&name, PullPolicy::Never).await.expect("the image is here");
        let image = runtime
            .pull(&resolved, PullPolicy::Always, &Progress::default())
            .await
            .expect("the image is unpacked");
        let netns = Netns::new(containerd.namespace());
        Self { runtime, containerd, image, netns, made: AtomicU64::new(0) }
    }

    /// A request for a replica whose command is `command`; `deployment` has what the function asks
    /// for besides its name and image.
    pub(super) fn request(&self, deployment: Value, command: &[&str]) -> ContainerRequest {
        let mut body = json!({ "service": "probe", "image": IMAGE });
        body.as_object_mut().expect("an object").append(&mut object(deployment));
        let body = serde_json::from_value(body).expect("a deployment");
        let spec = FunctionSpec::try_from(&body).expect("valid");
        let memory = spec.limits.memory.as_ref().map(Memory::bytes);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let id = ReplicaId::new(&spec.key.name, number);
        let fifo = |name: &str| {
            let path = self.containerd.path().join(format!("{id}.{name}"));
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a fifo");
            path
        };
        let mut image = Image::clone(&self.image);
        image.resolved.config.entrypoint = command.iter().map(|&word| word.into()).collect();
        image.resolved.config.cmd = Vec::new();
        ContainerRequest {
            stdio: Stdio { stdout: fifo("out"), stderr: fifo("err") },
            id,
            spec: Arc::new(spec),
            revision: 3,
            incarnation: Incarnation::new(7),
            state: "state".into(),
            record: b"record".to_vec(),
            image: Arc::new(image),
            address: Ipv4Addr::new(10, 63, 0, 9).into(),
            netns: self.netns.path(),
            mounts: Vec::new(),
            env: BTreeMap::new(),
            pids: 64,
            memory,
            watchdog: None,
        }
    }

    /// A request for a replica that runs a shell script.
    pub(super) fn script(&self, deployment: Value, script: &str) -> ContainerRequest {
        self.request(deployment, &["/bin/sh", "-c", script])
    }

    /// Makes a replica, lets it run to its end, and removes it.
    pub(super) async fn run(&self, request: &ContainerRequest) -> Ended {
        let mut events = self.runtime.events();
        let (stdout, stderr) = self.launch(request).await;
        let code = exit_code(&mut events, &request.id).await;
        // The shim has passed everything on once the task is deleted.
        self.runtime.remove(&request.id).await.expect("removed");
        eventually!(stdout.is_closed() && stderr.is_closed(), "the output does not end");
        Ended { code, stdout: stdout.text(), stderr: stderr.text() }
    }

    /// Makes and starts a replica whose output is read.
    pub(super) async fn launch(&self, request: &ContainerRequest) -> (Output, Output) {
        let output = self.read(request);
        self.runtime.create(request).await.expect("created");
        self.runtime.start(&request.id).await.expect("started");
        output
    }

    /// Reads what a replica writes: without a reader, its shim waits for one.
    pub(super) fn read(&self, request: &ContainerRequest) -> (Output, Output) {
        (Output::read(&request.stdio.stdout), Output::read(&request.stdio.stderr))
    }

    /// Runs a script that must succeed; returns what it wrote.
    pub(super) async fn output(&self, deployment: Value, script: &str) -> String {
        let ended = self.run(&self.script(deployment, script)).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    }

    /// Starts a replica and waits until it has written `ready`.
    pub(super) async fn start(&self, request: &ContainerRequest) -> Output {
        let (output, _) = self.launch(request).await;
        eventually!(output.text().contains("ready"), "{} is not ready: {:?}", request.id, output.text());
        output
    }

    /// Everything of replicas that containerd still has.
    pub(super) async fn leftovers(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .runtime
            .containers()
            .await
            .expect("a list")
            .into_iter()
            .map(|container| format!("{} {:?}", container.id, container.state))
            .collect();
        let snapshots = self.containerd.ctr(&["snapshots", "list"]);
        let snapshots = String::from_utf8_lossy(&snapshots.stdout).into_owned();
        found.extend(snapshots.lines().filter(|line| line.contains("Active")).map(str::to_owned));
        found.extend(self.containerd.shims().into_iter().map(|(_, id)| format!("shim of {id}")));
        found
    }
}

fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is not an object"),
    }
}

/// Waits for an event; others pass.
pub(super) async fn event(events: &mut Receiver<RuntimeEvent>, wanted: &RuntimeEvent) {
    let found = async { while events.recv().await.expect("events go on") != *wanted {} };
    let limit = Duration::from_secs(20);
    assert!(tokio::time::timeout(limit, found).await.is_ok(), "{wanted:?} was not told");
}

/// What is read from a FIFO so far.
#[derive(Debug, Clone)]
pub(super) struct Output(Arc<Mutex<(Vec<u8>, bool)>>);

impl Output {
    fn read(fifo: &std::path::Path) -> Self {
        let output = Self(Arc::default());
        let (shared, fifo) = (output.0.clone(), fifo.to_owned());
        // Opening waits for the writer, in a thread that the end of the test may leave behind.
        std::thread::spawn(move || {
            let mut file = std::fs::File::open(fifo).expect("open the fifo");
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = file.read(&mut buffer) {
                shared.lock().expect("no panic").0.extend_from_slice(&buffer[..length]);
            }
            shared.lock().expect("no panic").1 = true;
        });
        output
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic").0).into_owned()
    }

    fn is_closed(&self) -> bool {
        self.0.lock().expect("no panic").1
    }
}

/// A network namespace, gone when dropped.
struct Netns(String);

impl Netns {
    fn new(name: &str) -> Self {
        ip(&["netns", "add", name]);
        Self(name.to_owned())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.0]);
    }
}

fn ip(arguments: &[&str]) {
    let ip = crate::support::tool("ip").expect("ip");
    let done = Command::new(ip).args(arguments).status().expect("run ip");
    assert!(done.success(), "ip {arguments:?}: {done}");
}

/// Ends the test unless everything is here that these tests need.
macro_rules! require_containerd {
    () => {
        require_root!();
        require!("containerd", "containerd-shim-runc-v2", "runc", "ctr", "busybox", "ip");
    };
}
pub(super) use require_containerd;
