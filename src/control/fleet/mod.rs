//! What should run against what runs: one owner task per function.
//!
//! Invariants
//! - A function's owner is the only writer of its [`View`](directory::View); everyone else reads it through the
//!   [`Directory`], without a lock and without waiting.
//! - What the API has accepted is on disk before it is answered.
//! - An owner that panics is begun anew from what is stored, and takes over the replicas that serve. What works
//!   for all functions, and panics, is begun anew as well.

mod admission;
mod backoff;
mod claim;
mod command;
mod context;
mod decide;
mod error;
mod footprint;
mod health;
mod name_locks;
mod namespaces;
mod owner;
mod reaper;
mod replica_index;
mod revision;
mod status;
mod supervisor;
mod watcher;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::FleetError;

use crate::images::{Disk, DiskError};
use crate::replica::{Launcher, Revision};
use claim::Owned;
use command::Command;
use context::Context;
use directory::{CallStats, Directory, DirectoryWriter, Entry, StatsSnapshot};
use footprint::Footprints;
use host::bundles::Handlers;
use host::logs::Logs;
use host::network::Network;
use host::runtime::{ContainerRecord, ContainerState, Runtime, label, machine_memory};
use host::secrets::Secrets;
use host::store::{FunctionRecord, Store, StoreError, Tombstone, new_incarnation};
use model::config::Config;
use model::function::{FunctionKey, FunctionSpec, Incarnation, NamespaceName, PullPolicy};
use model::sync::lock;
use model::wire;
use name_locks::NameLocks;
use namespaces::Namespaces;
use owner::{AdoptableReplica, Owner, StoredFunction};
use reaper::Reaper;
use replica_index::ReplicaIndex;
use watcher::Watcher;

/// How often counts of calls are written to the store.
const KEEP_COUNTS_EVERY: Duration = Duration::from_secs(5);

/// The functions of this machine: what the API asks, and what changes them.
#[derive(Debug)]
pub struct Fleet {
    directory: Arc<Directory>,
    context: Arc<Context>,
    pull_policy: PullPolicy,
    namespaces: Namespaces,
    /// Held while a function is added, changed or taken out, so that two requests for one name follow each other.
    names: NameLocks,
    /// Held for moments, and never while anything is written.
    owners: Arc<Mutex<Owners>>,
    tasks: TaskTracker,
}

/// The owners' inboxes, and the directory in which their functions stand.
#[derive(Debug)]
struct Owners {
    inboxes: HashMap<FunctionKey, mpsc::Sender<Command>>,
    directory: DirectoryWriter,
}

impl Fleet {
    /// A fleet over the given parts, with nothing in it before [`Fleet::start`].
    pub fn new(
        config: &Config,
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn Network>,
        logs: Arc<Logs>,
        secrets: Secrets,
        handlers: Handlers,
        store: Arc<Store>,
    ) -> Result<Arc<Self>, FleetError> {
        let launcher = Launcher::new(
            runtime.clone(),
            network.clone(),
            logs.clone(),
            secrets.clone(),
            handlers.clone(),
            config.functions.clone(),
            config.images.pull_policy,
        );
        let namespaces = Namespaces::load(&store)?;
        let disk = Disk::new(&config.images, runtime.clone(), store.clone(), logs.clone(), handlers.clone());
        let context = Context {
            runtime,
            network,
            disk: Arc::new(disk),
            launcher: Arc::new(launcher),
            store,
            logs,
            secrets,
            handlers,
            replica_index: ReplicaIndex::default(),
            config: config.functions.clone(),
            default_memory: config.functions.memory.of(machine_memory()),
            allowed_images: config.images.allowed.clone(),
            stop: CancellationToken::new(),
            remains: std::sync::Mutex::default(),
        };
        let (directory, writer) = Directory::new();
        let owners = Owners { inboxes: HashMap::new(), directory: writer };
        Ok(Arc::new(Self {
            directory,
            context: Arc::new(context),
            pull_policy: config.images.pull_policy,
            namespaces,
            names: NameLocks::default(),
            owners: Arc::new(Mutex::new(owners)),
            tasks: TaskTracker::new(),
        }))
    }

    /// What can be called.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The code that functions may be given beside their image.
    pub fn handlers(&self) -> &Handlers {
        &self.context.handlers
    }

