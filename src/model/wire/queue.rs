//! Calls that are made later.

use serde::{Deserialize, Serialize};

/// One queue, as `GET /system/queues` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its name.
    pub name: String,
    /// No call of it is made.
    pub paused: bool,
    /// Calls that could be made now.
    pub ready: usize,
    /// Calls that wait for their next attempt.
    pub waiting: usize,
    /// Calls that are being made.
    pub running: usize,
}

/// `PUT /system/queues/NAME`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueChange {
    /// No call of it is made any more.
    pub paused: bool,
}

/// A call that was given up.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadCall {
    /// Its number, under which it is found.
    pub number: u64,
    /// The function's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `X-Call-Id`
    pub call_id: String,
    /// The request's method.
    pub method: String,
    /// The request's path and query, as the function gets it; of a long one the beginning.
    pub path: String,
    /// Bytes of the request's body.
    pub size: u64,
    /// When it was queued, RFC 3339.
    pub queued_at: String,
    /// Where its answer goes, if its client asked for it.
    pub callback_url: Option<String>,
    /// This is the callback, and what could not be sent is the answer of a call that has ended: its status.
    pub answered: Option<u16>,
    /// How many attempts have failed.
    pub tried: u32,
    /// These attempts, in order: at most 8, where those are one that failed in the same way one after the other.
    pub tries: Vec<Try>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Try {
    /// When it began, RFC 3339.
    pub at: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The status that the function answered, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Why that was no success.
    pub reason: String,
    /// Tries before it that failed in the same way, and are not listed.
    #[serde(default)]
    pub repeats: u32,
}

/// What `POST /system/dead/NUMBER/replay` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Its `X-Call-Id`, under which `GET /system/calls/ID` finds it.
    pub call_id: String,
    /// The number that it has from now on, should it be given up again.
    pub number: u64,
}

/// How many calls were taken up again, or thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadCount {
    /// That many.
    pub count: usize,
}
