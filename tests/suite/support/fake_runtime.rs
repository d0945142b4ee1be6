//! A runtime without containerd: images are names, containers are servers in this process. It keeps
//! the same contract as the real one, and fails where it is told to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use ingle::function::{ImageRef, PullPolicy, ReplicaId};
use ingle::runtime::{
    ContainerRecord, ContainerRequest, ContainerState, Disk, Image, ImageConfig, ImageRecord, LayerRequest,
    Progress, ResolvedImage, Runtime, RuntimeError, RuntimeEvent, Share, Stored, Usage,
};
use tokio::sync::{broadcast, watch};

use super::fake_container::{End, Manner, Signal, live};

/// A call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Resolve,
    Pull,
    Prepare,
    Create,
    Start,
    Stop,
    Remove,
}

impl Step {
    /// All of them, in the order in which a replica's life calls them.
    pub(crate) const ALL: [Self; 7] =
        [Self::Resolve, Self::Pull, Self::Prepare, Self::Create, Self::Start, Self::Stop, Self::Remove];
}

/// The fake. Cloning gives another handle to the same one.
#[derive(Debug, Clone)]
pub(crate) struct FakeRuntime {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<RuntimeEvent>,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<String, ImageRecord>,
    /// Whether notes on images can be made.
    no_notes: bool,
    /// Bytes of the disk, of which images take some; one without bounds if `None`.
    disk: Option<u64>,
    containers: BTreeMap<ReplicaId, Container>,
    /// Layers without a container.
    layers: BTreeMap<ReplicaId, LayerRequest>,
    failing: HashMap<Step, Failing>,
    delays: HashMap<Step, Duration>,
    calls: HashMap<Step, usize>,
    /// Process ids given out.
    started: u32,
    /// Told apart by this: a container that ended after it was replaced changes nothing.
    made: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    Once,
    Always,
    Panics,
    /// As when containerd is not there.
    Away,
    /// With an error that panics when it is put into words, which its receiver does.
    Unspeakable,
}

#[derive(Debug)]
struct Unspeakable;

impl std::error::Error for Unspeakable {}

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("the test wants this error to be unspeakable")
    }
}

#[derive(Debug)]
struct Container {
    number: u64,
    request: ContainerRequest,
    state: watch::Sender<ContainerState>,
    signal: watch::Sender<Signal>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self { state: Arc::default(), events: broadcast::channel(1024).0 }
    }
}

impl FakeRuntime {
    /// Makes every call of `step` fail until [`Self::heal`].
    pub(crate) fn fail_at(&self, step: Step) {
        self.lock().failing.insert(step, Failing::Always);
    }

    /// Makes the next call of `step` fail.
    pub(crate) fn fail_once(&self, step: Step) {
        self.lock().failing.insert(step, Failing::Once);
    }

    /// Makes every call of `step` panic until [`Self::heal`].
    pub(crate) fn panic_at(&self, step: Step) {
        self.lock().failing.insert(step, Failing::Panics);
    }

    /// Makes every call of `step` fail, until [`Self::heal`], with an error that makes whoever puts it into
    /// words panic.
    pub(crate) fn unspeakable_at(&self, step: Step) {
        self.lock().failing.insert(step, Failing::Unspeakable);
    }

    /// Makes every call of these steps fail, until [`Self::heal`], as they do while containerd is not there.
    pub(crate) fn away_at(&self, steps: &[Step]) {
        self.lock().failing.extend(steps.iter().map(|step| (*step, Failing::Away)));
    }

    /// Removes all images, as `ctr images rm` does.
    pub(crate) fn forget_images(&self) {
        self.lock().images.clear();
    }

    /// Puts an image there, as if it had been pulled.
    pub(crate) fn add_image(&self, image: ImageRecord) {
        self.lock().images.insert(image.name.clone(), image);
    }

    /// Makes every note on an image fail, as on a disk that is full.
    pub(crate) fn refuse_notes(&self) {
        self.lock().no_notes = true;
    }

    /// Makes the disk this large.
    pub(crate) fn limit_disk(&self, size: u64) {
        self.lock().disk = Some(size);
    }

