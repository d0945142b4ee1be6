//! What every [`Runtime`] must do: one account, checked on the fake and on containerd.

use std::sync::Arc;
use std::time::Duration;

use host::runtime::{ContainerRequest, ContainerState, Image, Runtime, RuntimeError, RuntimeEvent};
use model::function::ReplicaId;
use tokio::sync::broadcast::Receiver;

/// How a container of the contract behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Runs until SIGTERM, then leaves with code 0.
    Serves,
    /// Runs, whatever signal comes.
    IgnoresTerm,
    /// Leaves at once with this code.
    Exits(u8),
}

const GRACE: Duration = Duration::from_secs(10);
/// For those that are not going to use it.
const SHORT: Duration = Duration::from_millis(200);

/// Checks `runtime`, which has no containers. `request` makes a request for a replica that is unlike
/// all others made with it; `ready` returns when a started replica does what it was made for, signals
/// included.
pub(crate) async fn runtime_contract(
    runtime: Arc<dyn Runtime>,
    request: impl Fn(Behaviour) -> ContainerRequest,
    ready: impl AsyncFn(&ReplicaId),
) {
    assert!(!runtime.version().await.expect("a version").is_empty());
    assert_eq!(runtime.containers().await.expect("a list"), []);
    let mut events = runtime.events();

    a_replica_lives_and_goes(&*runtime, &mut events, request(Behaviour::Serves), &ready).await;
    an_end_is_told_with_its_code(&*runtime, &mut events, request(Behaviour::Exits(7))).await;
    the_deaf_are_killed(&*runtime, &mut events, request(Behaviour::IgnoresTerm), &ready).await;
    removal_works_in_every_state(&*runtime, || request(Behaviour::IgnoresTerm)).await;
    a_left_over_is_replaced(&*runtime, &mut events, request(Behaviour::IgnoresTerm)).await;
    what_is_not_there_is_not_found(&*runtime, &request(Behaviour::Serves).id).await;
    a_refused_request_leaves_nothing(&*runtime, request(Behaviour::Serves)).await;

    assert_eq!(runtime.containers().await.expect("a list"), []);
}

async fn state(runtime: &dyn Runtime, id: &ReplicaId) -> Option<ContainerState> {
    let containers = runtime.containers().await.expect("a list");
    containers.into_iter().find(|container| container.id == *id).map(|container| container.state)
}

/// Waits for the replica's exit; other events pass.
pub(crate) async fn exit_code(events: &mut Receiver<RuntimeEvent>, id: &ReplicaId) -> u32 {
    let exited = async {
        loop {
            match events.recv().await.expect("events go on") {
                RuntimeEvent::Exited { id: other, code } if other == *id => return code,
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), exited).await.expect("the exit is told")
}

async fn a_replica_lives_and_goes(
    runtime: &dyn Runtime,
    events: &mut Receiver<RuntimeEvent>,
    request: ContainerRequest,
    ready: &impl AsyncFn(&ReplicaId),
) {
    let id = &request.id;
    runtime.prepare(&request.layer()).await.expect("prepared");
    runtime.prepare(&request.layer()).await.expect("it is there");
    assert_eq!(state(runtime, id).await, Some(ContainerState::NoTask));
    runtime.create(&request).await.expect("created");
    let listed = runtime.containers().await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, listed[0].state), (id, ContainerState::Created));
    for (label, value) in request.labels() {
        assert_eq!(listed[0].labels.get(&label), Some(&value), "{label}");
    }
    assert_eq!(runtime.record(id).await.expect("read"), Some(request.record.clone()));
    runtime.start(id).await.expect("started");
    assert!(matches!(state(runtime, id).await, Some(ContainerState::Running { pid }) if pid > 0));
    ready(id).await;
    assert!(runtime.usage(id).await.expect("usage").memory > 0);

    runtime.stop(id, GRACE).await.expect("stopped");
    assert_eq!(exit_code(events, id).await, 0, "it handled SIGTERM");
    assert_eq!(state(runtime, id).await, Some(ContainerState::Stopped));
    runtime.stop(id, GRACE).await.expect("what does not run is stopped");

    runtime.remove(id).await.expect("removed");
    assert_eq!(state(runtime, id).await, None);
    assert_eq!(runtime.record(id).await.expect("nothing is found"), None);
    runtime.remove(id).await.expect("finding nothing is success");
    runtime.stop(id, GRACE).await.expect("finding nothing is success");
}

