//! Starts, stops, measures and removes replicas.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::{RemoveSnapshotRequest, UsageRequest};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteTaskRequest, GetRequest, KillRequest, ResumeTaskRequest, StartRequest,
    WaitRequest,
};
use containerd_client::types::v1::{Process, Status as ProcessStatus};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::layer::Files;
use super::{Containerd, lock, shim};
use crate::private_file::{blocking, if_there};
use crate::runtime::{Footprint, RuntimeError, Usage};
use model::function::ReplicaId;

/// How long the kernel may take to end processes that were sent SIGKILL, and containerd to notice
/// that a shim is gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// The pause before something is tried again that containerd could not do yet.
const RETRY: Duration = Duration::from_millis(50);

impl Containerd {
    pub(super) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.client.channel())
    }

    /// See [`Runtime::start`](crate::runtime::Runtime::start).
    pub(super) async fn start_replica(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        let request = StartRequest { container_id: id.to_string(), exec_id: String::new() };
        let answer = self.tasks().start(self.client.process_request(request)).await;
        let pid = answer.map_err(|status| self.error("start", id, status))?.into_inner().pid;
        lock(&self.pids).insert(id.clone(), pid);
        Ok(())
    }

    /// See [`Runtime::stop`](crate::runtime::Runtime::stop).
    pub(super) async fn stop_replica(&self, id: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        let Some(process) = self.process(id).await? else { return Ok(()) };
        match process.status() {
            ProcessStatus::Stopped => return Ok(()),
            // Nothing in it can handle a signal yet.
            ProcessStatus::Created => {}
            _ => {
                self.thaw(id, &process).await;
                // A wait that comes after the end returns at once, for the task is not deleted here;
                // so nothing is lost between the two.
                let (_, ended) =
                    tokio::join!(self.kill(id, Signal::SIGTERM), timeout(grace, self.ended(id)),);
                if let Ok(ended) = ended {
                    return ended;
                }
                tracing::info!(replica = %id, "did not leave after SIGTERM; killing it");
            }
        }
        self.kill_all(id, Instant::now() + KILL_LIMIT).await
    }

    /// See [`Runtime::remove`](crate::runtime::Runtime::remove).
    pub(super) async fn remove_replica(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        self.remove_task(id).await?;
        lock(&self.pids).remove(id);
        shim::end(&self.socket, &self.namespace, id)
            .await
            .map_err(|error| RuntimeError::failed(format!("end of the shim of replica {id}"), error))?;
        // After the shim, which could start something in them still.
        self.remove_groups(id).await?;
        self.strays.remove_state(id).map_err(|error| {
            RuntimeError::failed(format!("removal of what the OCI runtime noted of replica {id}"), error)
        })?;
        let container = DeleteContainerRequest { id: id.to_string() };
        let snapshot =
            RemoveSnapshotRequest { snapshotter: self.images.snapshotter().to_owned(), key: id.to_string() };
        let mut containers = ContainersClient::new(self.client.channel());
        let mut snapshots = self.client.snapshots();
        let (container, snapshot) = tokio::join!(
            containers.delete(self.client.request(container)),
            snapshots.remove(self.client.request(snapshot)),
        );
        self.gone(container, "removal of the container", id)?;
        self.gone(snapshot, "removal of the snapshot", id)
    }

    /// Kills and deletes the task. It is killed first, whatever its state: the deletion of one that
    /// was never started waits two seconds for its output to end. For a moment after a shim has died
    /// containerd can do neither, so both are tried until the limit.
    async fn remove_task(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        let limit = Instant::now() + KILL_LIMIT;
        loop {
            self.kill_all(id, limit).await?;
            let request = DeleteTaskRequest { container_id: id.to_string() };
            let answer = self.tasks().delete(self.client.process_request(request)).await;
            let Err(error) = self.gone(answer, "removal of the task", id) else { return Ok(()) };
            if Instant::now() >= limit || self.is_down(&error).await {
                return Err(error);
            }
            sleep(RETRY).await;
        }
    }

    /// Removes control groups that the OCI runtime has left.
    async fn remove_groups(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        let limit = Instant::now() + KILL_LIMIT;
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            RuntimeError::failed(format!("removal of the control groups of replica {id}"), error)
        };
        loop {
            // Some look-ups in memory, where there is nothing to do.
            if self.hierarchies.remove(&self.namespace, id).map_err(|error| failed(error.into()))? {
                return Ok(());
            }
            if Instant::now() >= limit {
                return Err(failed("processes in them do not end".into()));
            }
            sleep(RETRY).await;
        }
    }

    /// See [`Runtime::usage`](crate::runtime::Runtime::usage).
    pub(super) async fn usage_of(&self, id: &ReplicaId) -> Result<Usage, RuntimeError> {
        let known = lock(&self.pids).get(id).copied();
        let pid = match known {
            Some(pid) => pid,
            None => match self.process(id).await? {
                Some(process) if process.status() != ProcessStatus::Stopped => {
                    lock(&self.pids).insert(id.clone(), process.pid);
                    process.pid
                }
                _ => return Err(not_running(id)),
            },
        };
        let hierarchies = self.hierarchies.clone();
        let replica = id.clone();
        let read = move || hierarchies.of(&replica, pid)?.map(|groups| groups.usage()).transpose();
        let usage = blocking(read)
            .await
            .map_err(|error| RuntimeError::failed(format!("measuring replica {id}"), error))?;
        usage.ok_or_else(|| {
            lock(&self.pids).remove(id);
            not_running(id)
        })
    }

    /// Implements [`Runtime::footprint`](crate::runtime::Runtime::footprint).
    pub(super) async fn footprint_of(&self, id: &ReplicaId) -> Result<Footprint, RuntimeError> {
        let gone = || RuntimeError::NotFound { what: format!("the layer of replica {id}") };
        let mounts = self.mounts(id).await?.ok_or_else(gone)?;
        let options = mounts.iter().flat_map(|mount| &mount.options);
        let upper = options.filter_map(|option| option.strip_prefix("upperdir=")).next().map(PathBuf::from);
        let is_measured_here = upper.is_some();
        let (hierarchies, namespace, replica) =
            (self.hierarchies.clone(), self.namespace.clone(), id.clone());
        let measure = move || {
            let mut files = Files::default();
            files.add_deleted(&hierarchies.processes(&namespace, &replica)?)?;
            if let Some(upper) = upper {
                files.add_layer(&upper).map_err(|error| match upper.exists() {
                    true => io::Error::other(error),
                    false => ErrorKind::NotFound.into(),
                })?;
            }
            Ok(files.sum())
        };
        let mut found = blocking(measure).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => gone(),
            _ => RuntimeError::failed(format!("measuring replica {id}"), error),
        })?;
        if !is_measured_here {
            let ask = UsageRequest { snapshotter: self.images.snapshotter().to_owned(), key: id.to_string() };
            let answer = self.client.snapshots().usage(self.client.process_request(ask)).await;
            let layer = self.client.found(answer, format_args!("measuring the layer of replica {id}"))?;
            let layer = layer.ok_or_else(gone)?;
            found.bytes += u64::try_from(layer.size).unwrap_or(0);
            found.files += u64::try_from(layer.inodes).unwrap_or(0);
        }
        Ok(found)
    }

    /// Implements [`Runtime::oom_kills`](crate::runtime::Runtime::oom_kills).
    pub(super) async fn oom_kills_of(&self, id: &ReplicaId) -> Result<u64, RuntimeError> {
        let (hierarchies, namespace, replica) =
            (self.hierarchies.clone(), self.namespace.clone(), id.clone());
        let count = blocking(move || if_there(hierarchies.killed_for_memory(&namespace, &replica))).await;
        let failed = |error| RuntimeError::failed(format!("counting the OOM kills of replica {id}"), error);
        Ok(count.map_err(failed)?.unwrap_or(0))
    }

    /// The first process, as containerd knows it.
    async fn process(&self, id: &ReplicaId) -> Result<Option<Process>, RuntimeError> {
        let request = GetRequest { container_id: id.to_string(), exec_id: String::new() };
        let answer = self.tasks().get(self.client.request(request)).await;
        let found = self.client.found(answer, format_args!("look at the task of replica {id}"))?;
        Ok(found.and_then(|answer| answer.process))
    }

    /// Lets a paused or frozen replica run again, so that it can handle a signal. Best effort: if it
    /// stays frozen, SIGKILL comes after the grace, and that the runtime delivers.
    async fn thaw(&self, id: &ReplicaId, process: &Process) {
        if matches!(process.status(), ProcessStatus::Paused | ProcessStatus::Pausing) {
            let request = ResumeTaskRequest { container_id: id.to_string() };
            if let Err(status) = self.tasks().resume(self.client.request(request)).await {
                tracing::debug!(replica = %id, error = %status, "could not be resumed");
            }
        }
        if let Ok(Some(groups)) = self.hierarchies.of(id, process.pid)
            && let Err(error) = groups.thaw()
        {
            tracing::debug!(replica = %id, %error, "could not be thawed");
        }
    }

    async fn kill(&self, id: &ReplicaId, signal: Signal) -> Result<(), RuntimeError> {
        let request = KillRequest {
            container_id: id.to_string(),
            signal: (signal as i32).cast_unsigned(),
            all: signal == Signal::SIGKILL,
            ..KillRequest::default()
        };
        let answer = self.tasks().kill(self.client.request(request)).await;
        // One that is not there has ended by itself.
        self.gone(answer, "killing", id)
    }

    /// SIGKILL, and waits until nothing of it runs.
    async fn kill_all(&self, id: &ReplicaId, limit: Instant) -> Result<(), RuntimeError> {
        let failed = self.kill(id, Signal::SIGKILL).await.err();
        match timeout_at(limit, self.ended(id)).await {
            Ok(ended) => ended,
            Err(_) => Err(failed
                .unwrap_or_else(|| RuntimeError::Timeout { operation: format!("killing replica {id}") })),
        }
    }

    /// Returns when nothing of the replica runs.
    async fn ended(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        loop {
            let request = WaitRequest { container_id: id.to_string(), exec_id: String::new() };
            match self.tasks().wait(self.client.unbounded(request)).await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::NotFound => return Ok(()),
                // The shim died: containerd finds out by itself and cleans up.
                Err(status) => tracing::debug!(replica = %id, error = %status, "waiting again"),
            }
            match self.process(id).await {
                Ok(None) => return Ok(()),
                Ok(Some(process)) if process.status() == ProcessStatus::Stopped => return Ok(()),
                Err(error) if self.is_down(&error).await => return Err(error),
                Ok(Some(_)) | Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// Whether the error means that containerd cannot be reached: what it says of a dead shim looks
    /// like its own absence.
    async fn is_down(&self, error: &RuntimeError) -> bool {
        matches!(error, RuntimeError::Down { .. }) && super::version(&self.client).await.is_err()
    }

    fn gone<T>(
        &self,
        answer: Result<Response<T>, Status>,
        what: &str,
        id: &ReplicaId,
    ) -> Result<(), RuntimeError> {
        self.client.found(answer, format_args!("{what} of replica {id}")).map(drop)
    }

    fn error(&self, what: &str, id: &ReplicaId, status: Status) -> RuntimeError {
        match status.code() {
            Code::NotFound => RuntimeError::NotFound { what: format!("replica {id}") },
            _ => self.client.error(format!("{what} of replica {id}"), status),
        }
    }
}

fn not_running(id: &ReplicaId) -> RuntimeError {
    RuntimeError::NotFound { what: format!("a running process of replica {id}") }
}
