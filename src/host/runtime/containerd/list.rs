//! Lists what there is of replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{ListContainersRequest, ListTasksRequest};
use containerd_client::types::v1::{Process, Status as ProcessStatus};
use tokio::time::Instant;

use super::{Containerd, lock};
use crate::runtime::{ContainerRecord, ContainerState, RuntimeError, label};
use model::function::ReplicaId;

type Labels = BTreeMap<String, String>;

impl Containerd {
    /// See [`Runtime::containers`](crate::runtime::Runtime::containers). A snapshot without a
    /// container is what is left of a start that was cut off, and a control group, or notes of
    /// the OCI runtime, without either what is left of a shim that was killed: they are listed like containers.
    pub(super) async fn list_replicas(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let (mut found, snapshots, tasks) =
            tokio::try_join!(self.list_containers(), self.list_snapshots(), self.list_tasks())?;
        for (id, labels) in snapshots {
            found.entry(id).or_insert(labels);
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
        let request = ListContainersRequest { filters: vec![format!("labels.{:?}", label::FUNCTION)] };
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

    async fn list_snapshots(&self) -> Result<BTreeMap<String, Labels>, RuntimeError> {
        let failed = |status| self.client.error("listing snapshots", status);
        let request = ListSnapshotsRequest {
            snapshotter: self.images.snapshotter().to_owned(),
            filters: vec![format!("labels.{:?}", label::FUNCTION)],
        };
        let mut stream = SnapshotsClient::new(self.client.channel())
            .list(self.client.request(request))
            .await
            .map_err(failed)?
            .into_inner();
        let mut found = BTreeMap::new();
        while let Some(message) = stream.message().await.map_err(failed)? {
            for snapshot in message.info {
                found.insert(snapshot.name, snapshot.labels.into_iter().collect());
            }
        }
        Ok(found)
    }

    async fn list_tasks(&self) -> Result<HashMap<String, Process>, RuntimeError> {
        let request = self.client.request(ListTasksRequest::default());
        let answer = TasksClient::new(self.client.channel()).list(request).await;
        let tasks = answer.map_err(|status| self.client.error("listing tasks", status))?.into_inner().tasks;
        Ok(tasks.into_iter().map(|task| (task.id.clone(), task)).collect())
    }
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
