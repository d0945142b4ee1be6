//! Calls as they are and as they were.

use serde::{Deserialize, Serialize};

use super::Try;

/// A queued call, as `GET /system/calls/ID` shows it.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// `X-Call-Id`
    pub call_id: String,
    /// `queued`, `waiting`, `running`, `done`, `failed` or `cancelled`.
    pub status: String,
    /// The function's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The request's method.
    pub method: String,
    /// The request's path and query, as the function gets it; of a long one the beginning.
    pub path: String,
    /// Bytes of the request's body.
    pub sent: u64,
    /// When it was queued, RFC 3339.
    pub queued_at: String,
    /// When its first attempt began, RFC 3339.
    pub started_at: Option<String>,
    /// When it ended, RFC 3339.
    pub ended_at: Option<String>,
    /// How long it waited for its first attempt, in milliseconds.
    pub wait_ms: Option<u64>,
    /// How many attempts there were, or have failed so far.
    pub tries: u32,
    /// State of the function at the last attempt: `cold` if it had to wait for a replica, else `warm`.
    pub start: Option<String>,
    /// The status that the last attempt was answered, or that a client would have been answered.
    pub code: Option<u16>,
    /// Bytes of the answer's body.
    pub received: Option<u64>,
    /// Why it failed, or failed the last time, or why its function takes no call now.
    pub reason: Option<String>,
    /// Attempts that failed or were refused, as those of a call that was given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Try>,
    /// Until when its answer is kept, RFC 3339.
    pub answer_until: Option<String>,
}
