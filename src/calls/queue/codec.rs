//! Encoding of jobs and records for the store: a line of JSON, and what goes with it if that is short. Heads and bodies
//! are not text.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::payload::Payload;

/// The part that is JSON.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    #[serde(flatten)]
    facts: T,
    /// Bytes of the head, which follows, or begins the file.
    head: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<StoredFile>,
}

#[derive(Serialize, Deserialize)]
struct StoredFile {
    name: Uuid,
    /// Bytes of the body.
    body: u64,
}

/// A row that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("what is stored of a queued call cannot be read: {0}")]
pub(super) struct DecodeError(String);

/// As it is stored.
pub(super) fn encode<T: Serialize>(facts: &T, payload: &Payload) -> Vec<u8> {
    let (head, file) = match payload {
        Payload::Inline { head, .. } => (head.len() as u64, None),
        Payload::File { name, head, body } => (*head, Some(StoredFile { name: *name, body: *body })),
    };
    let mut bytes = serde_json::to_vec(&Stored { facts, head, file }).expect("facts are JSON");
    bytes.push(b'\n');
    if let Payload::Inline { head, body } = payload {
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(body);
    }
    bytes
}

/// Reads what [`encode`] made.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Payload), DecodeError> {
    let wrong = |reason: &str| DecodeError(reason.to_owned());
    // JSON has no line break in it that is not escaped.
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| wrong("it has no end"))?;
    let Stored { facts, head, file } =
        serde_json::from_slice(&bytes[..end]).map_err(|error| DecodeError(error.to_string()))?;
    let payload = match file {
        Some(StoredFile { name, body }) => Payload::File { name, head, body },
        None => {
            let head = usize::try_from(head).ok();
            let parts = head.and_then(|head| bytes[end + 1..].split_at_checked(head));
            let (head, body) = parts.ok_or_else(|| wrong("it is cut"))?;
            Payload::Inline { head: head.to_vec(), body: body.to_vec() }
        }
    };
    Ok((facts, payload))
}
