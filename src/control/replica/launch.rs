//! The launch of one replica.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::probe::{self, Probed};
use super::{LaunchError, Revision, needs_watchdog};
use directory::Endpoint;
use host::bundles::Handlers;
use host::logs::Logs;
use host::network::{Attachment, Network};
use host::runtime::{ContainerRequest, LayerRequest, Progress, Runtime, Stdio, machine_memory};
use host::secrets::Secrets;
use model::config;
use model::function::{Incarnation, PullPolicy, ReplicaId};

/// Lines of output that an error carries.
const ERROR_LINES: usize = 5;
/// Time that a watchdog may take to read and write beyond the limit of its function.
const WATCHDOG_MARGIN: Duration = Duration::from_secs(2);

/// How long a watchdog still takes requests after SIGTERM. A replica is told to leave once it has no calls.
const WATCHDOG_LEAVES: Duration = Duration::from_millis(10);

/// What one launch is given.
#[derive(Debug)]
pub struct Launch {
    /// The replica's id.
    pub id: ReplicaId,
    /// What it runs.
    pub revision: Arc<Revision>,
    /// The life of the function that it belongs to.
    pub incarnation: Incarnation,
    /// The identity of the state directory that the function is in.
    pub state: Box<str>,
    /// The function's record, for the container to carry.
    pub record: Vec<u8>,
    /// Counts the bytes of the pull.
    pub progress: Progress,
    /// Set when the replica's process ends.
    pub exit: watch::Receiver<Option<u32>>,
    /// Set when the replica is not wanted any more.
    pub cancel: CancellationToken,
    /// Told when the pull is over and the container is being made.
    pub starting: tokio::sync::mpsc::UnboundedSender<ReplicaId>,
}

/// Starts and stops replicas: holds the parts that this takes.
#[derive(Debug)]
pub struct Launcher {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) network: Arc<dyn Network>,
    pub(super) logs: Arc<Logs>,
    secrets: Secrets,
    handlers: Handlers,
    config: config::Functions,
    /// Value of `functions.memory` on this machine, in bytes.
    default_memory: u64,
    /// That of functions which name none.
    pull_policy: PullPolicy,
    /// Starting a container is bound by the processor: more at a time than cores makes all of them
    /// late.
    starts: Semaphore,
    /// Rung when something could not be removed.
    pub(super) left: Notify,
}

