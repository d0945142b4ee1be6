//! The connection to containerd: one channel, the namespace header on every call, and the one place
//! where a gRPC status becomes a [`RuntimeError`].

use std::fmt;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{Info as Snapshot, ListSnapshotsRequest};
use futures_util::TryStreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::runtime::RuntimeError;

/// How long a call may take that does no work in proportion to an image's size.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call may take that starts processes: a shim and an OCI runtime, on a machine that may
/// be starting everything at once from a slow card.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(120);

/// A handle to containerd. The channel connects when it is first used and again whenever the
/// connection was lost, so a containerd that restarts is met again by the next call.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
    namespace: tonic::metadata::MetadataValue<tonic::metadata::Ascii>,
    socket: String,
}

impl Client {
    /// A handle to the containerd at `socket`, without connecting.
    pub(super) fn new(socket: &Path, namespace: &str) -> Result<Self, RuntimeError> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        // The address is never looked up: the connector knows the socket.
        let channel = tonic::transport::Endpoint::from_static("http://containerd")
            .connect_with_connector_lazy(connector);
        let namespace = namespace.parse().map_err(|error| {
            RuntimeError::failed(format!("use of containerd namespace {namespace:?}"), error)
        })?;
        Ok(Self { channel, namespace, socket: socket.display().to_string() })
    }

    /// The channel, for the generated clients.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The service of snapshots.
    pub(super) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel())
    }

    /// The snapshots of one snapshotter that pass one of these filters, or all.
    pub(super) async fn list_snapshots(
        &self,
        snapshotter: &str,
        filters: Vec<String>,
    ) -> Result<Vec<Snapshot>, RuntimeError> {
        let request = self.request(ListSnapshotsRequest { snapshotter: snapshotter.to_owned(), filters });
        let failed = |status| self.error("listing snapshots", status);
        let parts = self.snapshots().list(request).await.map_err(failed)?.into_inner();
        parts.map_ok(|part| part.info).try_concat().await.map_err(failed)
    }

    /// A request with the namespace header and a limit in time.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        self.within(CALL_TIMEOUT, message)
    }

    /// The same for work that starts processes.
    pub(super) fn process_request<T>(&self, message: T) -> Request<T> {
        self.within(PROCESS_TIMEOUT, message)
    }

    fn within<T>(&self, limit: Duration, message: T) -> Request<T> {
        let mut request = self.unbounded(message);
        request.set_timeout(limit);
        request
    }

    /// The same without a limit, for streams and for work that grows with an image.
    pub(super) fn unbounded<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // containerd wants it on every call, those on namespaces themselves included.
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// The error that a failed call of `operation` means; `operation` names the thing.
    pub(super) fn error(&self, operation: impl Into<String>, status: Status) -> RuntimeError {
        let operation = operation.into();
        match status.code() {
            Code::NotFound => RuntimeError::NotFound { what: operation },
            // A timeout that was set on the request comes back as Cancelled.
            Code::DeadlineExceeded => RuntimeError::Timeout { operation },
            Code::Cancelled if status.message().contains("Timeout") => RuntimeError::Timeout { operation },
            // Its message alone: the rest of a status are the parts of the library that passed it on.
            Code::Unavailable => self.down(status.message()),
            _ if std::error::Error::source(&status).is_some() => self.down(status.message()),
            _ => RuntimeError::failed(operation, status.message().to_owned()),
        }
    }

    /// The answer of a call of `operation`; `None` if there is no such thing.
    pub(super) fn found<T>(
        &self,
        answer: Result<Response<T>, Status>,
        operation: impl fmt::Display,
    ) -> Result<Option<T>, RuntimeError> {
        self.unless(Code::NotFound, answer, operation)
    }

    /// The answer of a call of `operation`; `None` if containerd has it already, which is success for everything
    /// that is named by its content.
    pub(super) fn made<T>(
        &self,
        answer: Result<Response<T>, Status>,
        operation: impl fmt::Display,
    ) -> Result<Option<T>, RuntimeError> {
        self.unless(Code::AlreadyExists, answer, operation)
    }

    fn unless<T>(
        &self,
        expected: Code,
        answer: Result<Response<T>, Status>,
        operation: impl fmt::Display,
    ) -> Result<Option<T>, RuntimeError> {
        match answer {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == expected => Ok(None),
            Err(status) => Err(self.error(operation.to_string(), status)),
        }
    }

    fn down(&self, cause: &str) -> RuntimeError {
        RuntimeError::Down { socket: self.socket.clone(), source: cause.into() }
    }
}

/// Whether containerd has it already.
pub(super) fn already_exists(status: &Status) -> bool {
    status.code() == Code::AlreadyExists
}
