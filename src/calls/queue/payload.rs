//! The payload of a job or a record: bytes that are kept beside its metadata.

use uuid::Uuid;

/// The payload of a job: the head of the request as the function gets it, without the lines that say how long its body
/// is and without the empty line at its end; and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Short, and kept with the rest.
    Inline {
        /// The head.
        head: Vec<u8>,
        /// The body.
        body: Vec<u8>,
    },
    /// Both in a file of their own, one after the other.
    File {
        /// Name of the file.
        name: Uuid,
        /// Bytes of the head.
        head: u64,
        /// Bytes of the body.
        body: u64,
    },
}

impl Payload {
    /// Bytes of all of it.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline { head, body } => (head.len() + body.len()) as u64,
            Self::File { head, body, .. } => head + body,
        }
    }

    /// Returns the name of the payload's file, if it has one.
    pub(super) fn file(&self) -> Option<Uuid> {
        match self {
            Self::Inline { .. } => None,
            Self::File { name, .. } => Some(*name),
        }
    }

    /// Nothing at all.
    pub(super) fn nothing() -> Self {
        Self::Inline { head: Vec::new(), body: Vec::new() }
    }

    /// Bytes of the body.
    pub fn body_size(&self) -> u64 {
        match self {
            Self::Inline { body, .. } => body.len() as u64,
            Self::File { body, .. } => *body,
        }
    }
}
