//! Recovers an owner after a panic, from its stored record and the running replicas.

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::completions::TaskDone;
use super::slot::{Slot, Stage};
use super::{Owner, StoredFunction};
use crate::fleet::FleetError;
use crate::fleet::command::Command;
use model::function::ReplicaId;

impl Owner {
    /// The next owner of the same function. Replicas that serve are taken over with their calls, unless they
    /// are not among those that are `running`; all else that the old owner had begun is taken back.
    pub(in crate::fleet) fn recover(self, running: Option<&[ReplicaId]>, first: Option<Command>) -> Self {
        let Self {
            context,
            entry,
            publisher,
            inbox,
            sender,
            tasks,
            slots,
            restarts,
            last_exit,
            oom_kills,
            ..
        } = self;
        let mut removing = self.removing;
        let mut known = StoredFunction {
            record: self.record,
            wanted: self.wanted,
            serving: self.serving,
            history: self.history,
        };
        // What is stored under the name of one that is being removed belongs to the next of that name.
        if !removing {
            let read = context.store.function(&entry.key).map_err(FleetError::from).and_then(|stored| {
                let stored = stored.filter(|record| record.incarnation == entry.incarnation);
                removing = stored.is_none();
                stored.map(StoredFunction::read).transpose()
            });
            match read {
                Ok(stored) => known = stored.unwrap_or(known),
                Err(error) => {
                    tracing::error!(
                        function = %entry.key, error = &error as &dyn std::error::Error,
                        "its record cannot be read; going on with what is in memory"
                    );
                }
            }
        }
        let mut owner = Self {
            removing,
            restarts,
            last_exit,
            oom_kills,
            first,
            ..Self::idle(context, (entry, publisher), (sender, inbox), known)
        };
        let mut left = Vec::new();
        for slot in slots {
            // Ends its health probe; a start takes back what it has made.
            slot.cancel.cancel();
            if matches!(slot.stage, Stage::Ready { .. }) && running.is_none_or(|ids| ids.contains(&slot.id)) {
                let id = slot.id.clone();
                owner.slots.push(Slot { cancel: CancellationToken::new(), ..slot });
                owner.watch_health(&id);
            } else {
                left.push(slot.id.clone());
                owner.slots.push(Slot { stage: Stage::Draining, ..slot });
            }
        }
        owner.clear(tasks, left);
        owner
    }

    /// Waits until `until`, the next command, or the end of the daemon; returns the command.
    pub(in crate::fleet) async fn pause(&mut self, until: Option<Instant>) -> Option<Command> {
        let until = until?;
        tokio::select! {
            () = self.context.stop.cancelled() => None,
            () = tokio::time::sleep_until(until) => None,
            command = self.inbox.recv() => command,
        }
    }

    /// Lets the tasks of the old owner end, by which calls in flight finish, and removes what they left.
    fn clear(&mut self, mut tasks: JoinSet<TaskDone>, ids: Vec<ReplicaId>) {
        let (launcher, gone) = (self.context.launcher.clone(), ids.clone());
        let task = self.tasks.spawn(async move {
            while tasks.join_next().await.is_some() {}
            for id in &gone {
                launcher.clean(id).await;
            }
            TaskDone::Cleared { ids: gone }
        });
        let task = task.id();
        for slot in self.slots.iter_mut().filter(|slot| ids.contains(&slot.id)) {
            slot.task = Some(task);
        }
    }
}
