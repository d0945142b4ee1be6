//! Owns one function: turns requests and events into launches and drains.
//!
//! Invariants
//! - This task is the only writer of the function's [`View`](super::View) and of its record in the store.
//! - A replica is in `slots` from before its launch until all of it is gone.
//! - A revision that does not come up leaves the one that serves alone.
//!
//! ```text
//! a slot:  Pulling -> Starting -> Ready -> Draining -> gone
//!             \___________\__________\________^   (called off, exited, unhealthy)
//! ```

mod again;
mod exits;
mod history;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::decide::{self, decide};
use super::directory::{Endpoint, Entry, KeptRevision, LastExit};
use super::registry::Registry;
use super::{FleetError, health, revision};
use crate::config;
use crate::function::ReplicaId;
use crate::logs::Logs;
use crate::replica::{Launch, LaunchError, Launcher, Revision};
use crate::runtime::Progress;
use crate::secrets::Secrets;
use crate::store::{FunctionRecord, Store, UpdateFailure};

/// Commands that may wait for an owner.
const INBOX: usize = 64;
/// Drained replicas are asked this often whether their calls have ended.
const DRAIN_CHECK: Duration = Duration::from_millis(20);
/// What a call may take over its limit before its replica is stopped all the same.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// What a removal may take over `functions.stop_grace` when the daemon stops.
const LEAVE_MARGIN: Duration = Duration::from_secs(5);

/// What an owner needs of the rest.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) launcher: Arc<Launcher>,
    pub(super) store: Arc<Store>,
    pub(super) logs: Arc<Logs>,
    pub(super) secrets: Secrets,
    pub(super) registry: Registry,
    pub(super) config: config::Functions,
    /// Set when the daemon stops: owners end and leave their replicas running.
    pub(super) stop: CancellationToken,
}

/// What an owner is told.
#[derive(Debug)]
pub(super) enum Command {
    /// A new revision is wanted; answered with its number when it is on disk.
    Deploy { revision: Box<Revision>, done: oneshot::Sender<Result<u64, FleetError>> },
    /// An old revision is wanted again, as a new one; answered with its number when it is on disk.
    Rollback { to: Option<u64>, done: oneshot::Sender<Result<u64, FleetError>> },
    /// Another number of replicas is wanted; answered when it is on disk.
    Scale { replicas: u32, done: oneshot::Sender<Result<(), FleetError>> },
    /// The function is not wanted any more; answered when that is on disk.
    Remove { done: oneshot::Sender<Result<(), FleetError>> },
    /// A replica's process ended.
    Exited { id: ReplicaId, code: u32 },
    /// The kernel killed a process of a replica for want of memory.
    OutOfMemory { id: ReplicaId },
    /// A replica fails its health probe.
    Unhealthy { id: ReplicaId, reason: String },
    /// Events may have been lost: these replicas run now.
    Running(Arc<Vec<ReplicaId>>),
}

/// What is stored of a function, parsed.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) record: FunctionRecord,
    pub(super) wanted: Arc<Revision>,
    /// What serves, as far as is known.
    pub(super) serving: Option<Arc<Revision>>,
    /// The revisions that served and are kept, oldest first.
    pub(super) history: Arc<[KeptRevision]>,
}

impl Known {
    /// A function that was deployed just now.
    pub(super) fn new(record: FunctionRecord, wanted: Revision) -> Self {
        Self { record, wanted: Arc::new(wanted), serving: None, history: Arc::default() }
    }

    /// A function that was deployed before, with what else is stored of it.
    pub(super) fn read(store: &Store, record: FunctionRecord) -> Result<Self, FleetError> {
        let wanted = Arc::new(revision::from_record(&record.wanted)?);
        let history: Arc<[KeptRevision]> = store.revisions(&record.key)?.iter().map(revision::kept).collect();
        let served = history.iter().any(|kept| kept.number == wanted.number);
        let serving = match &record.serving {
            Some(serving) => Some(Arc::new(revision::from_record(serving)?)),
            None => served.then(|| wanted.clone()),
        };
        Ok(Self { record, wanted, serving, history })
    }
}

/// A replica that may have outlived the daemon.
#[derive(Debug)]
pub(super) struct Survivor {
    pub(super) id: ReplicaId,
    pub(super) revision: u64,
    pub(super) address: SocketAddr,
}

/// How far a replica is.
#[derive(Debug)]
enum Stage {
    Pulling,
    Starting,
    Ready { endpoint: Arc<Endpoint>, since: Instant },
    Draining,
}

