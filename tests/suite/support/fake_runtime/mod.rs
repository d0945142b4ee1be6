//! A runtime without containerd: images are names, containers are servers in this process. It keeps
//! the same contract as the real one, and fails where it is told to.

mod faults;
mod images;
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use host::runtime::{
    ContainerRecord, ContainerRequest, ContainerState, Disk, Footprint, Image, ImageRecord, LayerRequest,
    Loaded, Progress, ResolvedImage, Runtime, RuntimeError, RuntimeEvent, Stored, Usage,
};
use model::function::{ImageRef, PullPolicy, ReplicaId};
use tokio::sync::{broadcast, watch};

use self::faults::Faults;
use self::images::{record, resolved};
use super::fake_container::{End, Manner, Signal, live};

pub(crate) use self::faults::Step;

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
    faults: Faults,
    /// Footprints and OOM kills of replicas.
    footprints: BTreeMap<ReplicaId, Footprint>,
    oom_kills: BTreeMap<ReplicaId, u64>,
    /// Process ids given out.
    started: u32,
    /// Told apart by this: a container that ended after it was replaced changes nothing.
    made: u64,
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
        self.starve_one(id, 1);
        self.kill(id);
    }

    /// Reports an OOM kill of a process other than the first; `kills` is the count so far.
    pub(crate) fn starve_one(&self, id: &ReplicaId, kills: u64) {
        let _ = self.events.send(RuntimeEvent::OutOfMemory { id: id.clone(), kills });
    }

    /// Sets the footprint of a replica from now on.
    pub(crate) fn set_footprint(&self, id: &ReplicaId, footprint: Footprint) {
        self.lock().footprints.insert(id.clone(), footprint);
    }

    /// Sets the count of OOM kills of a replica, without a report.
    pub(crate) fn set_oom_kills(&self, id: &ReplicaId, kills: u64) {
        self.lock().oom_kills.insert(id.clone(), kills);
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
                let _ = self.events.send(RuntimeEvent::OutOfMemory { id: id.clone(), kills: 1 });
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

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        self.enter(Step::Version).await?;
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
    async fn load(&self, archive: PathBuf, called: Option<&ImageRef>) -> Result<Loaded, RuntimeError> {
        let bad = |reason: &str| RuntimeError::BadImage {
            image: archive.display().to_string(),
            reason: reason.to_owned(),
        };
        if !archive.is_file() {
            return Err(bad("there is no such file"));
        }
        let name = archive.file_stem().and_then(|name| name.to_str()).ok_or_else(|| bad("has no name"))?;
        let own = name.parse().map_err(|_| bad("its name is not that of an image"));
        let image = called.cloned().map_or(own, Ok)?;
        let record = record(&resolved(&image)?);
        self.lock().images.insert(record.name.clone(), record.clone());
        Ok(Loaded { images: vec![record], skipped: Vec::new() })
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
        let disk = |size: u64| Disk {
            path: "/fake".into(),
            size,
            free: size.saturating_sub(taken),
            inodes: 0,
            inodes_free: 0,
        };
        Ok(state.disk.map(disk))
    }

    async fn room_for(&self, image: &ResolvedImage) -> Result<u64, RuntimeError> {
        let is_here = self.lock().images.values().any(|record| record.digest == image.digest);
        Ok(if is_here { 0 } else { image.size })
    }

    async fn stored(&self, used: &BTreeSet<String>) -> Result<Stored, RuntimeError> {
        let mut images = model::wire::Share::default();
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
        self.enter(Step::List).await?;
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

    async fn record(&self, id: &ReplicaId) -> Result<Option<Vec<u8>>, RuntimeError> {
        self.enter(Step::List).await?;
        Ok(self.lock().containers.get(id).map(|container| container.request.record.clone()))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    async fn footprint(&self, id: &ReplicaId) -> Result<Footprint, RuntimeError> {
        self.enter(Step::Footprint).await?;
        Ok(self.lock().footprints.get(id).copied().unwrap_or_default())
    }

    async fn oom_kills(&self, id: &ReplicaId) -> Result<u64, RuntimeError> {
        Ok(self.lock().oom_kills.get(id).copied().unwrap_or_default())
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
