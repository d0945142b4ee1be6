//! Functions that are called by a schedule.

use serde::{Deserialize, Serialize};

use super::is_default;

/// A function's timer, as `GET /system/cron` lists it and describe shows it.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CronStatus {
    /// The function's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its schedule, as it was sent.
    pub schedule: String,
    /// The time zones in which that is meant.
    pub time_zones: Vec<String>,
    /// `allow`, `skip` or `queue`
    pub overlap: String,
    /// `skip` or `once`
    pub missed: String,
    /// How late runs may be on purpose, in seconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub jitter_seconds: u64,
    /// The run that was accepted last.
    pub last_run: Option<CronRun>,
    /// When it is called next, RFC 3339.
    pub next_run: Option<String>,
    /// Runs that wait for an earlier one to end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub waiting: u64,
    /// The run that was left out last.
    pub left_out: Option<CronLeftOut>,
    /// Runs that were accepted since it was deployed first.
    pub accepted: u64,
    /// Runs that were left out because an earlier one had not ended.
    pub skipped: u64,
    /// Runs whose time passed while nobody looked.
    pub missed_runs: u64,
    /// Why runs are not accepted.
    pub problem: Option<String>,
}

/// A run that was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CronRun {
    /// `X-Call-Id`
    pub call_id: String,
    /// When it was due, RFC 3339; absent if somebody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// When it was accepted, RFC 3339.
    pub at: String,
    /// `pending`, `made`, `given-up`, `cancelled`, `unreadable` or `unknown`
    pub outcome: String,
    /// How many of its attempts have failed, while it is pending.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tried: u64,
}

/// A run that was not made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronLeftOut {
    /// When it was due, RFC 3339.
    pub due: String,
    /// Why, in words.
    pub reason: String,
}

/// What `POST /system/cron/NAME` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CronAccepted {
    /// `X-Call-Id`
    pub call_id: String,
}