#[derive(Debug)]
struct Slot {
    id: ReplicaId,
    revision: Arc<Revision>,
    stage: Stage,
    progress: Progress,
    exit: watch::Sender<Option<u32>>,
    cancel: CancellationToken,
    out_of_memory: bool,
    /// What works on it now, or did last.
    task: Option<task::Id>,
}

/// What a task of the owner reports.
#[derive(Debug)]
enum Done {
    Launched {
        id: ReplicaId,
        result: Result<Arc<Endpoint>, LaunchError>,
    },
    NotAdopted {
        id: ReplicaId,
    },
    Gone {
        id: ReplicaId,
    },
    /// As `Gone`, of one whose process had ended, with what it wrote last.
    Ended {
        id: ReplicaId,
        output: Vec<String>,
    },
    /// What an owner that panicked has left.
    Cleared {
        ids: Vec<ReplicaId>,
    },
}

/// The state of one function's task.
#[derive(Debug)]
pub(super) struct Owner {
    parts: Arc<Parts>,
    entry: Arc<Entry>,
    inbox: mpsc::Receiver<Command>,
    sender: mpsc::Sender<Command>,
    starting: (mpsc::UnboundedSender<ReplicaId>, mpsc::UnboundedReceiver<ReplicaId>),
    tasks: JoinSet<Done>,
    /// What is stored; `wanted` and `serving` below are its revisions, parsed.
    record: FunctionRecord,
    wanted: Arc<Revision>,
    serving: Option<Arc<Revision>>,
    history: Arc<[KeptRevision]>,
    slots: Vec<Slot>,
    backoff: Backoff,
    /// Trying again cannot help before the next deploy.
    hopeless: bool,
    removing: bool,
    reason: Option<String>,
    restarts: u32,
    last_exit: Option<Arc<LastExit>>,
    /// What it is to do first.
    first: Option<Command>,
}

impl Owner {
    /// The owner of a function that is on disk, with its first view.
    pub(super) fn new(
        parts: Arc<Parts>,
        known: Known,
        survivors: Vec<Survivor>,
        stats: crate::metrics::CallStats,
    ) -> Self {
        let (sender, inbox) = mpsc::channel(INBOX);
        let view = view::first(&parts.config, &known);
        let Known { record, wanted, serving, history } = known;
        let entry = Entry::new(record.key.clone(), stats, view);
        let mut owner = Self {
            parts,
            entry,
            inbox,
            sender,
            starting: mpsc::unbounded_channel(),
            tasks: JoinSet::new(),
            record,
            wanted,
            serving,
            history,
            slots: Vec::new(),
            backoff: Backoff::default(),
            hopeless: false,
            removing: false,
            reason: None,
            restarts: 0,
            last_exit: None,
            first: None,
        };
        for survivor in survivors {
            owner.adopt(survivor);
        }
        owner
    }

    /// What it publishes to.
    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Where it is told things.
    pub(super) fn sender(&self) -> &mpsc::Sender<Command> {
        &self.sender
    }