    /// Ends all failures and delays.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.failing.clear();
        state.delays.clear();
    }

    /// Makes `step` take a while.
    pub(crate) fn delay_at(&self, step: Step, time: Duration) {
        self.lock().delays.insert(step, time);
    }

    /// Makes `step` never end.
    pub(crate) fn hang_at(&self, step: Step) {
        self.delay_at(step, Duration::MAX);
    }

    /// How often `step` was called.
    pub(crate) fn calls(&self, step: Step) -> usize {
        self.lock().calls.get(&step).copied().unwrap_or_default()
    }

    /// Containers that exist.
    pub(crate) fn leftovers(&self) -> Vec<ReplicaId> {
        self.lock().containers.keys().cloned().collect()
    }

    /// The requests that containers were made from.
    pub(crate) fn requests(&self) -> Vec<ContainerRequest> {
        self.lock().containers.values().map(|container| container.request.clone()).collect()
    }

    /// Ends a container from outside, as `kill -9` of its first process does.
    pub(crate) fn kill(&self, id: &ReplicaId) {
        if let Some(container) = self.lock().containers.get(id) {
            container.signal.send_replace(Signal::Kill);
        }
    }

    /// The same for want of memory.
    pub(crate) fn starve(&self, id: &ReplicaId) {
        let _ = self.events.send(RuntimeEvent::OutOfMemory { id: id.clone() });
        self.kill(id);
    }

    /// Ends a container without a word of it, as one that ends while containerd is away.
    pub(crate) fn vanish(&self, id: &ReplicaId) {
        let mut state = self.lock();
        if let Some(container) = state.containers.get_mut(id) {
            // What is told of another number is not passed on.
            container.number = 0;
            container.signal.send_replace(Signal::Kill);
            container.state.send_replace(ContainerState::Stopped);
        }
    }

    /// Says that events may have been missed.
    pub(crate) fn resync(&self) {
        let _ = self.events.send(RuntimeEvent::Resync);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it was locked")
    }

    /// Counts a call, takes its time, and fails if it is to.
    async fn enter(&self, step: Step) -> Result<(), RuntimeError> {
        let (delay, failing) = {
            let mut state = self.lock();
            *state.calls.entry(step).or_default() += 1;
            let failing = state.failing.get(&step).copied();
            if failing == Some(Failing::Once) {
                state.failing.remove(&step);
            }
            (state.delays.get(&step).copied(), failing)
        };
        match delay {
            Some(Duration::MAX) => std::future::pending().await,
            Some(delay) => tokio::time::sleep(delay).await,
            None => {}
        }
        match failing {
            Some(Failing::Panics) => panic!("the test wants {step:?} to panic"),
            Some(Failing::Once | Failing::Always) => {
                Err(RuntimeError::failed(format!("{step:?}"), "the test wants it to fail"))
            }
            Some(Failing::Away) => {
                let source = "the test wants it to be away".into();
                Err(RuntimeError::Down { socket: "/nowhere.sock".into(), source })
            }
            Some(Failing::Unspeakable) => Err(RuntimeError::failed(format!("{step:?}"), Unspeakable)),
            None => Ok(()),
        }
    }

    /// Sends a signal; the state to watch for the end, if it runs.
    fn signal(&self, id: &ReplicaId, signal: Signal) -> Option<watch::Receiver<ContainerState>> {
        let state = self.lock();
        let container = state.containers.get(id)?;
        if matches!(*container.state.borrow(), ContainerState::Running { .. }) {
            container.signal.send_if_modified(|sent| {
                let stronger = signal > *sent;
                *sent = signal.max(*sent);
                stronger
            });
            return Some(container.state.subscribe());
        }
        container.state.send_if_modified(|state| {
            let created = *state == ContainerState::Created;
            if created {
                *state = ContainerState::Stopped;
            }
            created
        });
        None
    }

    fn ended(&self, id: &ReplicaId, number: u64, end: End) {
        let state = self.lock();
        if let Some(container) = state.containers.get(id).filter(|container| container.number == number) {
            if end.out_of_memory {
                let _ = self.events.send(RuntimeEvent::OutOfMemory { id: id.clone() });
            }
            let _ = self.events.send(RuntimeEvent::Exited { id: id.clone(), code: end.code });
            container.state.send_replace(ContainerState::Stopped);
        }
    }

    async fn discard(&self, id: &ReplicaId) {
        if let Some(running) = self.signal(id, Signal::Kill) {
            stopped(running).await;
        }
        let mut state = self.lock();
        state.containers.remove(id);
        state.layers.remove(id);
    }
}