async fn an_end_is_told_with_its_code(
    runtime: &dyn Runtime,
    events: &mut Receiver<RuntimeEvent>,
    request: ContainerRequest,
) {
    runtime.create(&request).await.expect("created");
    runtime.start(&request.id).await.expect("started");
    assert_eq!(exit_code(events, &request.id).await, 7);
    eventually!(
        state(runtime, &request.id).await == Some(ContainerState::Stopped),
        "{} is not stopped",
        request.id
    );
    assert!(matches!(runtime.usage(&request.id).await, Err(RuntimeError::NotFound { .. })));
    runtime.remove(&request.id).await.expect("removed");
}

async fn the_deaf_are_killed(
    runtime: &dyn Runtime,
    events: &mut Receiver<RuntimeEvent>,
    request: ContainerRequest,
    ready: &impl AsyncFn(&ReplicaId),
) {
    runtime.create(&request).await.expect("created");
    runtime.start(&request.id).await.expect("started");
    ready(&request.id).await;
    runtime.stop(&request.id, SHORT).await.expect("stopped");
    assert_eq!(exit_code(events, &request.id).await, 128 + 9);
    runtime.remove(&request.id).await.expect("removed");
}

async fn removal_works_in_every_state(runtime: &dyn Runtime, request: impl Fn() -> ContainerRequest) {
    let prepared = request();
    runtime.prepare(&prepared.layer()).await.expect("prepared");
    let created = request();
    runtime.create(&created).await.expect("created");
    let stopped_before_its_start = request();
    runtime.create(&stopped_before_its_start).await.expect("created");
    runtime.stop(&stopped_before_its_start.id, GRACE).await.expect("stopped");
    let running = request();
    runtime.create(&running).await.expect("created");
    runtime.start(&running.id).await.expect("started");
    for request in [prepared, created, stopped_before_its_start, running] {
        runtime.remove(&request.id).await.expect("removed");
        assert_eq!(state(runtime, &request.id).await, None);
    }
}

async fn a_left_over_is_replaced(
    runtime: &dyn Runtime,
    events: &mut Receiver<RuntimeEvent>,
    request: ContainerRequest,
) {
    runtime.create(&request).await.expect("created");
    runtime.start(&request.id).await.expect("started");
    runtime.create(&request).await.expect("created again");
    assert_eq!(state(runtime, &request.id).await, Some(ContainerState::Created));
    assert_eq!(exit_code(events, &request.id).await, 128 + 9, "the first one was ended");
    runtime.remove(&request.id).await.expect("removed");
}

async fn what_is_not_there_is_not_found(runtime: &dyn Runtime, id: &ReplicaId) {
    assert!(matches!(runtime.start(id).await, Err(RuntimeError::NotFound { .. })));
    assert!(matches!(runtime.usage(id).await, Err(RuntimeError::NotFound { .. })));
}

async fn a_refused_request_leaves_nothing(runtime: &dyn Runtime, mut request: ContainerRequest) {
    let mut image = Image::clone(&request.image);
    image.resolved.config.entrypoint.clear();
    image.resolved.config.cmd.clear();
    request.image = Arc::new(image);
    let error = runtime.create(&request).await.expect_err("there is nothing to run");
    assert!(matches!(error, RuntimeError::NoCommand { .. }), "{error}");
    assert_eq!(state(runtime, &request.id).await, None);
}