    /// Looks after the function until it is removed or the daemon stops.
    pub(super) async fn run(&mut self) {
        let stop = self.parts.stop.clone();
        if let Some(command) = self.first.take() {
            self.obey(command).await;
        }
        loop {
            self.reconcile();
            self.publish();
            if self.removing && self.slots.is_empty() {
                break;
            }
            let retry = self.backoff.until(Instant::now());
            tokio::select! {
                () = stop.cancelled() => {
                    self.leave().await;
                    return;
                }
                Some(command) = self.inbox.recv() => self.obey(command).await,
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.finish(done).await,
                    Err(error) => self.panicked(error).await,
                },
                Some(id) = self.starting.1.recv() => {
                    if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id && matches!(slot.stage, Stage::Pulling)) {
                        slot.stage = Stage::Starting;
                    }
                }
                () = self.entry.wanted.notified() => self.wake().await,
                () = async { tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)).await }, if retry.is_some() => {}
            }
        }
    }

    /// Ends without touching what serves. Launches that are under way are taken back, and what drains
    /// is removed: its calls have ended with the gateway.
    async fn leave(&mut self) {
        for slot in self.slots.iter().filter(|slot| matches!(slot.stage, Stage::Pulling | Stage::Starting)) {
            slot.cancel.cancel();
        }
        let limit = self.parts.config.stop_grace + LEAVE_MARGIN;
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!(function = %self.entry.key, "replicas could not be removed in time; the next start will do it");
        }
        self.tasks.detach_all();
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Deploy { revision, done } => {
                let result = self.deploy(*revision).await;
                // The client may have gone away; the deploy stands.
                let _ = done.send(result);
            }
            Command::Rollback { to, done } => {
                let result = self.roll_back(to).await;
                let _ = done.send(result);
            }
            Command::Scale { replicas, done } => {
                let result = self.scale(replicas).await;
                let _ = done.send(result);
            }
            Command::Remove { done } => {
                let revisions: Vec<u64> = self.history.iter().map(|kept| kept.number).collect();
                let deleted = self.parts.store.delete_function(&self.entry.key, &revisions).await;
                let result = deleted.map_err(FleetError::from);
                if result.is_ok() {
                    self.removing = true;
                    self.parts.logs.remove(&self.entry.key).await;
                }
                let _ = done.send(result);
            }
            Command::Exited { id, code } => self.exited(&id, code),
            Command::OutOfMemory { id } => self.out_of_memory(&id),
            Command::Unhealthy { id, reason } => self.replace(&id, &reason),
            Command::Running(running) => {
                let lost: Vec<ReplicaId> = self
                    .slots
                    .iter()
                    .filter(|slot| matches!(slot.stage, Stage::Ready { .. }) && !running.contains(&slot.id))
                    .map(|slot| slot.id.clone())
                    .collect();
                for id in lost {
                    self.replace(&id, "was gone when containerd came back");
                }
            }
        }
    }

    async fn deploy(&mut self, mut revision: Revision) -> Result<u64, FleetError> {
        let number = self.record.last_revision + 1;
        revision.number = number;
        let scale = revision.spec.scale;
        let mut record = self.record.clone();
        record.serving = self.serving.as_ref().map(|serving| revision::to_record(serving));
        record.wanted = revision::to_record(&revision);
        record.last_revision = number;
        record.failure = None;
        // A function that was stopped runs again when it is deployed.
        record.desired =
            if record.desired == 0 { scale.min } else { record.desired.clamp(scale.min, scale.max) };
        self.keep(record).await?;
        self.wanted = Arc::new(revision);
        self.backoff.reset();
        self.hopeless = false;
        self.reason = None;
        self.restarts = 0;
        tracing::info!(function = %self.entry.key, revision = number, image = %self.wanted.spec.image, "deployed");
        Ok(number)
    }

    async fn scale(&mut self, replicas: u32) -> Result<(), FleetError> {
        let max = self.wanted.spec.scale.max;
        if replicas > max {
            return Err(FleetError::Invalid(crate::function::Invalid::new(
                "replicas",
                format!(
                    "{replicas} are more than com.openfaas.scale.max of function {}, which is {max}",
                    self.entry.key
                ),
            )));
        }
        let mut record = self.record.clone();
        record.desired = replicas;
        self.keep(record).await?;
        self.backoff.reset();
        Ok(())
    }

    /// A call found no replica.
    async fn wake(&mut self) {
        if self.record.desired == 0 && !self.removing && self.entry.waiting.load(Ordering::Relaxed) > 0 {
            let mut record = self.record.clone();
            record.desired = self.wanted.spec.scale.min;
            if let Err(error) = self.keep(record).await {
                self.reason = Some(crate::chain(&error));
            }
        }
    }

    /// Writes the record, unless the function is gone: what was begun before its removal, or asked
    /// in the same moment, must not bring it back.
    async fn keep(&mut self, record: FunctionRecord) -> Result<(), FleetError> {
        if self.removing {
            return Err(FleetError::NotFound(self.entry.key.clone()));
        }
        self.parts.store.put_function(&record).await?;
        self.record = record;
        Ok(())
    }

    /// Starts what is missing and drains what is too much.
    fn reconcile(&mut self) {
        let count = if self.removing { 0 } else { self.record.desired as usize };
        let slots: Vec<decide::Slot> = self
            .slots
            .iter()
            .map(|slot| decide::Slot {
                id: slot.id.clone(),
                revision: slot.revision.number,
                stage: match slot.stage {
                    Stage::Pulling | Stage::Starting => decide::Stage::Starting,
                    Stage::Ready { .. } => decide::Stage::Ready,
                    Stage::Draining => decide::Stage::Draining,
                },
            })
            .collect();
        let decision = decide(&slots, self.wanted.number, count);
        for id in decision.drain {
            self.drain(&id);
        }
        if !self.hopeless && self.backoff.until(Instant::now()).is_none() {
            for _ in 0..decision.launch {
                self.launch();
            }
        }
    }

    /// Makes a slot, registered before anything of it exists.
    fn slot(&mut self, id: ReplicaId, revision: Arc<Revision>, stage: Stage) -> Launch {
        let (exit, exited) = watch::channel(None);
        let slot = Slot {
            id: id.clone(),
            revision: revision.clone(),
            stage,
            progress: Progress::default(),
            exit,
            cancel: CancellationToken::new(),
            out_of_memory: false,
            task: None,
        };
        self.parts.registry.insert(id.clone(), self.sender.clone());
        let launch = Launch {
            id,
            revision,
            progress: slot.progress.clone(),
            exit: exited,
            cancel: slot.cancel.clone(),
            starting: self.starting.0.clone(),
        };
        self.slots.push(slot);
        launch
    }

    fn launch(&mut self) {
        let id = ReplicaId::new(&self.entry.key.name, revision::unique());
        let launch = self.slot(id.clone(), self.wanted.clone(), Stage::Pulling);
        let launcher = self.parts.launcher.clone();
        let own = id.clone();
        self.work(&own, async move { Done::Launched { id, result: launcher.launch(launch).await } });
    }

    /// Starts a task that works on a replica.
    fn work(&mut self, id: &ReplicaId, work: impl Future<Output = Done> + Send + 'static) {
        let task = self.tasks.spawn(work).id();
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) {
            slot.task = Some(task);
        }
    }

    /// Removes whatever there is of a replica.
    fn clean(&mut self, id: &ReplicaId) {
        let (launcher, gone) = (self.parts.launcher.clone(), id.clone());
        self.work(id, async move {
            launcher.clean(&gone).await;
            Done::Gone { id: gone }
        });
    }

    fn adopt(&mut self, survivor: Survivor) {
        let Survivor { id, revision, address } = survivor;
        let known = [Some(&self.wanted), self.serving.as_ref()];
        let Some(revision) = known.into_iter().flatten().find(|known| known.number == revision).cloned()
        else {
            return;
        };
        let launch = self.slot(id.clone(), revision, Stage::Starting);
        let (launcher, own) = (self.parts.launcher.clone(), id.clone());
        self.work(&own, async move {
            match launcher.adopt(launch, address).await {
                Some(endpoint) => Done::Launched { id, result: Ok(endpoint) },
                None => {
                    launcher.clean(&id).await;
                    Done::NotAdopted { id }
                }
            }
        });
    }

    /// Takes a replica out: no new calls, those in flight finish, then it goes.
    fn drain(&mut self, id: &ReplicaId) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        match &slot.stage {
            // The launch takes back what it made and then reports.
            Stage::Pulling | Stage::Starting => slot.cancel.cancel(),
            Stage::Draining => {}
            Stage::Ready { endpoint, .. } => {
                let endpoint = endpoint.clone();
                slot.stage = Stage::Draining;
                slot.cancel.cancel();
                let timeout = slot.revision.spec.timeout.unwrap_or(self.parts.config.timeout);
                let grace = self.parts.config.stop_grace;
                let (launcher, stop) = (self.parts.launcher.clone(), self.parts.stop.clone());
                let gone = id.clone();
                self.work(id, async move {
                    let end = Instant::now() + timeout + DRAIN_MARGIN;
                    // A call that chose this replica just before it was taken out is counted soon after.
                    loop {
                        tokio::time::sleep(DRAIN_CHECK).await;
                        if endpoint.load() == 0 || Instant::now() >= end || stop.is_cancelled() {
                            break;
                        }
                    }
                    launcher.stop(&gone, grace).await;
                    Done::Gone { id: gone }
                });
            }
        }
    }

    /// Takes a replica that cannot serve any more out at once.
    fn replace(&mut self, id: &ReplicaId, reason: &str) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        let Stage::Ready { since, .. } = &slot.stage else { return };
        tracing::warn!(function = %self.entry.key, replica = %id, "replica {reason}");
        self.backoff.failed(since.elapsed().max(Duration::from_nanos(1)), Instant::now());
        self.reason = Some(format!("replica {id} {reason}"));
        self.restarts += 1;
        slot.stage = Stage::Draining;
        slot.cancel.cancel();
        if slot.exit.borrow().is_some() {
            self.clean_ended(id);
        } else {
            self.clean(id);
        }
    }

    async fn finish(&mut self, done: Done) {
        match done {
            Done::Gone { id } | Done::NotAdopted { id } => self.forget(&id),
            Done::Ended { id, output } => {
                self.said(&id, output);
                self.forget(&id);
            }
            Done::Cleared { ids } => ids.iter().for_each(|id| self.forget(id)),
            Done::Launched { id, result: Ok(endpoint) } => self.ready(&id, endpoint).await,
            Done::Launched { id, result: Err(error) } => {
                let revision = self.slots.iter().find(|slot| slot.id == id).map(|slot| slot.revision.number);
                if let LaunchError::Exited { output, .. } = &error {
                    self.said(&id, output.clone());
                }
                self.forget(&id);
                let matters = !self.removing && !matches!(error, LaunchError::Cancelled);
                if matters && revision == Some(self.wanted.number) {
                    let reason = crate::chain(&error) + self.memory_note(&id);
                    self.launch_failed(reason, error.is_permanent()).await;
                }
            }
        }
    }

    /// A task ended in a panic. A start counts as one that failed, and what it made is removed; a
    /// removal is left to the reaper.
    async fn panicked(&mut self, error: JoinError) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.task == Some(error.id())) else { return };
        let (id, number) = (slot.id.clone(), slot.revision.number);
        tracing::error!(function = %self.entry.key, replica = %id, %error, "an error of the daemon");
        if matches!(slot.stage, Stage::Draining) {
            let task = slot.task;
            let gone = self.slots.iter().filter(|slot| slot.task == task);
            for id in gone.map(|slot| slot.id.clone()).collect::<Vec<_>>() {
                self.forget(&id);
            }
            return;
        }
        slot.stage = Stage::Draining;
        slot.cancel.cancel();
        self.clean(&id);
        if number == self.wanted.number {
            let function = self.entry.key.clone();
            let error = LaunchError::Panicked { function, source: error };
            self.launch_failed(crate::chain(&error), error.is_permanent()).await;
        }
    }

    async fn ready(&mut self, id: &ReplicaId, endpoint: Arc<Endpoint>) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == *id) else { return };
        let (called_off, ended) = (slot.cancel.is_cancelled(), *slot.exit.borrow());
        slot.stage = Stage::Ready { endpoint, since: Instant::now() };
        let revision = slot.revision.clone();
        if called_off {
            // It came up in the moment in which it was called off.
            self.drain(id);
            return;
        }
        if let Some(code) = ended {
            // It ended after its last probe, and that was told before this.
            self.exited(id, code);
            return;
        }
        self.watch_health(id);
        self.reason = None;
        if revision.number == self.wanted.number {
            self.serves(revision).await;
        }
    }

    /// Probes a replica that serves from time to time, if its function says how.
    fn watch_health(&self, id: &ReplicaId) {
        let Some(slot) = self.slots.iter().find(|slot| slot.id == *id) else { return };
        if let (Some(probe), Stage::Ready { endpoint, .. }) = (&slot.revision.spec.probes.health, &slot.stage)
        {
            let (endpoint, cancel) = (endpoint.clone(), slot.cancel.clone());
            tokio::spawn(health::watch(endpoint, probe.clone(), self.sender.clone(), cancel));
        }
    }

    async fn launch_failed(&mut self, reason: String, permanent: bool) {
        match self.serving.clone() {
            Some(serving) if serving.number != self.wanted.number => {
                tracing::warn!(
                    function = %self.entry.key, revision = self.wanted.number, serving = serving.number,
                    "the update did not come up; the revision that serves stays"
                );
                let mut record = self.record.clone();
                record.failure = Some(UpdateFailure { revision: self.wanted.number, reason });
                record.wanted = revision::to_record(&serving);
                record.serving = None;
                self.wanted = serving;
                if let Err(error) = self.keep(record.clone()).await {
                    tracing::error!(function = %self.entry.key, error = &error as &dyn std::error::Error, "not kept");
                    self.record = record;
                }
            }
            _ => {
                self.hopeless = permanent;
                self.backoff.failed(Duration::ZERO, Instant::now());
                self.restarts += 1;
                self.reason = Some(reason);
            }
        }
    }

    fn forget(&mut self, id: &ReplicaId) {
        self.slots.retain(|slot| slot.id != *id);
        self.parts.registry.remove(id);
    }
}