impl Launcher {
    /// A launcher over the given parts.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn Network>,
        logs: Arc<Logs>,
        secrets: Secrets,
        handlers: Handlers,
        config: config::Functions,
        pull_policy: PullPolicy,
    ) -> Self {
        let starts = Semaphore::new(config.parallel_starts);
        let default_memory = config.memory.of(machine_memory());
        let left = Notify::new();
        Self { runtime, network, logs, secrets, handlers, config, default_memory, pull_policy, starts, left }
    }

    /// Starts a replica and returns it when it answers. On an error nothing of it is left.
    pub async fn launch(&self, mut launch: Launch) -> Result<Arc<Endpoint>, LaunchError> {
        let mut undo = Vec::new();
        let result = self.steps(&mut launch, &mut undo).await;
        if let Err(error) = &result {
            if !matches!(error, LaunchError::Cancelled) {
                tracing::warn!(
                    function = %launch.revision.spec.key, replica = %launch.id,
                    error = error as &dyn std::error::Error, "replica did not start"
                );
            }
            self.undo(&launch.id, undo).await;
        }
        result
    }

    async fn steps(&self, launch: &mut Launch, undo: &mut Vec<Step>) -> Result<Arc<Endpoint>, LaunchError> {
        let Launch { id, revision, progress, cancel, .. } = &*launch;
        let (id, revision) = (id.clone(), revision.clone());
        let spec = &revision.spec;
        let mut watch = Stopwatch::start();
        let policy = spec.pull_policy.unwrap_or(self.pull_policy);
        // A pull may be cut off at any time: what has arrived is kept, and nothing else is made yet.
        let image = tokio::select! {
            pulled = self.runtime.pull(&revision.image, policy, progress) => pulled.map_err(LaunchError::Pull)?,
            () = cancel.cancelled() => return Err(LaunchError::Cancelled),
        };
        let permit = tokio::select! {
            permit = self.starts.acquire() => permit.map_err(|_| LaunchError::Cancelled)?,
            () = cancel.cancelled() => return Err(LaunchError::Cancelled),
        };
        let pull = watch.lap();
        // From here on each step runs to its end before the next look at `cancel`, so that its undo
        // finds all or nothing of it.
        let _ = launch.starting.send(id.clone());
        let mut mounts = self.secrets.mount(&spec.key.namespace, &spec.secrets)?;
        if let Some(handler) = &spec.handler {
            mounts.push(self.handlers.mount(handler)?);
        }
        undo.push(Step::Logs);
        let stdio: Stdio = self.logs.open(&spec.key, &id)?;
        undo.push(Step::Network);
        undo.push(Step::Container);
        let layer = LayerRequest {
            id: id.clone(),
            spec: spec.clone(),
            revision: revision.number,
            incarnation: launch.incarnation.clone(),
            state: launch.state.clone(),
            image: image.clone(),
        };
        // Each takes some milliseconds, most of them waiting: for the kernel here, for the disk there.
        // Both to their end, also when one fails, so that the undo finds all of it.
        let (attached, prepared) = tokio::join!(self.network.attach(&id), self.runtime.prepare(&layer));
        let attachment: Attachment =
            attached.map_err(|source| LaunchError::Network { function: spec.key.clone(), source })?;
        prepared.map_err(LaunchError::Container)?;
        let network = watch.lap();
        mounts.extend(attachment.files);
        let request = ContainerRequest {
            id: id.clone(),
            spec: spec.clone(),
            revision: revision.number,
            incarnation: launch.incarnation.clone(),
            state: launch.state.clone(),
            record: std::mem::take(&mut launch.record),
            image,
            address: attachment.address,
            netns: attachment.netns,
            stdio,
            mounts,
            env: watchdog_env(&revision, self.config.timeout),
            pids: spec.pids.unwrap_or(self.config.pids),
            memory: match &spec.limits.memory {
                Some(limit) => Some(limit.bytes()),
                None => revision.default_memory(self.default_memory),
            },
            watchdog: needs_watchdog(spec, &revision.image.config).then(|| self.config.watchdog.clone()),
        };
        self.runtime.create(&request).await.map_err(LaunchError::Container)?;
        let create = watch.lap();
        if launch.cancel.is_cancelled() {
            return Err(LaunchError::Cancelled);
        }
        self.runtime.start(&id).await.map_err(LaunchError::Container)?;
        let start = watch.lap();
        drop(permit);
        let address = SocketAddr::new(attachment.address, spec.port);
        self.probe(launch, address).await?;
        let probe = watch.lap();
        tracing::debug!(replica = %id, ?pull, ?network, ?create, ?start, ?probe, "replica answers");
        Ok(Endpoint::new(id, address))
    }

    /// Takes up a replica that outlived the daemon. `None` when it does not answer any more: the
    /// caller then removes it like any other left-over.
    pub async fn adopt(&self, mut launch: Launch, address: SocketAddr) -> Option<Arc<Endpoint>> {
        let key = &launch.revision.spec.key;
        let attached = self.network.adopt(&launch.id, address.ip()).await;
        if !matches!(attached, Ok(Some(_))) {
            return None;
        }
        self.logs.open(key, &launch.id).ok()?;
        self.probe(&mut launch, address).await.ok()?;
        Some(Endpoint::new(launch.id, address))
    }

    async fn probe(&self, launch: &mut Launch, address: SocketAddr) -> Result<(), LaunchError> {
        let function = launch.revision.spec.key.clone();
        let limit = self.config.start_timeout;
        let accepts = |port| self.network.accepts(&launch.id, port);
        let ready = probe::until_ready(address, &launch.revision, limit, accepts);
        tokio::select! {
            // The exit comes first: a process that answered and died is no replica.
            biased;
            () = launch.cancel.cancelled() => Err(LaunchError::Cancelled),
            code = exit_code(&mut launch.exit) => {
                let output = self.logs.last_words(&launch.id, ERROR_LINES).await;
                Err(LaunchError::Exited { function, code, output })
            }
            probed = ready => match probed {
                Probed::Ready => Ok(()),
                Probed::TimedOut { last } => {
                    let output = self.logs.last_burst(&launch.id, ERROR_LINES);
                    Err(LaunchError::NotReady { function, limit, last, output })
                }
            },
        }
    }
}

