//! Lists what there is of replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{GetContainerRequest, ListContainersRequest, ListTasksRequest};
use containerd_client::types::v1::{Process, Status as ProcessStatus};
use tokio::time::Instant;

use super::container::RECORD;
use super::{Containerd, lock};
use crate::runtime::{ContainerRecord, ContainerState, RuntimeError, label};
use model::function::ReplicaId;

type Labels = BTreeMap<String, String>;

impl Containerd {
    /// See [`Runtime::containers`](crate::runtime::Runtime::containers). A snapshot without a
    /// container is what is left of a start that was cut off, and a control group, or notes of
    /// the OCI runtime, without either what is left of a shim that was killed: they are listed like containers.
    pub(super) async fn list_replicas(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let snapshots = self.client.list_snapshots(self.images.snapshotter(), vec![ours()]);
        let (mut found, snapshots, tasks) =
            tokio::try_join!(self.list_containers(), snapshots, self.list_tasks())?;
        for snapshot in snapshots {
            found.entry(snapshot.name).or_insert_with(|| snapshot.labels.into_iter().collect());
        }
        let strays = self.strays.clone();
        // What has a task is somebody's, be it ours or not.
        let busy: BTreeSet<String> = tasks.keys().cloned().collect();
        let (strays, mut found) = tokio::task::spawn_blocking(move || {
            (strays.find(|id| found.contains_key(id) || busy.contains(id), Instant::now()), found)
        })
        .await
        .map_err(|error| RuntimeError::failed("looking for what replicas have left", error))?;
        found.extend(strays.into_iter().map(|id| (id.to_string(), Labels::new())));
        let mut pids = lock(&self.pids);
        Ok(found
            .into_iter()
            .map(|(id, labels)| {
                let state = tasks.get(&id).map_or(ContainerState::NoTask, state);
                let id = ReplicaId::from_existing(&id);
                if let ContainerState::Running { pid } = state {
                    pids.insert(id.clone(), pid);
                }
                ContainerRecord { id, labels, state }
            })
            .collect())
    }

    async fn list_containers(&self) -> Result<BTreeMap<String, Labels>, RuntimeError> {
        let failed = |status| self.client.error("listing containers", status);
        let request = ListContainersRequest { filters: vec![ours()] };
        // One message for each: they hold their specs, and together soon exceed a message's limit.
        let mut stream = ContainersClient::new(self.client.channel())
            .list_stream(self.client.request(request))
            .await
            .map_err(failed)?
            .into_inner();
        let mut found = BTreeMap::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            if let Some(container) = message.container {
                found.insert(container.id, container.labels.into_iter().collect());
            }
        }
        Ok(found)
    }

    /// See [`Runtime::record`](crate::runtime::Runtime::record).
    pub(super) async fn record_of(&self, id: &ReplicaId) -> Result<Option<Vec<u8>>, RuntimeError> {
        let request = self.client.request(GetContainerRequest { id: id.to_string() });
        let answer = ContainersClient::new(self.client.channel()).get(request).await;
        let found = self.client.found(answer, format_args!("reading container {id}"))?;
        let container = found.and_then(|answer| answer.container);
        Ok(container.and_then(|mut container| Some(container.extensions.remove(RECORD)?.value)))
    }

    async fn list_tasks(&self) -> Result<HashMap<String, Process>, RuntimeError> {
        let request = self.client.request(ListTasksRequest::default());
        let tasks = self.tasks().list(request).await;
        let tasks = tasks.map_err(|status| self.client.error("listing tasks", status))?.into_inner().tasks;
        Ok(tasks.into_iter().map(|task| (task.id.clone(), task)).collect())
    }
}

/// The filter for what belongs to functions.
fn ours() -> String {
    format!("labels.{:?}", label::FUNCTION)
}

fn state(task: &Process) -> ContainerState {
    match task.status() {
        ProcessStatus::Created => ContainerState::Created,
        ProcessStatus::Running => ContainerState::Running { pid: task.pid },
        ProcessStatus::Paused | ProcessStatus::Pausing => ContainerState::Paused,
        // Unknown is a shim that does not answer: nothing can be done with it but remove it.
        ProcessStatus::Stopped | ProcessStatus::Unknown => ContainerState::Stopped,
    }
}