async fn stopped(mut state: watch::Receiver<ContainerState>) {
    // An error means that the container was removed: it does not run either.
    let _ = state.wait_for(|state| *state == ContainerState::Stopped).await;
}

fn digest(text: &str) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(text)))
}

/// What resolving says, by the last part of the image's name: `missing`, `private`, `unreachable`
/// and `arm-only` are refused as a registry would; `no-command` has none; everything else is fine.
fn resolved(image: &ImageRef) -> Result<ResolvedImage, RuntimeError> {
    let name = image.to_string();
    let registry = image.reference().registry().to_owned();
    let mut config = ImageConfig { entrypoint: vec!["/serve".into()], ..ImageConfig::default() };
    match image.reference().repository().rsplit('/').next().unwrap_or_default() {
        "missing" => return Err(RuntimeError::ImageNotFound { image: name, registry }),
        "private" => {
            let config = "/root/.docker/config.json".into();
            return Err(RuntimeError::Unauthorized { image: name, registry, config });
        }
        "unreachable" => {
            let source = "connection refused".into();
            return Err(RuntimeError::RegistryUnreachable { image: name, registry, source });
        }
        "arm-only" => {
            let (want, have) = ("linux/amd64".into(), "linux/arm64".into());
            return Err(RuntimeError::WrongPlatform { image: name, want, have });
        }
        "no-command" => config.entrypoint.clear(),
        _ => {}
    }
    let digest = digest(&image.canonical());
    Ok(ResolvedImage { image: image.clone(), manifest_digest: digest.clone(), digest, config, size: 1000 })
}

