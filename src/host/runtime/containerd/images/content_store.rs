//! containerd's content store: blobs by digest, and the unfinished writes that become blobs.

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, ListContentRequest, ReadContentRequest, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use futures_util::TryStreamExt as _;
use prost_types::FieldMask;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::super::client::{Client, already_exists};
use super::lease::Lease;
use super::manifest::Descriptor;
use crate::runtime::RuntimeError;

/// Messages that may be under way to containerd without its answer.
const WINDOW: usize = 8;
/// How long a write that was broken off may take to let go of its name.
const UNLOCK_TIME: Duration = Duration::from_secs(10);

/// The content store.
#[derive(Debug, Clone)]
pub(super) struct Content {
    client: Client,
}

/// What a write of a blob finds.
pub(super) enum Opened {
    /// The blob is there.
    Exists,
    /// It is not, or not wholly.
    Write(Box<Writer>),
}

/// Why a write did not become a blob.
#[derive(Debug)]
pub(super) enum CommitError {
    /// The bytes are not what the digest or size says. They have been thrown away.
    Mismatch(String),
    Other(RuntimeError),
}

impl Content {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> ContentClient<tonic::transport::Channel> {
        ContentClient::new(self.client.channel())
    }

    /// Whether a blob is there.
    pub(super) async fn has(&self, digest: &str) -> Result<bool, RuntimeError> {
        let request = self.client.request(InfoRequest { digest: digest.to_owned() });
        let answer = self.service().info(request).await;
        Ok(self.client.found(answer, format_args!("looking for blob {digest}"))?.is_some())
    }

    /// All blobs with their sizes.
    pub(super) async fn list(&self) -> Result<Vec<(String, u64)>, RuntimeError> {
        let failed = |status| self.client.error("listing blobs", status);
        let request = self.client.request(ListContentRequest::default());
        let parts = self.service().list(request).await.map_err(failed)?.into_inner();
        let sized = |info: Info| (info.digest, u64::try_from(info.size).unwrap_or_default());
        let blobs = parts.map_ok(|part| part.info.into_iter().map(sized).collect::<Vec<_>>());
        blobs.try_concat().await.map_err(failed)
    }

    /// A blob of at most `limit` bytes; `None` if it is not there.
    pub(super) async fn read(&self, digest: &str, limit: u64) -> Result<Option<Bytes>, RuntimeError> {
        let failed = |status| self.client.error(format!("reading blob {digest}"), status);
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let answer = self.service().read(self.client.request(request)).await;
        let found = self.client.found(answer, format_args!("reading blob {digest}"))?;
        let Some(mut stream) = found else { return Ok(None) };
        let mut bytes = BytesMut::new();
        loop {
            match stream.message().await {
                Ok(Some(part)) if (bytes.len() + part.data.len()) as u64 > limit => {
                    return Err(RuntimeError::failed(
                        format!("reading blob {digest}"),
                        format!("it has more than {limit} bytes"),
                    ));
                }
                Ok(Some(part)) => bytes.extend_from_slice(&part.data),
                Ok(None) => return Ok(Some(bytes.freeze())),
                // containerd opens the blob when the first part is asked for.
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                Err(status) => return Err(failed(status)),
            }
        }
    }

    /// Writes a small blob, if it is not there.
    pub(super) async fn put(
        &self,
        lease: &Lease,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), CommitError> {
        match self.open(lease, descriptor, "document").await.map_err(CommitError::Other)? {
            Opened::Exists => Ok(()),
            Opened::Write(mut writer) => {
                writer.restart();
                writer.write(bytes).await.map_err(CommitError::Other)?;
                writer.commit().await
            }
        }
    }

