//! What containerd says of containers, as [`RuntimeEvent`]s: one stream, made again when it breaks.
//!
//! A shim begins to watch for kills for want of memory when it has started the first process, and one that came
//! sooner it does not tell: so the kernel's own count is looked at when that process has ended.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use futures_util::FutureExt as _;
use prost::Message;
use tokio::sync::{broadcast, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::cgroup::Hierarchies;
use super::client::Client;
use crate::private_file::{blocking, if_there};
use crate::runtime::{RuntimeError, RuntimeEvent};
use model::function::ReplicaId;

/// Events that a slow receiver may be behind. Beyond that it is told so, and lists again.
const CAPACITY: usize = 1024;
/// The pause before the stream is made again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the marker is published until it comes back.
const MARKER_EVERY: Duration = Duration::from_millis(50);
/// How long a containerd that answers may take to begin a stream.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(10);

const EXIT: &str = "/tasks/exit";
const OUT_OF_MEMORY: &str = "/tasks/oom";

/// The events of one namespace. Dropping it ends the stream.
#[derive(Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<RuntimeEvent>,
    _stream: AbortOnDropHandle<()>,
}

impl Events {
    /// Listens from now on: returns once containerd sends this namespace's events.
    pub(super) async fn subscribe(
        client: Client,
        namespace: &str,
        hierarchies: Hierarchies,
    ) -> Result<Self, RuntimeError> {
        let (sender, _) = broadcast::channel(CAPACITY);
        let (listening, first) = oneshot::channel();
        let outlet = Outlet { sender: sender.clone(), namespace: namespace.to_owned(), hierarchies };
        let task = listen(client, outlet, listening);
        let stream = AbortOnDropHandle::new(tokio::spawn(task));
        match first.await {
            Ok(Ok(())) => Ok(Self { sender, _stream: stream }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RuntimeError::failed("listening for events", "the stream's task ended")),
        }
    }

    /// What happens from now on.
    pub(super) fn receiver(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.sender.subscribe()
    }
}

/// Where events go, and what is looked at before they do.
#[derive(Debug)]
struct Outlet {
    sender: broadcast::Sender<RuntimeEvent>,
    namespace: String,
    hierarchies: Hierarchies,
}

impl Outlet {
    /// Sends an event on; before the end of a replica, that a process of it was killed for want of memory. Where
    /// containerd tells that too, it is told twice.
    async fn send(&self, mut event: RuntimeEvent) {
        match &mut event {
            RuntimeEvent::Exited { id, .. } => {
                let kills = self.killed_for_memory(id).await;
                if kills > 0 {
                    let _ = self.sender.send(RuntimeEvent::OutOfMemory { id: id.clone(), kills });
                }
            }
            // The kernel notifies the shim before it kills, and counts the kill afterwards.
            RuntimeEvent::OutOfMemory { id, kills } => *kills = self.killed_for_memory(id).await.max(*kills),
            RuntimeEvent::Resync => {}
        }
        // Nobody may be listening, which is nobody's loss.
        let _ = self.sender.send(event);
    }

    async fn killed_for_memory(&self, id: &ReplicaId) -> u64 {
        let (hierarchies, namespace, replica) =
            (self.hierarchies.clone(), self.namespace.clone(), id.clone());
        let count = move || hierarchies.killed_for_memory(&namespace, &replica);
        // One that was told to end is removed at once.
        if_there(blocking(count).await)
            .inspect_err(
                |error| tracing::debug!(replica = %id, %error, "cannot tell whether it ran out of memory"),
            )
            .ok()
            .flatten()
            .unwrap_or(0)
    }
}

/// Forwards events for ever; tells `first` how the first attempt went, and ends if it failed.
async fn listen(client: Client, outlet: Outlet, first: oneshot::Sender<Result<(), RuntimeError>>) {
    let mut stream = match open(&client, &outlet.namespace).await {
        Ok(stream) => {
            let _ = first.send(Ok(()));
            stream
        }
        Err(error) => return drop(first.send(Err(error))),
    };
    loop {
        match AssertUnwindSafe(forward(&mut stream, &outlet)).catch_unwind().await {
            Ok(end) => tracing::warn!(error = %end, "containerd's events broke off; listening again"),
            Err(_) => {
                tracing::error!(
                    "an error of the daemon: what takes containerd's events panicked; listening again"
                );
            }
        }
        stream = reopen(&client, &outlet.namespace).await;
        tracing::info!("containerd's events are back");
        outlet.send(RuntimeEvent::Resync).await;
    }
}

