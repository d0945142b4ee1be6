//! When a function is called by itself: `topic: cron-function` and `schedule`, and what is ours beside them.

use std::time::Duration;

use schedule::Schedule;
use strum::{Display, EnumString, VariantNames};

use super::none_of;

/// What says that a function is called by its schedule. Other topics are those of other programs.
pub(super) const TOPIC: &str = "cron-function";
/// The longest time over which runs are spread.
const MOST_JITTER: Duration = Duration::from_secs(24 * 3600);

/// When a function is called by itself, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronSettings {
    /// `schedule`, as it was sent.
    pub text: Box<str>,
    /// The same, parsed.
    pub schedule: Schedule,
    /// `ingle.cron-overlap`
    pub overlap: Overlap,
    /// `ingle.cron-missed`
    pub missed: Missed,
    /// `ingle.cron-jitter`: runs are late by a part of this.
    pub jitter: Duration,
}

/// What becomes of a run when an earlier one has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = none_of::<Overlap>)]
pub enum Overlap {
    /// It is made beside it.
    #[default]
    Allow,
    /// It is left out.
    Skip,
    /// It waits for its end.
    Queue,
}

/// What becomes of runs whose time has passed while nobody looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = none_of::<Missed>)]
pub enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// One is made for all of them.
    Once,
}

/// Reads a time over which runs are spread.
pub(super) fn jitter(text: &str) -> Result<Duration, String> {
    let jitter = super::parse_duration(text)?;
    if jitter > MOST_JITTER {
        return Err(format!("{text:?} is more than 24h, over which runs are spread at most"));
    }
    Ok(jitter)
}
