//! Rate limits for the output of replicas, and for the lines that report lost output.

use std::sync::Mutex;
use std::time::Duration;

use model::sync::lock;
use tokio::time::Instant;

/// The daemon says at most one line about it in this time.
const EVERY: Duration = Duration::from_secs(60);

/// Lines that were lost for one kind of reason, whatever the function.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    unsaid: u64,
    total: u64,
}

impl Complaint {
    /// Counts lost lines, and hands the number that was not spoken of yet to `say` if it is time.
    pub(super) fn lost(&self, lines: u64, say: impl FnOnce(u64)) {
        let unsaid = {
            let mut state = lock(&self.state);
            state.total += lines;
            state.unsaid += lines;
            if state.said.is_some_and(|said| said.elapsed() < EVERY) {
                return;
            }
            state.said = Some(Instant::now());
            std::mem::take(&mut state.unsaid)
        };
        say(unsaid);
    }

    /// All lines that were ever lost.
    pub(super) fn total(&self) -> u64 {
        lock(&self.state).total
    }
}

/// A rate of lines or bytes, with a burst.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    burst: u64,
    per_second: u64,
    /// Nanoseconds since 1970, on the same clock as the lines.
    filled: i64,
}

impl Allowance {
    /// Returns a full bucket.
    pub(super) fn new(now: i64, burst: u64, per_second: u64) -> Self {
        Self { left: burst, burst, per_second, filled: now }
    }

    /// Takes an amount from the bucket, if there is enough.
    pub(super) fn take(&mut self, now: i64, amount: u64) -> bool {
        const SECOND: u128 = 1_000_000_000;
        match u128::try_from(now.saturating_sub(self.filled)) {
            // The clock stepped back: count from the new time.
            Err(_) => self.filled = now,
            Ok(passed) => {
                let more = passed * u128::from(self.per_second) / SECOND;
                if more > 0 {
                    let unused = passed - more * SECOND / u128::from(self.per_second);
                    self.left =
                        self.left.saturating_add(u64::try_from(more).unwrap_or(self.burst)).min(self.burst);
                    self.filled = now - i64::try_from(unused).unwrap_or(0);
                }
            }
        }
        let allowed = self.left >= amount;
        if allowed {
            self.left -= amount;
        }
        allowed
    }
}

/// Output over a replica's rate, as it is reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Surplus {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// Bytes of a replica's output that are kept in a burst, and per second on average.
const BURST: u64 = 10 << 20;
const PER_SECOND: u64 = 1 << 20;

/// The rate limit of one replica's output.
#[derive(Debug)]
pub(super) struct Throttle {
    allowance: Allowance,
    surplus: Surplus,
    said: Option<i64>,
}

impl Throttle {
    pub(super) fn new(now: i64) -> Self {
        Self { allowance: Allowance::new(now, BURST, PER_SECOND), surplus: Surplus::default(), said: None }
    }

    /// Decides whether a line of this many bytes is kept.
    pub(super) fn admits(&mut self, now: i64, bytes: usize) -> bool {
        let bytes = bytes as u64 + 1;
        let admitted = self.allowance.take(now, bytes);
        if !admitted {
            self.surplus.lines += 1;
            self.surplus.bytes += bytes;
        }
        admitted
    }

    /// Returns the dropped output to report now, if it is time or the end.
    pub(super) fn unsaid(&mut self, now: i64, is_end: bool) -> Option<Surplus> {
        if self.surplus.lines == 0 {
            return None;
        }
        let every = i64::try_from(EVERY.as_nanos()).unwrap_or(i64::MAX);
        // The report must not wait because the clock stepped back.
        let is_due = self.said.is_none_or(|said| !(0..every).contains(&now.saturating_sub(said)));
        if !is_due && !is_end {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.surplus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_to_its_rate() {
        let sent = |allowance: &mut Allowance, now| (0..10_000).filter(|_| allowance.take(now, 1)).count();
        let second = 1_000_000_000;
        let mut allowance = Allowance::new(0, 2000, 200);
        assert_eq!(sent(&mut allowance, 0), 2000);
        assert_eq!(sent(&mut allowance, second), 200);
        assert_eq!(sent(&mut allowance, second + 1), 0);
        assert_eq!(sent(&mut allowance, 0), 0, "the clock stepped back");
        assert_eq!(sent(&mut allowance, second), 200);
        assert_eq!(sent(&mut allowance, 1000 * second), 2000);
    }

    #[test]
    fn output_over_the_rate_is_counted_and_reported_once_a_minute() {
        let second = 1_000_000_000;
        let mut throttle = Throttle::new(0);
        let (mut kept, mut lines, mut said) = (0, 0, Vec::new());
        for now in 0..180 {
            // 4 MiB a second.
            for _ in 0..4 {
                if throttle.admits(now * second, (1 << 20) - 1) {
                    kept += 1;
                } else {
                    lines += 1;
                }
                said.extend(throttle.unsaid(now * second, false).map(|surplus| (now, surplus.lines)));
            }
        }
        assert_eq!((kept, lines), (10 + 179, 4 * 180 - 189));
        assert_eq!(said.iter().map(|(now, _)| now % 60).collect::<Vec<_>>(), [said[0].0 % 60; 3], "{said:?}");
        let rest = throttle.unsaid(180 * second, true).expect("the rest").lines;
        assert_eq!(said.iter().map(|(_, lines)| lines).sum::<u64>() + rest, lines);
        assert_eq!(throttle.unsaid(180 * second, true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_line_a_minute_carries_the_count() {
        let complaint = Complaint::default();
        let mut said = Vec::new();
        for _ in 0..5 {
            complaint.lost(2, |lines| said.push(lines));
        }
        tokio::time::advance(EVERY).await;
        complaint.lost(1, |lines| said.push(lines));
        assert_eq!(said, [2, 9]);
        assert_eq!(complaint.total(), 11);
    }
}