    /// What is on the disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.context.disk
    }

    /// Removes now what would be removed later: what is left of replicas, and what nobody uses. With `orphans`,
    /// removes containers too that belong to no function of this state directory.
    pub async fn prune(&self, orphans: bool) -> Result<wire::Pruned, DiskError> {
        if self.context.store.is_held() {
            return self.abandon(orphans).await;
        }
        Reaper(self.context.clone()).reap(orphans).await;
        if let Err(error) = self.context.store.prune().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "rows of an earlier version are kept");
        }
        self.context.disk.prune().await
    }

    /// Has the state directory, which is missing, begin anew, and removes the containers of the other one, if that is
    /// what was asked for.
    async fn abandon(&self, orphans: bool) -> Result<wire::Pruned, DiskError> {
        let store = &self.context.store;
        if !orphans {
            store.check()?;
        }
        for container in self.context.runtime.containers().await? {
            self.context.launcher.try_clean(&container.id).await;
        }
        store.abandon()?;
        Ok(wire::Pruned { images: Vec::new(), freed: 0 })
    }

    /// Has the state directory, which is missing, go on with the functions that run. The daemon begins anew with it.
    pub async fn adopt_store(&self) -> Result<(), StoreError> {
        let store = self.context.store.clone();
        let adopted = tokio::task::spawn_blocking(move || store.adopt()).await;
        adopted.unwrap_or(Err(StoreError::Closed))
    }

    /// Whether all that is kept can be used; orphans are those of the reaper's last look.
    pub fn store_status(&self) -> wire::StoreStatus {
        let store = &self.context.store;
        let set_aside = store.set_aside().into_iter().map(|aside| wire::SetAside {
            subject: aside.subject,
            path: aside.path.display().to_string(),
            reason: aside.reason,
        });
        wire::StoreStatus {
            identity: store.identity().to_owned(),
            out_of_service: store.absence().map(|error| model::error::chain(&error)),
            set_aside: set_aside.collect(),
            orphans: lock(&self.context.remains).orphans.clone(),
        }
    }

    /// Begins with an empty store of queued calls, beside one that cannot be opened; returns where that is then.
    pub async fn repair_store(&self) -> Result<PathBuf, StoreError> {
        self.context.store.repair().await
    }

    /// Deploys what the newest file of a function says that was set aside; returns the number of the revision. If the
    /// function is not there, the revisions come back that the file keeps.
    pub async fn accept(&self, key: &FunctionKey) -> Result<u64, FleetError> {
        let store = &self.context.store;
        let (path, record) =
            store.edited_function(key)?.ok_or_else(|| FleetError::NothingSetAside(key.clone()))?;
        let deployment = record.wanted.deployment.clone();
        let number = if self.directory.get(key).is_some() {
            self.deploy(deployment, true).await?
        } else {
            self.deploy_anew(deployment, false, Some(record)).await?
        };
        store.discard(path).await?;
        Ok(number)
    }

    /// Brings back every function that was deployed: takes up the replicas that outlived the last
    /// daemon, starts the others, and removes what belongs to none. Returns when all functions can
    /// be found; their replicas may still be starting.
    pub async fn start(&self) -> Result<(), FleetError> {
        // Listening begins before looking, so that nothing that happens in between is missed.
        let events = self.context.runtime.events();
        let watcher = Watcher(self.context.clone());
        let mut records = self.context.store.functions()?;
        self.context.left(self.context.store.tombstones());
        let containers = watcher.list().await;
        for record in claim::lost(&self.context, &containers).await {
            tracing::warn!(
                function = %record.key, revision = record.wanted.number,
                "the record of a function is lost; it is taken up again from its container"
            );
            self.context.store.put_function(&record).await?;
            records.push(record);
        }
        // A kill may have come between taking a function's record and its files.
        self.context.disk.discard_output().await?;
        let mut adoptable = adoptable(containers);
        let mut owners = self.owners.lock().await;
        let mut entries = Vec::with_capacity(records.len());
        let mut wanted = Vec::new();
        for record in records {
            let key = record.key.clone();
            let known = match StoredFunction::read(record) {
                Ok(known) => known,
                Err(error) => {
                    // Stored by a version with other rules. Kept: a version that knows it can run it.
                    tracing::error!(function = %key, error = &error as &dyn std::error::Error, "the stored function is not valid; not started");
                    continue;
                }
            };
            let stats = self.restored_stats(&key, &known.record.incarnation);
            let mut adoptable = adoptable.remove(&key).unwrap_or_default();
            let own = &known.record.incarnation;
            adoptable.retain(|replica| replica.incarnation.as_ref().is_none_or(|life| life == own));
            // That of a function that is scaled to zero is fetched when it is called, if it is not here.
            if known.record.desired > 0 {
                wanted.push(known.wanted.image.clone());
            }
            entries.push(self.add(&mut owners, known, adoptable, stats));
        }
        self.context.disk.expect(wanted).await;
        owners.directory.insert(entries);
        drop(owners);
        let mut events = Some(events);
        self.keep("what brings containers' events to functions", move || watcher.clone().run(events.take()));
        let reaper = Reaper(self.context.clone());
        self.keep("what removes what nobody owns", move || reaper.clone().run());
        let footprints = Footprints(self.context.clone());
        self.keep("the measurement of replicas", move || footprints.clone().run());
        let (directory, context) = (self.directory.clone(), self.context.clone());
        self.keep("what keeps the counts of calls", move || keep_counts(directory.clone(), context.clone()));
        Ok(())
    }

    /// The counts of a function's calls so far, if they can be read.
    fn restored_stats(&self, key: &FunctionKey, incarnation: &Incarnation) -> CallStats {
        if self.context.store.absence().is_some() {
            // Which was said.
            return CallStats::default();
        }
        let counts = self.context.store.counts::<StatsSnapshot>(key, incarnation).unwrap_or_else(|error| {
            tracing::error!(function = %key, error = &error as &dyn std::error::Error, "counts of calls cannot be read; they begin anew");
            None
        });
        CallStats::restored(&counts.unwrap_or_default())
    }

    /// Is set when it is told to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.context.stop.clone()
    }

    /// Has something done until the daemon stops. Work that ends before, or panics, is begun anew.
    pub fn keep<F>(&self, what: &'static str, work: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(supervisor::keep(what, self.context.stop.clone(), work));
    }

    /// Stops looking after functions; their replicas run on. Returns when all is on disk.
    pub async fn stop(&self) {
        self.context.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        write_counts(&self.directory, &self.context, &mut HashMap::new());
        self.context.store.close().await;
    }

    fn add(
        &self,
        owners: &mut Owners,
        known: StoredFunction,
        adoptable: Vec<AdoptableReplica>,
        stats: CallStats,
    ) -> Arc<Entry> {
        let key = known.record.key.clone();
        let owner = Box::new(Owner::new(self.context.clone(), known, adoptable, stats));
        let (entry, inbox) = (owner.entry().clone(), owner.sender().clone());
        owners.inboxes.insert(key.clone(), inbox.clone());
        let (directory, context) = (self.directory.clone(), self.context.clone());
        let owners = self.owners.clone();
        let removal = Tombstone { key: key.clone(), incarnation: entry.incarnation.clone() };
        self.tasks.spawn(async move {
            supervisor::run(owner, &*context.runtime).await;
            if context.stop.is_cancelled() {
                return;
            }
            // Whoever removed it has done this, unless the answer was lost when the owner panicked.
            let mut owners = owners.lock().await;
            if owners.inboxes.get(&key).is_some_and(|owner| owner.same_channel(&inbox)) {
                owners.inboxes.remove(&key);
                owners.directory.remove(&key);
            }
            drop(owners);
            // Its last replica may have written after the function's files were removed. A function
            // of the same name that was deployed meanwhile keeps them.
            if directory.get(&key).is_none() {
                context.logs.remove(&key).await;
            }
            // It goes once nothing is left.
            context.left(vec![removal]);
            context.launcher.reap_soon();
        });
        entry
    }

    /// Takes a deployment: returns its revision's number once it is valid, its image's manifest is
    /// resolved and it is on disk. Pulling and starting go on. With `only_update`, a function that is
    /// not there is an error.
    pub async fn deploy(&self, deployment: wire::Deployment, only_update: bool) -> Result<u64, FleetError> {
        self.deploy_anew(deployment, only_update, None).await
    }

    /// The same; a function that was not there goes on with the life and the revisions of this record of it.
    async fn deploy_anew(
        &self,
        deployment: wire::Deployment,
        only_update: bool,
        record: Option<FunctionRecord>,
    ) -> Result<u64, FleetError> {
        let spec = FunctionSpec::try_from(&deployment)?;
        spec.check_settings()?;
        admission::check_schedule(&spec)?;
        let Context { config, allowed_images, .. } = &*self.context;
        admission::check_allowed(&spec, &config.allowed_capabilities, allowed_images)?;
        let key = spec.key.clone();
        self.namespaces.check(&key.namespace)?;
        if only_update && self.directory.get(&key).is_none() {
            return Err(FleetError::NotFound(key));
        }
        admission::check_secrets(&self.context.secrets, &spec)?;
        // Until it is on disk that the function uses it.
        let mut pin = self.context.disk.pin(&spec.image).await;
        // The one slow step, before anything is changed or locked.
        let policy = spec.pull_policy.unwrap_or(self.pull_policy);
        let image = self.context.runtime.resolve(&spec.image, policy).await?;
        pin.resolved(&image.digest);
        // Last of what may take long, from when on it is kept for a while.
        admission::check_handler(&self.context.handlers, &spec)?;
        admission::check_command(&image, &spec, &self.context.config.watchdog)?;
        self.context.disk.check_room(&image).await?;
        let (life, mut kept) = record
            .map_or_else(|| (new_incarnation(), Vec::new()), |record| (record.incarnation, record.revisions));
        kept.retain(|revision| revision::from_record(revision).is_ok());
        let revision = Revision {
            number: 1 + kept.iter().map(|revision| revision.number).max().unwrap_or(0),
            deployment: Arc::new(deployment),
            spec: Arc::new(spec),
            created_at: jiff::Timestamp::now(),
            image,
            default_memory: true,
        };

        let _name = self.names.lock(&key).await;
        let inbox = {
            let owners = self.owners.lock().await;
            // It may have been deleted meanwhile. From here on it is not, because the name is held.
            self.namespaces.check(&key.namespace)?;
            owners.inboxes.get(&key).cloned()
        };
        if let Some(inbox) = inbox {
            return self.ask(&inbox, |done| Command::Deploy { revision: Box::new(revision), done }).await?;
        }
        if only_update {
            return Err(FleetError::NotFound(key));
        }
        let record = FunctionRecord {
            key: key.clone(),
            incarnation: life,
            wanted: revision::to_record(&revision),
            serving: None,
            desired: revision.spec.scale.min,
            last_revision: revision.number,
            failure: None,
            node: None,
            revisions: kept,
        };
        self.context.store.put_function(&record).await?;
        let number = revision.number;
        tracing::info!(function = %key, revision = number, image = %revision.spec.image, "deployed");
        let mut owners = self.owners.lock().await;
        let entry =
            self.add(&mut owners, StoredFunction::new(record, revision), Vec::new(), CallStats::default());
        owners.directory.insert([entry]);
        Ok(number)
    }

    /// Goes back to an old revision that served: `to`, or else the newest before the one that is wanted
    /// now. Returns the number of the new revision that this makes, when it is on disk; starting goes on.
    pub async fn rollback(&self, key: &FunctionKey, to: Option<u64>) -> Result<u64, FleetError> {
        let inbox = self.inbox(key).await?;
        self.ask(&inbox, |done| Command::Rollback { to, done }).await?
    }

    /// Sends a command and waits for its answer.
    async fn ask<T>(
        &self,
        inbox: &mpsc::Sender<Command>,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, FleetError> {
        let (done, answer) = oneshot::channel();
        inbox.send(command(done)).await.map_err(|_| FleetError::ShuttingDown)?;
        answer.await.map_err(|_| {
            if self.context.stop.is_cancelled() { FleetError::ShuttingDown } else { FleetError::BrokeOff }
        })
    }

    /// Where a function's owner is told things.
    async fn inbox(&self, key: &FunctionKey) -> Result<mpsc::Sender<Command>, FleetError> {
        let owners = self.owners.lock().await;
        owners.inboxes.get(key).cloned().ok_or_else(|| FleetError::NotFound(key.clone()))
    }

    /// Removes a function: calls get 404 from now on, its replicas drain and go.
    pub async fn remove(&self, key: &FunctionKey) -> Result<(), FleetError> {
        let _name = self.names.lock(key).await;
        let inbox = self.inbox(key).await?;
        self.ask(&inbox, |done| Command::Remove { done }).await??;
        let mut owners = self.owners.lock().await;
        owners.inboxes.remove(key);
        owners.directory.remove(key);
        tracing::info!(function = %key, "removed");
        Ok(())
    }

    /// Sets how many replicas there should be, up to the function's own limit; 0 stops it until it
    /// is called.
    pub async fn scale(&self, key: &FunctionKey, replicas: u32) -> Result<(), FleetError> {
        let inbox = self.inbox(key).await?;
        self.ask(&inbox, |done| Command::Scale { replicas, done }).await?
    }

    /// How the functions of a namespace are.
    pub fn list(&self, namespace: &NamespaceName) -> Result<Vec<wire::FunctionStatus>, FleetError> {
        self.namespaces.check(namespace)?;
        let mut entries = self.directory.all();
        entries.retain(|entry| entry.key.namespace == *namespace);
        Ok(entries.iter().map(|entry| status::of(entry)).collect())
    }

    /// How a function is.
    pub fn describe(&self, key: &FunctionKey) -> Result<wire::FunctionStatus, FleetError> {
        Ok(status::with_history(&*self.entry(key)?))
    }

    /// What a function uses, measured over a short while.
    pub async fn usage(&self, key: &FunctionKey) -> Result<wire::Usage, FleetError> {
        Ok(status::usage(&*self.context.runtime, &self.entry(key)?.view()).await)
    }

    fn entry(&self, key: &FunctionKey) -> Result<Arc<Entry>, FleetError> {
        self.directory.get(key).ok_or_else(|| FleetError::NotFound(key.clone()))
    }

    /// All namespaces, the default one included, sorted.
    pub fn namespaces(&self) -> Vec<wire::Namespace> {
        self.namespaces.all()
    }

    /// Makes a namespace.
    pub async fn create_namespace(&self, namespace: wire::Namespace) -> Result<(), FleetError> {
        self.namespaces.put(&self.context.store, namespace, true).await
    }

    /// Replaces a namespace's labels and annotations.
    pub async fn update_namespace(&self, namespace: wire::Namespace) -> Result<(), FleetError> {
        self.namespaces.put(&self.context.store, namespace, false).await
    }

    /// Deletes a namespace that has no functions.
    pub async fn delete_namespace(&self, name: &NamespaceName) -> Result<(), FleetError> {
        let deletion = self.namespaces.begin_delete().await;
        let taken = {
            // No function is added meanwhile, nor after the namespace was taken out.
            let owners = self.owners.lock().await;
            let function = owners.inboxes.keys().find(|key| key.namespace == *name).cloned();
            if let Some(key) = function.or_else(|| self.names.any_of(name)) {
                return Err(FleetError::NamespaceInUse {
                    namespace: name.clone(),
                    reason: format!("it has functions, among them {}; remove them first", key.name),
                });
            }
            deletion.take(name)?
        };
        taken.delete(&self.context.store).await
    }
}