    /// Begins to write a blob that comes from `source`, or goes on where an earlier write of it ended. Writes from
    /// several sources do not know of each other: the first whole one becomes the blob.
    pub(super) async fn open(
        &self,
        lease: &Lease,
        wanted: &Descriptor,
        source: &str,
    ) -> Result<Opened, RuntimeError> {
        let deadline = tokio::time::Instant::now() + UNLOCK_TIME;
        loop {
            match self.try_open(lease, wanted, source).await {
                Ok(opened) => return Ok(opened),
                // The stream of an attempt that was broken off ends a moment after we let go of it.
                Err(status)
                    if status.code() == Code::Unavailable
                        && status.message().contains("locked")
                        && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) if already_exists(&status) => return Ok(Opened::Exists),
                Err(status) => return Err(write_error(&self.client, wanted, status)),
            }
        }
    }

    async fn try_open(&self, lease: &Lease, wanted: &Descriptor, source: &str) -> Result<Opened, Status> {
        let (sender, receiver) = mpsc::channel(WINDOW);
        let name = ingest_name(source, &wanted.digest);
        let total = i64::try_from(wanted.size).unwrap_or(i64::MAX);
        // Asks for the state, and takes the lock on the name. containerd answers the call itself
        // only with the first answer in the stream, so the question must be on its way before.
        let question = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: name.clone(),
            total,
            expected: wanted.digest.clone(),
            ..WriteContentRequest::default()
        };
        let asked = sender.try_send(question);
        debug_assert!(asked.is_ok(), "the channel is empty and open");
        let request = lease.unbounded(ReceiverStream::new(receiver));
        let mut answers = self.service().write(request).await?.into_inner();
        let state = answers.message().await?.ok_or_else(|| Status::unknown("the stream ended"))?;
        Ok(Opened::Write(Box::new(Writer {
            content: self.clone(),
            wanted: wanted.clone(),
            name,
            offset: u64::try_from(state.offset).unwrap_or_default(),
            sender,
            answers,
            unanswered: 0,
        })))
    }

    /// Throws an unfinished write away.
    pub(super) async fn abort(&self, source: &str, digest: &str) {
        self.abort_named(ingest_name(source, digest)).await;
    }

    async fn abort_named(&self, name: String) {
        let deadline = tokio::time::Instant::now() + UNLOCK_TIME;
        loop {
            let request = self.client.request(AbortRequest { r#ref: name.clone() });
            match self.service().abort(request).await {
                Ok(_) => return,
                Err(status) if status.code() == Code::NotFound => return,
                Err(status)
                    if status.code() == Code::Unavailable && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    // Its lease ends, and containerd collects it then.
                    tracing::warn!(name, %error, "an unfinished write could not be removed");
                    return;
                }
            }
        }
    }

    /// Adds labels to a blob.
    pub(super) async fn label(
        &self,
        digest: &str,
        labels: HashMap<String, String>,
    ) -> Result<(), RuntimeError> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
        let request = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
        let answer = self.service().update(self.client.request(request)).await;
        answer.map(drop).map_err(|status| self.client.error(format!("labelling blob {digest}"), status))
    }
}

/// An open write. Dropping it keeps what has been written for the next attempt.
pub(super) struct Writer {
    content: Content,
    wanted: Descriptor,
    name: String,
    offset: u64,
    sender: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    unanswered: usize,
}

impl Writer {
    /// Bytes that are there.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Begins again at the first byte.
    pub(super) fn restart(&mut self) {
        // containerd truncates at the next message that has the offset 0.
        self.offset = 0;
    }

    /// Writes the next bytes.
    pub(super) async fn write(&mut self, data: Bytes) -> Result<(), RuntimeError> {
        while self.unanswered >= WINDOW {
            self.answer().await.map_err(|status| self.error(status))?;
        }
        let length = data.len() as u64;
        self.send(WriteAction::Write, data).await.map_err(|status| self.error(status))?;
        self.offset += length;
        Ok(())
    }

    /// Makes a blob of what was written, if size and digest are right.
    pub(super) async fn commit(mut self: Box<Self>) -> Result<(), CommitError> {
        let outcome = async {
            while self.unanswered > 0 {
                self.answer().await?;
            }
            self.send(WriteAction::Commit, Bytes::new()).await?;
            self.answer().await
        }
        .await;
        match outcome {
            Ok(()) => Ok(()),
            Err(status) if already_exists(&status) => Ok(()),
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::OutOfRange) => {
                let Self { content, wanted, name, sender, answers, .. } = *self;
                // Ends the stream, which holds the name.
                drop((sender, answers));
                content.abort_named(name).await;
                Err(CommitError::Mismatch(format!(
                    "blob {} is not what its digest says: {}",
                    wanted.digest,
                    status.message()
                )))
            }
            Err(status) => Err(CommitError::Other(self.error(status))),
        }
    }

    async fn send(&mut self, action: WriteAction, data: Bytes) -> Result<(), Status> {
        let message = WriteContentRequest {
            action: action.into(),
            total: i64::try_from(self.wanted.size).unwrap_or(i64::MAX),
            expected: self.wanted.digest.clone(),
            offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            data: data.into(),
            ..WriteContentRequest::default()
        };
        if self.sender.send(message).await.is_err() {
            // containerd ended the stream: the reason is the last thing in it.
            while self.unanswered > 0 {
                self.answer().await?;
            }
            self.answer().await?;
            return Err(Status::unknown("the stream ended"));
        }
        self.unanswered += 1;
        Ok(())
    }

    async fn answer(&mut self) -> Result<(), Status> {
        match self.answers.message().await? {
            Some(_) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                Ok(())
            }
            None => Err(Status::unknown("the stream ended")),
        }
    }

    fn error(&self, status: Status) -> RuntimeError {
        write_error(&self.content.client, &self.wanted, status)
    }
}

fn write_error(client: &Client, wanted: &Descriptor, status: Status) -> RuntimeError {
    client.error(format!("writing blob {}", wanted.digest), status)
}

/// The name of the unfinished write of a blob.
fn ingest_name(source: &str, digest: &str) -> String {
    format!("ingle-{source}-{digest}")
}