/// Returns the variables by which a watchdog is told of the function's timeout. The function's own variables are
/// stronger; those of its image are unless the function names a timeout.
fn watchdog_env(revision: &Revision, default: Duration) -> BTreeMap<String, String> {
    let timeout = revision.timeout(default);
    let outer = timeout + WATCHDOG_MARGIN;
    let is_free = |name| revision.image.config.variable(name).is_none();
    let derived = [
        ("exec_timeout", timeout, true),
        ("read_timeout", outer, true),
        ("write_timeout", outer, true),
        ("healthcheck_interval", WATCHDOG_LEAVES, false),
    ];
    derived
        .into_iter()
        .filter(|(name, _, of_timeout)| is_free(name) || *of_timeout && revision.spec.timeout.is_some())
        .map(|(name, time, _)| (name.to_owned(), format!("{}ms", time.as_millis())))
        .collect()
}

/// Waits for the end of a replica's first process.
async fn exit_code(exit: &mut watch::Receiver<Option<u32>>) -> u32 {
    exit.wait_for(Option::is_some).await.ok().and_then(|code| *code).unwrap_or_default()
}

/// Times the steps of a launch.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the last lap.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now))
    }
}

/// What a launch has made, or has begun to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// FIFOs and their readers.
    Logs,
    /// Namespace, link, address, files.
    Network,
    /// Snapshot, container, task.
    Container,
}

impl Step {
    /// Every step, in the order of a launch.
    pub(super) const ALL: [Self; 3] = [Self::Logs, Self::Network, Self::Container];
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::question::tests::revision;

    #[test]
    fn a_timeout_is_the_functions_else_its_images_else_the_default() {
        let default = Duration::from_secs(60);
        let image = ["exec_timeout=150s", "write_timeout=155s"];
        for (own, image, timeout, write_timeout) in [
            (&[][..], &[][..], 60, Some("62000ms")),
            (&[("exec_timeout", "5s")], &[], 5, Some("7000ms")),
            // The image's own stays.
            (&[], &image, 150, None),
            (&[("exec_timeout", "200s")], &image, 200, Some("202000ms")),
            (&[], &["exec_timeout=0"], 60, Some("62000ms")),
            (&[], &["exec_timeout=soon"], 60, Some("62000ms")),
        ] {
            let revision = revision(&[], own, image);
            assert_eq!(revision.timeout(default), Duration::from_secs(timeout), "{own:?} {image:?}");
            let env = watchdog_env(&revision, default);
            assert_eq!(env.get("write_timeout").map(String::as_str), write_timeout, "{own:?} {image:?}");
        }
    }

    #[test]
    fn a_watchdog_leaves_at_once_unless_its_image_says_otherwise() {
        let interval = |image: &[&str]| {
            watchdog_env(&revision(&[], &[], image), Duration::from_secs(60)).remove("healthcheck_interval")
        };
        assert_eq!(interval(&[]).as_deref(), Some("10ms"));
        assert_eq!(interval(&["healthcheck_interval=5s"]), None);
    }
}