/// Containers that run and say whose they are, by function.
fn adoptable(containers: Vec<ContainerRecord>) -> BTreeMap<FunctionKey, Vec<AdoptableReplica>> {
    let mut found: BTreeMap<FunctionKey, Vec<AdoptableReplica>> = BTreeMap::new();
    for container in containers {
        let ContainerState::Running { .. } = container.state else { continue };
        let Some(owned) = Owned::of(&container) else { continue };
        let text = |key: &str| container.labels.get(key).map(String::as_str).unwrap_or_default();
        let (Ok(revision), Ok(address), Ok(port)) = (
            text(label::REVISION).parse(),
            text(label::ADDRESS).parse::<IpAddr>(),
            text(label::PORT).parse(),
        ) else {
            continue;
        };
        found.entry(owned.key).or_default().push(AdoptableReplica {
            id: container.id,
            incarnation: owned.incarnation,
            revision,
            address: SocketAddr::new(address, port),
        });
    }
    found
}

/// Writes counts of calls from time to time, until the daemon stops.
async fn keep_counts(directory: Arc<Directory>, context: Arc<Context>) {
    let mut kept = HashMap::new();
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(KEEP_COUNTS_EVERY) => write_counts(&directory, &context, &mut kept),
        }
    }
}

/// Writes the counts of those functions that were called since `kept` was noted.
fn write_counts(directory: &Directory, context: &Context, kept: &mut HashMap<FunctionKey, u64>) {
    let mut changed = Vec::new();
    kept.retain(|key, _| directory.get(key).is_some());
    for entry in directory.all() {
        let calls = entry.stats.invocations();
        if kept.insert(entry.key.clone(), calls).unwrap_or(0) != calls {
            changed.push((entry.key.clone(), entry.incarnation.clone(), entry.stats.snapshot()));
        }
    }
    if changed.is_empty() || context.store.absence().is_some() {
        return;
    }
    if let Err(error) = context.store.put_counts(&changed) {
        tracing::error!(error = &error as &dyn std::error::Error, "counts of calls could not be kept");
    }
}
