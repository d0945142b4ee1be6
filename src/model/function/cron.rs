//! When a function is called by itself: `topic: cron-function` and `schedule`, and what is ours beside them.

use std::time::Duration;

use schedule::Schedule;

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missed {
    /// They are left out.
    #[default]
    Skip,
    /// One is made for all of them.
    Once,
}

impl Overlap {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Queue => "queue",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let all = [Self::Allow, Self::Skip, Self::Queue];
        let found = all.into_iter().find(|overlap| overlap.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of allow, skip, queue"))
    }
}

impl Missed {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let found = [Self::Skip, Self::Once].into_iter().find(|missed| missed.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is none of skip, once"))
    }
}

/// Reads a time over which runs are spread.
pub(super) fn jitter(text: &str) -> Result<Duration, String> {
    let jitter = super::parse_duration(text)?;
    if jitter > MOST_JITTER {
        return Err(format!("{text:?} is more than 24h, over which runs are spread at most"));
    }
    Ok(jitter)
}
