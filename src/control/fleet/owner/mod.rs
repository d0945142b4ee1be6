//! Owns one function: turns requests and events into launches and drains.
//!
//! Invariants
//! - This task is the only writer of the function's [`View`](directory::View) and of its record in the store.
//! - A replica is in `slots` from before its launch until all of it is gone.
//! - A revision that does not come up leaves the one that serves alone.
//!
//! ```text
//! a slot:  Pulling -> Starting -> Ready -> Draining -> gone
//!             \___________\__________\________^   (called off, exited, unhealthy)
//! ```

mod completions;
mod exits;
mod history;
mod publish;
mod recover;
mod replicas;
mod slot;
mod stored;

pub(super) use stored::{AdoptableReplica, StoredFunction};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::command::Command;
use super::context::Context;
use super::decide::{self, decide};
use super::{FleetError, revision};
use crate::replica::Revision;
use completions::TaskDone;
use directory::{Entry, KeptRevision, LastExit, Publisher};
use host::store::FunctionRecord;
use model::function::ReplicaId;
use slot::{Slot, Stage};

/// Commands that may wait for an owner.
const INBOX: usize = 64;
/// What a removal may take over `functions.stop_grace` when the daemon stops.
const LEAVE_MARGIN: Duration = Duration::from_secs(5);

/// The state of one function's task.
#[derive(Debug)]
pub(super) struct Owner {
    context: Arc<Context>,
    entry: Arc<Entry>,
    publisher: Publisher,
    inbox: mpsc::Receiver<Command>,
    sender: mpsc::Sender<Command>,
    starting: (mpsc::UnboundedSender<ReplicaId>, mpsc::UnboundedReceiver<ReplicaId>),
    tasks: JoinSet<TaskDone>,
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
    /// OOM kills in the function's replicas.
    oom_kills: u64,
    /// What it is to do first.
    first: Option<Command>,
}

impl Owner {
    /// The owner of a function that is on disk, with its first view.
    pub(super) fn new(
        context: Arc<Context>,
        known: StoredFunction,
        adoptable: Vec<AdoptableReplica>,
        stats: directory::CallStats,
    ) -> Self {
        let view = publish::first(&context, &known);
        let (entry, publisher) =
            Entry::new(known.record.key.clone(), known.record.incarnation.clone(), stats, view);
        let mut owner = Self::idle(context, (entry, publisher), mpsc::channel(INBOX), known);
        if owner.context.store.is_held() {
            owner.hopeless = true;
            owner.reason = owner.context.store.absence().map(|error| model::error::chain(&error));
        }
        for replica in adoptable {
            owner.adopt(replica);
        }
        owner
    }

    /// An owner that has done nothing yet.
    fn idle(
        context: Arc<Context>,
        (entry, publisher): (Arc<Entry>, Publisher),
        (sender, inbox): (mpsc::Sender<Command>, mpsc::Receiver<Command>),
        known: StoredFunction,
    ) -> Self {
        let StoredFunction { record, wanted, serving, history } = known;
        Self {
            context,
            entry,
            publisher,
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
            oom_kills: 0,
            first: None,
        }
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
    ///
    /// What is done now and then is boxed: most functions wait most of the time, and that must not take
    /// the room that the longest of these would.
    pub(super) async fn run(&mut self) {
        let stop = self.context.stop.clone();
        if let Some(command) = self.first.take() {
            Box::pin(self.obey(command)).await;
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
                    Box::pin(self.leave()).await;
                    return;
                }
                Some(command) = self.inbox.recv() => Box::pin(self.obey(command)).await,
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => Box::pin(self.finish(done)).await,
                    Err(error) => Box::pin(self.panicked(error)).await,
                },
                Some(id) = self.starting.1.recv() => {
                    if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id && matches!(slot.stage, Stage::Pulling)) {
                        slot.stage = Stage::Starting;
                    }
                }
                () = self.entry.wanted.notified() => Box::pin(self.wake()).await,
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
        let limit = self.context.config.stop_grace + LEAVE_MARGIN;
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!(function = %self.entry.key, "replicas could not be removed in time; the next start will do it");
        }
        self.tasks.detach_all();
    }

    async fn obey(&mut self, command: Command) {
        match command {
            // The client may have gone away; what was asked stands.
            Command::Deploy { revision, done } => drop(done.send(self.deploy(*revision).await)),
            Command::Rollback { to, done } => drop(done.send(self.roll_back(to).await)),
            Command::Scale { replicas, done } => drop(done.send(self.scale(replicas).await)),
            Command::Remove { done } => {
                let deleted = self.context.store.delete_function(&self.entry.key).await;
                let result = deleted.map(drop).map_err(FleetError::from);
                if result.is_ok() {
                    self.removing = true;
                    self.context.logs.remove(&self.entry.key).await;
                }
                let _ = done.send(result);
            }
            Command::Exited { id, code } => self.exited(&id, code),
            Command::OutOfMemory { id, kills } => self.out_of_memory(&id, kills),
            Command::OverDiskLimit { id, excess } => self.over_disk_limit(&id, &excess),
            Command::Unhealthy { id, reason } => self.replace(&id, &reason),
            Command::Listed(listing) => self.listed(&listing),
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
            return Err(FleetError::Invalid(model::function::Invalid::new(
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
                self.reason = Some(model::error::chain(&error));
            }
        }
    }

    /// Writes the record, unless the function is gone: what was begun before its removal, or asked
    /// in the same moment, must not bring it back.
    async fn keep(&mut self, record: FunctionRecord) -> Result<(), FleetError> {
        if self.removing {
            return Err(FleetError::NotFound(self.entry.key.clone()));
        }
        self.context.store.put_function(&record).await?;
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
}
