//! Numbers of calls, which are never given out twice, whatever has become of the rows that had them.
//!
//! A row holds a mark that is ahead of every number. It is moved in the write of a number that comes near to it, and
//! the next start begins beyond it.

/// Rows of calls that are still to be made.
pub(super) const JOBS: &str = "job/";
/// The row of the mark.
pub(super) const KEY: &str = "meta/numbers";
/// Distance of the mark from the number that it is moved for. It is moved when half of it is left.
pub(super) const RESERVED: u64 = 1_000_000;

/// Returns what the mark is to be when the row under `key` is written, if it must be moved from `mark`.
pub(super) fn reserve(mark: u64, key: &str) -> Option<u64> {
    let number: u64 = key.strip_prefix(JOBS)?.parse().ok()?;
    (mark.saturating_sub(number) < RESERVED / 2).then(|| number.saturating_add(RESERVED))
}
