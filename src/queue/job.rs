//! One call that was accepted to be made later, as it is kept.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::function::FunctionKey;

/// A call, from its acceptance until it has succeeded or is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What is known of it beside what it sends.
    pub facts: Facts,
    /// The head of the request as the function gets it, without what says how long its body is, and without the
    /// empty line at its end.
    pub head: Vec<u8>,
    /// The request's body.
    pub body: Body,
}

/// What is known of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The function.
    pub function: FunctionKey,
    /// `X-Call-Id`: the client's own, or a new one. It stays the same over all tries.
    pub call_id: String,
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// When it was accepted.
    pub queued_at: Timestamp,
    /// Not to be made before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The tries that failed, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Try>,
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The status that the function answered, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Why that was no success, in words.
    pub reason: String,
}

impl Try {
    /// One that ended now.
    pub(super) fn ended(at: Timestamp, took: Duration, code: Option<u16>, reason: impl Into<String>) -> Self {
        Self { at, took_ms: took.as_millis().try_into().unwrap_or(u64::MAX), code, reason: reason.into() }
    }
}

/// The body of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A short one, kept with the rest.
    Inline(Vec<u8>),
    /// A longer one, in a file of its own.
    File {
        /// Its name.
        name: Uuid,
        /// Its length in bytes.
        size: u64,
    },
}

impl Body {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

/// The part of a stored job that is JSON.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    facts: Facts,
    /// Bytes of the head, which follows.
    head: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<StoredFile>,
}

#[derive(Serialize, Deserialize)]
struct StoredFile {
    name: Uuid,
    size: u64,
}

/// What is stored cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a queued call cannot be read: {0}")]
pub(super) struct Unreadable(String);

impl Job {
    /// As it is stored: a line of JSON, the head, and the body if it is a short one. Heads and bodies are not text.
    pub(super) fn encode(&self) -> Vec<u8> {
        let file = match &self.body {
            Body::Inline(_) => None,
            Body::File { name, size } => Some(StoredFile { name: *name, size: *size }),
        };
        let stored = Stored { facts: self.facts.clone(), head: self.head.len(), file };
        let mut bytes = serde_json::to_vec(&stored).expect("facts are JSON");
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.head);
        if let Body::Inline(body) = &self.body {
            bytes.extend_from_slice(body);
        }
        bytes
    }

    /// Reads what [`Self::encode`] made.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let wrong = |reason: &str| Unreadable(reason.to_owned());
        // JSON has no line break in it that is not escaped.
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| wrong("it has no end"))?;
        let stored: Stored =
            serde_json::from_slice(&bytes[..end]).map_err(|error| Unreadable(error.to_string()))?;
        let rest = &bytes[end + 1..];
        let (head, body) = rest.split_at_checked(stored.head).ok_or_else(|| wrong("it is cut"))?;
        let body = match stored.file {
            Some(StoredFile { name, size }) => Body::File { name, size },
            None => Body::Inline(body.to_vec()),
        };
        Ok(Self { facts: stored.facts, head: head.to_vec(), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(body: Body) -> Job {
        Job {
            facts: Facts {
                function: FunctionKey::parse("resize.dev").expect("a name"),
                call_id: "one\ntwo \"three\"".into(),
                method: "POST".into(),
                path: "/a%20b?c=1".into(),
                queued_at: Timestamp::UNIX_EPOCH,
                not_before: None,
                tries: vec![Try::ended(
                    Timestamp::UNIX_EPOCH,
                    Duration::from_millis(5),
                    Some(500),
                    "500\nno",
                )],
            },
            head: b"POST / HTTP/1.1\r\nX: \xff\r\n".to_vec(),
            body,
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let file = Body::File { name: Uuid::from_u128(7), size: 1 << 40 };
        for body in [Body::Inline(Vec::new()), Body::Inline(b"\n\0\xff{}".to_vec()), file] {
            let job = job(body);
            assert_eq!(Job::decode(&job.encode()).expect("readable"), job);
        }
    }

    #[test]
    fn what_is_damaged_is_no_job() {
        let bytes = job(Body::File { name: Uuid::nil(), size: 1 }).encode();
        for damaged in [&bytes[..0], &bytes[..20], &bytes[..bytes.len() - 1], b"{}\n"] {
            assert!(Job::decode(damaged).is_err(), "{}", String::from_utf8_lossy(damaged));
        }
    }
}