fn record(image: &ResolvedImage) -> ImageRecord {
    ImageRecord {
        name: image.image.canonical(),
        digest: image.digest.clone(),
        platform: "linux/amd64".into(),
        size: image.size,
        created_at: jiff::Timestamp::now(),
        superseded: None,
        unused_since: None,
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("fake".into())
    }

    async fn resolve(&self, image: &ImageRef, policy: PullPolicy) -> Result<ResolvedImage, RuntimeError> {
        self.enter(Step::Resolve).await?;
        if policy == PullPolicy::Never && !self.lock().images.contains_key(&image.canonical()) {
            return Err(RuntimeError::ImageNotLoaded { image: image.to_string() });
        }
        resolved(image)
    }

    async fn pull(
        &self,
        image: &ResolvedImage,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<Arc<Image>, RuntimeError> {
        progress.set_total(image.size);
        self.enter(Step::Pull).await?;
        if policy == PullPolicy::Never && !self.lock().images.contains_key(&image.image.canonical()) {
            let digest = image.digest.clone();
            return Err(RuntimeError::ImageGone { image: image.image.to_string(), digest });
        }
        progress.add(image.size);
        self.lock().images.insert(image.image.canonical(), record(image));
        Ok(Arc::new(Image { resolved: image.clone(), chain_id: image.digest.clone() }))
    }

    /// The archive's file name, without its extension, is the image's name.
    async fn load(&self, archive: PathBuf) -> Result<Vec<ImageRecord>, RuntimeError> {
        let bad = |reason: &str| RuntimeError::BadImage {
            image: archive.display().to_string(),
            reason: reason.to_owned(),
        };
        if !archive.is_file() {
            return Err(bad("there is no such file"));
        }
        let name = archive.file_stem().and_then(|name| name.to_str()).ok_or_else(|| bad("has no name"))?;
        let image = name.parse().map_err(|_| bad("its name is not that of an image"))?;
        let record = record(&resolved(&image)?);
        self.lock().images.insert(record.name.clone(), record.clone());
        Ok(vec![record])
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, RuntimeError> {
        Ok(self.lock().images.values().cloned().collect())
    }

    async fn mark_image(
        &self,
        name: &str,
        unused_since: Option<jiff::Timestamp>,
    ) -> Result<(), RuntimeError> {
        let mut state = self.lock();
        if state.no_notes {
            return Err(RuntimeError::failed("noting", "no space left on device"));
        }
        if let Some(image) = state.images.get_mut(name) {
            image.unused_since = unused_since;
        }
        Ok(())
    }

    async fn remove_image(&self, name: &str, digest: &str) -> Result<bool, RuntimeError> {
        let mut state = self.lock();
        let found = state.images.get(name).is_some_and(|image| image.digest == digest);
        Ok(found && state.images.remove(name).is_some())
    }

    async fn discard_broken_pulls(&self, _: &BTreeSet<String>) -> Result<usize, RuntimeError> {
        Ok(0)
    }

    async fn sweep(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn disk(&self) -> Result<Option<Disk>, RuntimeError> {
        let state = self.lock();
        let taken: u64 = state.images.values().map(|image| image.size).sum();
        Ok(state.disk.map(|size| Disk { path: "/fake".into(), size, free: size.saturating_sub(taken) }))
    }

    async fn room_for(&self, image: &ResolvedImage) -> Result<u64, RuntimeError> {
        let is_here = self.lock().images.values().any(|record| record.digest == image.digest);
        Ok(if is_here { 0 } else { image.size })
    }

    async fn stored(&self, used: &BTreeSet<String>) -> Result<Stored, RuntimeError> {
        let mut images = Share::default();
        for image in self.lock().images.values() {
            images.add(image.size, used.contains(&image.digest));
        }
        Ok(Stored { images, ..Stored::default() })
    }

    async fn prepare(&self, request: &LayerRequest) -> Result<(), RuntimeError> {
        self.enter(Step::Prepare).await?;
        self.lock().layers.insert(request.id.clone(), request.clone());
        Ok(())
    }

    async fn create(&self, request: &ContainerRequest) -> Result<(), RuntimeError> {
        self.enter(Step::Create).await?;
        let config = &request.image.resolved.config;
        if config.entrypoint.is_empty() && config.cmd.is_empty() {
            return Err(RuntimeError::NoCommand { image: request.spec.image.to_string() });
        }
        self.discard(&request.id).await;
        let mut state = self.lock();
        state.made += 1;
        let container = Container {
            number: state.made,
            request: request.clone(),
            state: watch::Sender::new(ContainerState::Created),
            signal: watch::Sender::new(Signal::None),
        };
        state.containers.insert(request.id.clone(), container);
        Ok(())
    }

    async fn start(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        self.enter(Step::Start).await?;
        let mut state = self.lock();
        state.started += 1;
        let pid = state.started;
        let not_found = || RuntimeError::NotFound { what: format!("replica {id}") };
        let container = state.containers.get(id).ok_or_else(not_found)?;
        if *container.state.borrow() != ContainerState::Created {
            return Err(RuntimeError::failed(format!("start of replica {id}"), "it was started before"));
        }
        container.state.send_replace(ContainerState::Running { pid });
        let request = &container.request;
        let life = live(
            Manner::of(&request.spec.image),
            SocketAddr::new(request.address, request.spec.port),
            format!("{id} r{}", request.revision),
            container.signal.subscribe(),
        );
        let (runtime, id, number) = (self.clone(), id.clone(), container.number);
        tokio::spawn(async move {
            // By then it has let go of its address.
            let end = life.await;
            runtime.ended(&id, number, end);
        });
        Ok(())
    }

    async fn stop(&self, id: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        self.enter(Step::Stop).await?;
        let Some(running) = self.signal(id, Signal::Term) else { return Ok(()) };
        if tokio::time::timeout(grace, stopped(running)).await.is_err()
            && let Some(running) = self.signal(id, Signal::Kill)
        {
            stopped(running).await;
        }
        Ok(())
    }

    async fn remove(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        self.enter(Step::Remove).await?;
        self.discard(id).await;
        Ok(())
    }

    async fn containers(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let state = self.lock();
        let record = |(id, container): (&ReplicaId, &Container)| ContainerRecord {
            id: id.clone(),
            labels: container.request.labels(),
            state: *container.state.borrow(),
        };
        let layer = |(id, layer): (&ReplicaId, &LayerRequest)| ContainerRecord {
            id: id.clone(),
            labels: layer.labels(),
            state: ContainerState::NoTask,
        };
        Ok(state.containers.iter().map(record).chain(state.layers.iter().map(layer)).collect())
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn usage(&self, id: &ReplicaId) -> Result<Usage, RuntimeError> {
        let state = self.lock();
        match state.containers.get(id).map(|container| *container.state.borrow()) {
            Some(ContainerState::Running { .. }) => {
                Ok(Usage { cpu: Duration::from_millis(10), memory: 1 << 20 })
            }
            _ => Err(RuntimeError::NotFound { what: format!("a running process of replica {id}") }),
        }
    }
}

mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicU64, Ordering};

    use ingle::function::FunctionSpec;
    use ingle::runtime::Stdio;
    use serde_json::json;

    use super::*;
    use crate::support::tap::{Open, Tapped};
    use crate::support::{Behaviour, exit_code, runtime_contract};

    /// A request for a replica of `image` that nobody else has the address of.
    fn request(image: &str) -> ContainerRequest {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let body =
            serde_json::from_value(json!({ "service": "fake", "image": image })).expect("a deployment");
        let spec = Arc::new(FunctionSpec::try_from(&body).expect("valid"));
        let [.., high, low] = std::process::id().to_be_bytes();
        ContainerRequest {
            id: ReplicaId::new(&spec.key.name, number),
            image: Arc::new(Image {
                resolved: resolved(&spec.image).expect("fine"),
                chain_id: String::new(),
            }),
            spec,
            revision: 2,
            address: IpAddr::V4(Ipv4Addr::new(
                127,
                100 + low % 100,
                high,
                u8::try_from(number + 1).expect("few"),
            )),
            netns: PathBuf::new(),
            stdio: Stdio { stdout: PathBuf::new(), stderr: PathBuf::new() },
            mounts: Vec::new(),
            env: BTreeMap::new(),
            pids: 64,
        }
    }

    #[tokio::test]
    async fn the_fake_keeps_the_contract_of_runtimes() {
        let runtime = Arc::new(FakeRuntime::default());
        let made = |behaviour| match behaviour {
            Behaviour::Serves => request("fake/echo"),
            Behaviour::IgnoresTerm => request("fake/deaf"),
            Behaviour::Exits(code) => request(&format!("fake/exits:{code}")),
        };
        runtime_contract(runtime.clone(), made, async |_: &ReplicaId| {}).await;
        assert_eq!(runtime.leftovers(), []);
        // So does one with a tap before it.
        let inner: Arc<dyn Runtime> = runtime.clone();
        let tapped = Tapped::new(inner, Arc::new(Open));
        runtime_contract(tapped, made, async |_: &ReplicaId| {}).await;
        assert_eq!(runtime.leftovers(), []);
    }

    async fn get(request: &ContainerRequest, path: &str) -> Result<(u16, String), reqwest::Error> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://{}:{}{path}", request.address, request.spec.port);
        let answer = reqwest::get(url).await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    #[tokio::test]
    async fn its_containers_answer_and_end_as_told() {
        let runtime = FakeRuntime::default();
        let mut events = runtime.events();
        let [echo, sick] = ["fake/echo", "fake/unhealthy"].map(request);
        for request in [&echo, &sick] {
            runtime.create(request).await.expect("created");
            runtime.start(&request.id).await.expect("started");
            eventually!(get(request, "/").await.is_ok(), "{} does not answer", request.id);
        }
        let body = format!("{} r2 GET /a%20b?c\n", echo.id);
        assert_eq!(get(&echo, "/a%20b?c").await.expect("an answer"), (200, body));
        assert_eq!(get(&sick, "/_/health").await.expect("an answer").0, 503);
        assert_eq!(runtime.requests().len(), 2);

        get(&echo, "/crash/3").await.expect_err("it is gone");
        assert_eq!(exit_code(&mut events, &echo.id).await, 3);
        get(&echo, "/").await.expect_err("nobody listens");
        get(&sick, "/oom").await.expect_err("it is gone");
        assert_eq!(events.recv().await.expect("an event"), RuntimeEvent::OutOfMemory { id: sick.id.clone() });
        assert_eq!(exit_code(&mut events, &sick.id).await, 137);

        for image in ["fake/slow", "fake/never-ready"] {
            let request = request(image);
            runtime.create(&request).await.expect("created");
            runtime.start(&request.id).await.expect("started");
            get(&request, "/").await.expect_err("nobody listens yet");
            if image == "fake/slow" {
                eventually!(get(&request, "/").await.is_ok(), "{} does not answer", request.id);
            }
            runtime.kill(&request.id);
            assert_eq!(exit_code(&mut events, &request.id).await, 137);
        }
        runtime.resync();
        assert_eq!(events.recv().await.expect("an event"), RuntimeEvent::Resync);
    }

    #[tokio::test]
    async fn a_stop_lets_a_request_finish() {
        let runtime = FakeRuntime::default();
        let request = request("fake/echo");
        runtime.create(&request).await.expect("created");
        runtime.start(&request.id).await.expect("started");
        eventually!(get(&request, "/").await.is_ok(), "{} does not answer", request.id);
        let asleep = get(&request, "/sleep/300");
        let stop = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            runtime.stop(&request.id, Duration::from_secs(5)).await
        };
        let (answer, stopped) = tokio::join!(asleep, stop);
        assert_eq!(answer.expect("an answer").0, 200);
        stopped.expect("stopped");
    }

    #[tokio::test]
    async fn it_fails_where_it_is_told_to() {
        let runtime = FakeRuntime::default();
        let request = request("fake/echo");
        let image = request.spec.image.clone();
        for step in Step::ALL {
            runtime.fail_at(step);
        }
        runtime.resolve(&image, PullPolicy::Always).await.expect_err("told to");
        runtime
            .pull(&request.image.resolved, PullPolicy::Always, &Progress::default())
            .await
            .expect_err("told to");
        runtime.prepare(&request.layer()).await.expect_err("told to");
        runtime.create(&request).await.expect_err("told to");
        runtime.start(&request.id).await.expect_err("told to");
        runtime.stop(&request.id, Duration::ZERO).await.expect_err("told to");
        runtime.remove(&request.id).await.expect_err("told to");
        assert!(Step::ALL.iter().all(|step| runtime.calls(*step) == 1));

        runtime.heal();
        runtime.fail_once(Step::Create);
        runtime.delay_at(Step::Create, Duration::from_millis(1));
        runtime.create(&request).await.expect_err("told to, once");
        runtime.create(&request).await.expect("created");
        assert_eq!(runtime.leftovers(), [request.id]);
    }

    #[tokio::test]
    async fn images_are_names() {
        let runtime = FakeRuntime::default();
        for (image, part) in [
            ("fake/missing", "was not found"),
            ("fake/private", "refused access"),
            ("fake/unreachable", "could not be reached"),
            ("fake/arm-only", "arm64"),
        ] {
            let error = runtime.resolve(&image.parse().expect("a name"), PullPolicy::Always).await;
            let error = error.expect_err(image).to_string();
            assert!(error.contains(part), "{error}");
        }
        let echo: ImageRef = "echo".parse().expect("a name");
        runtime.resolve(&echo, PullPolicy::Never).await.expect_err("it is not here");
        let directory = tempfile::tempdir().expect("a directory");
        let archive = directory.path().join("echo.tar");
        std::fs::write(&archive, "").expect("a file");
        runtime.load(archive).await.expect("loaded");
        let resolved = runtime.resolve(&echo, PullPolicy::Never).await.expect("it is here");
        assert_eq!(runtime.images().await.expect("a list")[0].digest, resolved.digest);
    }
}
