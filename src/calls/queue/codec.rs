//! How a job or a record is stored: a line of JSON, and what goes with it if that is short. Heads and bodies are not
//! text.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::job::Content;

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

/// What is stored cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("what is stored of a queued call cannot be read: {0}")]
pub(super) struct Unreadable(String);

/// As it is stored.
pub(super) fn encode<T: Serialize>(facts: &T, content: &Content) -> Vec<u8> {
    let (head, file) = match content {
        Content::Inline { head, .. } => (head.len() as u64, None),
        Content::File { name, head, body } => (*head, Some(StoredFile { name: *name, body: *body })),
    };
    let mut bytes = serde_json::to_vec(&Stored { facts, head, file }).expect("facts are JSON");
    bytes.push(b'\n');
    if let Content::Inline { head, body } = content {
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(body);
    }
    bytes
}

/// Reads what [`encode`] made.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, Content), Unreadable> {
    let wrong = |reason: &str| Unreadable(reason.to_owned());
    // JSON has no line break in it that is not escaped.
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| wrong("it has no end"))?;
    let Stored { facts, head, file } =
        serde_json::from_slice(&bytes[..end]).map_err(|error| Unreadable(error.to_string()))?;
    let content = match file {
        Some(StoredFile { name, body }) => Content::File { name, head, body },
        None => {
            let head = usize::try_from(head).ok();
            let parts = head.and_then(|head| bytes[end + 1..].split_at_checked(head));
            let (head, body) = parts.ok_or_else(|| wrong("it is cut"))?;
            Content::Inline { head: head.to_vec(), body: body.to_vec() }
        }
    };
    Ok((facts, content))
}