/// Opens the stream as soon as containerd can be reached.
async fn reopen(client: &Client, namespace: &str) -> Streaming<Envelope> {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        match open(client, namespace).await {
            Ok(stream) => return stream,
            Err(error) => tracing::debug!(error = %error, "containerd's events cannot be had yet"),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Opens a stream that is known to be live: containerd answers a subscription with nothing at all
/// until there is an event, so one of our own is published until it comes back.
async fn open(client: &Client, namespace: &str) -> Result<Streaming<Envelope>, RuntimeError> {
    let marker = format!("/ingle/{}", uuid::Uuid::new_v4().simple());
    let filters = [EXIT, OUT_OF_MEMORY, &marker]
        .map(|topic| format!("namespace=={namespace:?},topic=={topic:?}"))
        .to_vec();
    let mut service = EventsClient::new(client.channel());
    let subscription = service.subscribe(client.unbounded(SubscribeRequest { filters }));
    let failed = |status| client.error("listening for containerd's events", status);
    let opened = async {
        tokio::select! {
            stream = subscription => stream.map(tonic::Response::into_inner),
            status = publish(client, &marker) => Err(status),
        }
    };
    match tokio::time::timeout(SUBSCRIBE_LIMIT, opened).await {
        Ok(stream) => stream.map_err(failed),
        Err(_) => Err(RuntimeError::Timeout { operation: "listening for containerd's events".into() }),
    }
}

/// Publishes the marker again and again; returns only when that fails.
async fn publish(client: &Client, marker: &str) -> Status {
    let mut service = EventsClient::new(client.channel());
    loop {
        let event = prost_types::Any { type_url: "ingle.Marker".into(), value: Vec::new() };
        let request = PublishRequest { topic: marker.to_owned(), event: Some(event) };
        if let Err(status) = service.publish(client.request(request)).await {
            return status;
        }
        tokio::time::sleep(MARKER_EVERY).await;
    }
}

/// Sends on what comes until the stream ends; returns why.
async fn forward(stream: &mut Streaming<Envelope>, outlet: &Outlet) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(envelope)) => {
                if let Some(event) = decode(&envelope) {
                    outlet.send(event).await;
                }
            }
            Ok(None) => return Status::aborted("the stream ended"),
            Err(status) => return status,
        }
    }
}

/// The event that an envelope holds, if it is one that matters.
fn decode(envelope: &Envelope) -> Option<RuntimeEvent> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        EXIT => {
            let exit = TaskExit::decode(bytes).ok()?;
            // Otherwise it is a further process that was started in the container.
            (exit.id == exit.container_id).then(|| RuntimeEvent::Exited {
                id: ReplicaId::from_existing(&exit.container_id),
                code: exit.exit_status,
            })
        }
        OUT_OF_MEMORY => {
            let oom = TaskOom::decode(bytes).ok()?;
            Some(RuntimeEvent::OutOfMemory { id: ReplicaId::from_existing(&oom.container_id), kills: 1 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, event: &impl Message) -> Envelope {
        let event = prost_types::Any { type_url: String::new(), value: event.encode_to_vec() };
        Envelope { topic: topic.into(), event: Some(event), ..Envelope::default() }
    }

    #[test]
    fn only_the_end_of_the_first_process_is_an_exit() {
        let mut exit = TaskExit {
            container_id: "a-1".into(),
            id: "a-1".into(),
            exit_status: 137,
            ..TaskExit::default()
        };
        let id = ReplicaId::from_existing("a-1");
        assert_eq!(decode(&envelope(EXIT, &exit)), Some(RuntimeEvent::Exited { id: id.clone(), code: 137 }));
        exit.id = "exec-7".into();
        assert_eq!(decode(&envelope(EXIT, &exit)), None);

        let oom = TaskOom { container_id: "a-1".into() };
        assert_eq!(decode(&envelope(OUT_OF_MEMORY, &oom)), Some(RuntimeEvent::OutOfMemory { id, kills: 1 }));
        assert_eq!(decode(&envelope("/ingle/marker", &oom)), None);
        assert_eq!(decode(&Envelope { topic: EXIT.into(), ..Envelope::default() }), None);
    }
}
