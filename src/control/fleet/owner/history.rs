//! The revisions that have served: which are kept, and the way back to one of them.

use std::sync::Arc;

use super::Owner;
use crate::fleet::context::Context;
use crate::fleet::{FleetError, admission, revision};
use crate::replica::Revision;
use directory::KeptRevision;
use host::store::RevisionRecord;

/// Why there is no revision to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoTarget {
    /// None served before.
    NoneBefore,
    /// It is the one that is wanted now.
    Wanted,
    /// It never served, or is not kept any more.
    NotKept,
}

/// The revision to go back to from `wanted`: `to`, or else the newest before it that served.
fn target(history: &[KeptRevision], wanted: u64, to: Option<u64>) -> Result<u64, NoTarget> {
    let mut numbers = history.iter().map(|kept| kept.number);
    match to {
        Some(to) if to == wanted => Err(NoTarget::Wanted),
        Some(to) if numbers.any(|number| number == to) => Ok(to),
        Some(_) => Err(NoTarget::NotKept),
        None => numbers.filter(|number| *number < wanted).max().ok_or(NoTarget::NoneBefore),
    }
}

/// Adds a revision that has begun to serve to those that are kept, of which there are `limit` at most.
fn keep(kept: &mut Vec<RevisionRecord>, served: RevisionRecord, limit: usize) {
    kept.retain(|known| known.number != served.number);
    kept.push(served);
    kept.drain(..kept.len().saturating_sub(limit));
}

impl Owner {
    /// Makes a new revision of an old one that served: of its deployment, and of the image that its name
    /// meant then.
    pub(super) async fn roll_back(&mut self, to: Option<u64>) -> Result<u64, FleetError> {
        let key = &self.entry.key;
        let numbers = || self.history.iter().map(|kept| kept.number).collect();
        let not_kept =
            |revision| FleetError::RevisionNotFound { function: key.clone(), revision, kept: numbers() };
        let number = target(&self.history, self.wanted.number, to).map_err(|reason| match reason {
            NoTarget::NoneBefore => {
                FleetError::NothingBefore { function: key.clone(), revision: self.wanted.number }
            }
            NoTarget::Wanted => {
                FleetError::RevisionWanted { function: key.clone(), revision: self.wanted.number }
            }
            NoTarget::NotKept => not_kept(to.unwrap_or_default()),
        })?;
        let record = self.record.revisions.iter().find(|kept| kept.number == number);
        let old = revision::from_record(record.ok_or_else(|| not_kept(number))?)?;
        let Context { config, allowed_images, .. } = &*self.context;
        admission::check_allowed(&old.spec, &config.allowed_capabilities, allowed_images)?;
        admission::check_secrets(&self.context.secrets, &old.spec)?;
        admission::check_handler(&self.context.handlers, &old.spec)?;
        admission::check_command(&old.image, &old.spec, &self.context.config.watchdog)?;
        tracing::info!(function = %key, revision = number, "going back");
        self.deploy(Revision { created_at: jiff::Timestamp::now(), ..old }).await
    }

    /// Notes that the wanted revision serves, and keeps it to go back to.
    pub(super) async fn serves(&mut self, revision: Arc<Revision>) {
        let number = revision.number;
        if self.serving.as_ref().is_none_or(|serving| serving.number != number) {
            tracing::info!(function = %self.entry.key, revision = number, "serving");
            self.serving = Some(revision.clone());
        } else if self.record.serving.is_none() && self.history.iter().any(|kept| kept.number == number) {
            return;
        }
        if self.removing {
            return;
        }
        // Calls that wait for it need not wait for the disk, and none goes to what it replaces once it is said to
        // serve.
        self.reconcile();
        self.publish();
        let mut record = self.record.clone();
        record.serving = None;
        keep(&mut record.revisions, revision::to_record(&revision), self.context.config.revisions);
        match self.context.store.put_function(&record).await {
            Ok(()) => {
                self.history = record.revisions.iter().map(revision::kept).collect();
                self.record = record;
            }
            // The next replica, or the next start, finds out again.
            Err(error) => {
                tracing::error!(function = %self.entry.key, error = &error as &dyn std::error::Error, "not kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(number: u64) -> KeptRevision {
        KeptRevision {
            number,
            image: format!("a:{number}"),
            digest: "sha256:0".into(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_table_of_ways_back() {
        for (history, wanted, to, found) in [
            // nothing has served before
            (&[][..], 1, None, Err(NoTarget::NoneBefore)),
            (&[1], 1, None, Err(NoTarget::NoneBefore)),
            (&[], 1, Some(1), Err(NoTarget::Wanted)),
            // the newest before, or any
            (&[1, 2, 4], 4, None, Ok(2)),
            (&[1, 2, 4], 4, Some(1), Ok(1)),
            (&[1, 2, 4], 4, Some(3), Err(NoTarget::NotKept)),
            (&[1, 2, 4], 4, Some(4), Err(NoTarget::Wanted)),
            (&[1, 2, 4], 4, Some(0), Err(NoTarget::NotKept)),
            // an update is under way, or was given up
            (&[1, 2], 3, None, Ok(2)),
            (&[1, 2], 3, Some(2), Ok(2)),
            (&[1, 2], 2, None, Ok(1)),
        ] {
            let history: Vec<_> = history.iter().copied().map(kept).collect();
            assert_eq!(target(&history, wanted, to), found, "{history:?} from {wanted} to {to:?}");
        }
    }

    #[test]
    fn the_last_ones_that_served_are_kept() {
        let keep = |kept: &[u64], served, limit| {
            let record = |number| RevisionRecord { number, ..RevisionRecord::default() };
            let mut kept: Vec<_> = kept.iter().copied().map(record).collect();
            super::keep(&mut kept, record(served), limit);
            kept.into_iter().map(|kept| kept.number).collect::<Vec<_>>()
        };
        assert_eq!(keep(&[], 1, 2), [1]);
        assert_eq!(keep(&[1], 3, 2), [1, 3]);
        assert_eq!(keep(&[1, 3], 4, 2), [3, 4]);
        assert_eq!(keep(&[1, 3, 4], 4, 1), [4]);
    }
}
