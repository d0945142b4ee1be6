//! How long to wait before a replica is started again.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the second failure in a row; the first restart does not wait.
const FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(120);
/// A replica that has served this long is stable: its end starts the count anew.
pub(super) const STABLE: Duration = Duration::from_secs(60);

/// Failed starts in a row after which calls no longer wait for the next one.
const LOOP: u32 = 3;
/// The pause while that is away which starts replicas.
const AWAY: Duration = Duration::from_secs(1);

/// Counts failures in a row and spaces the attempts.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// Failures since a replica last came up.
    failed_starts: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Notes that a replica ended, or did not come up, after it had served for `served`.
    pub(super) fn failed(&mut self, served: Duration, now: Instant) {
        if served >= STABLE {
            self.failures = 0;
        }
        self.failures += 1;
        self.failed_starts = if served.is_zero() { self.failed_starts + 1 } else { 0 };
        let doublings = self.failures.saturating_sub(2).min(16);
        let pause =
            if self.failures == 1 && !served.is_zero() { Duration::ZERO } else { FIRST * (1 << doublings) };
        self.until = Some(now + pause.min(LONGEST)).filter(|_| !pause.is_zero());
    }

    /// Notes that a replica could not be started for want of what starts replicas: no failure of its own.
    pub(super) fn away(&mut self, now: Instant) {
        self.until = self.until.max(Some(now + AWAY));
    }

    /// Begins anew: something else is to be started.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Notes that a replica came up.
    pub(super) fn came_up(&mut self) {
        self.failed_starts = 0;
    }

    /// Returns whether starts fail again and again.
    pub(super) fn is_loop(&self) -> bool {
        self.failed_starts >= LOOP
    }

    /// When the next attempt may begin, if it must wait.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_begin_anew_after_a_stable_while() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        backoff.failed(short, now);
        assert_eq!(backoff.until(now), None, "the first restart does not wait");
        for millis in [200, 400, 800, 1600] {
            backoff.failed(short, now);
            assert_eq!(backoff.until(now), Some(now + Duration::from_millis(millis)));
        }
        for _ in 0..40 {
            backoff.failed(short, now);
        }
        assert_eq!(backoff.until(now), Some(now + LONGEST));
        assert_eq!(backoff.until(now + LONGEST), None);
        backoff.failed(STABLE, now);
        assert_eq!(backoff.until(now), None);
    }

    #[test]
    fn pauses_do_not_grow_while_nothing_can_be_started() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.away(now);
            assert_eq!(backoff.until(now), Some(now + AWAY));
        }
        backoff.failed(Duration::from_secs(1), now);
        assert_eq!(backoff.until(now), None, "the first restart does not wait");
    }

    #[test]
    fn three_failed_starts_in_a_row_are_a_loop_until_a_replica_comes_up() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.failed(Duration::from_secs(1), now);
            assert!(!backoff.is_loop(), "it served");
        }
        for is_loop in [false, false, true, true] {
            backoff.failed(Duration::ZERO, now);
            assert_eq!(backoff.is_loop(), is_loop);
        }
        backoff.came_up();
        assert!(!backoff.is_loop());
    }

    #[test]
    fn one_that_never_came_up_is_not_tried_again_at_once() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(Duration::ZERO, now);
        assert_eq!(backoff.until(now), Some(now + FIRST));
    }
}
