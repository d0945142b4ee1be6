//! Counts of one function's calls: how many, with which status code, how long.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the histogram's buckets in seconds, as Prometheus clients have them; one more
/// bucket holds what is slower.
pub const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const BUCKETS: usize = BOUNDS.len() + 1;

/// Status codes of one function that are counted apart. A function answers with a handful; one that
/// makes codes up has the rest counted together, under [`OTHER`].
const MAX_CODES: usize = 20;

/// Stands for every code beyond [`MAX_CODES`].
pub const OTHER: u16 = 0;

/// Counts of one function's calls: written on the request path, without a lock.
///
/// The counts of a status code are made when it is first seen, so a function that is not called
/// costs about 400 bytes.
#[derive(Debug, Default)]
pub struct CallStats {
    started: AtomicU64,
    in_flight: AtomicU64,
    /// Filled from the front and never emptied: a code's place is found by looking at each in turn,
    /// and the codes seen first, which are the frequent ones, are found first.
    codes: [OnceLock<Box<CodeStats>>; MAX_CODES],
    others: OnceLock<Box<CodeStats>>,
}

/// Calls that ended with one code. The number of calls is the sum of the buckets.
#[derive(Debug)]
struct CodeStats {
    code: u16,
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl CodeStats {
    fn new(code: u16) -> Box<Self> {
        Box::new(Self { code, buckets: Default::default(), nanos: AtomicU64::new(0) })
    }
}

impl CallStats {
    /// Counts that go on from where `snapshot` left off.
    pub fn restored(snapshot: &StatsSnapshot) -> Self {
        let stats = Self::default();
        stats.started.store(snapshot.started.max(snapshot.invocations()), Relaxed);
        for (code, counts) in &snapshot.codes {
            let place = stats.place(*code);
            place.nanos.fetch_add(counts.nanos, Relaxed);
            if counts.buckets.len() == BUCKETS {
                for (bucket, count) in place.buckets.iter().zip(&counts.buckets) {
                    bucket.fetch_add(*count, Relaxed);
                }
            } else {
                // Written by a version with other bounds: the number of calls must still be right.
                place.buckets[BUCKETS - 1].fetch_add(counts.count(), Relaxed);
            }
        }
        stats
    }

    /// A call has begun. [`CallStats::finished`] follows, once, however it ends.
    pub fn started(&self) {
        self.started.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// A call has ended: with this status code, after this time.
    pub fn finished(&self, code: u16, seconds: f64) {
        let place = self.place(code);
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1);
        place.buckets[bucket].fetch_add(1, Relaxed);
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        place.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(0), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Calls that have begun since the function was first deployed.
    pub fn calls_started(&self) -> u64 {
        self.started.load(Relaxed)
    }

    /// Calls that have begun and not ended.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Calls that have ended since the function was first deployed: `invocationCount`.
    pub fn invocations(&self) -> u64 {
        self.seen().flat_map(|place| &place.buckets).map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// What the counts are now, to be kept over a restart.
    pub fn snapshot(&self) -> StatsSnapshot {
        let codes = self
            .seen()
            .map(|place| {
                let buckets = place.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
                (place.code, CodeCounts { buckets, nanos: place.nanos.load(Relaxed) })
            })
            .collect();
        StatsSnapshot { started: self.calls_started(), codes }
    }

    fn seen(&self) -> impl Iterator<Item = &CodeStats> {
        self.codes.iter().chain([&self.others]).filter_map(|place| place.get().map(|stats| &**stats))
    }

    fn place(&self, code: u16) -> &CodeStats {
        if code != OTHER {
            for place in &self.codes {
                // Another call may have taken the place for another code just now: then look on.
                let found = place.get_or_init(|| CodeStats::new(code));
                if found.code == code {
                    return found;
                }
            }
        }
        self.others.get_or_init(|| CodeStats::new(OTHER))
    }
}

/// The counts of [`CallStats`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsSnapshot {
    /// Calls that had begun.
    pub started: u64,
    /// Calls that had ended, by status code; 0 stands for all codes that are not counted apart.
    pub codes: BTreeMap<u16, CodeCounts>,
}

/// Calls that ended with one status code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeCounts {
    /// Calls by how long they took, not cumulative.
    pub buckets: Vec<u64>,
    /// How long they took together, in nanoseconds.
    pub nanos: u64,
}

impl CodeCounts {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl StatsSnapshot {
    /// Calls that had ended.
    pub fn invocations(&self) -> u64 {
        self.codes.values().map(CodeCounts::count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_code_and_time() {
        let stats = CallStats::default();
        for (code, seconds) in [(200, 0.004), (200, 0.005), (500, 11.0), (200, 0.3)] {
            stats.started();
            stats.finished(code, seconds);
        }
        stats.started();
        assert_eq!((stats.invocations(), stats.calls_started(), stats.in_flight()), (4, 5, 1));
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.codes[&200].buckets, [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(snapshot.codes[&500].buckets[BUCKETS - 1], 1);
        assert_eq!(snapshot.codes[&200].nanos, 309_000_000);
    }

    #[test]
    fn counts_go_on_after_a_restart_and_calls_that_were_lost_are_not_in_flight() {
        let before = CallStats::default();
        for _ in 0..3 {
            before.started();
        }
        before.finished(200, 0.01);
        before.finished(404, 0.01);
        let text = serde_json::to_string(&before.snapshot()).expect("json");
        let after = CallStats::restored(&serde_json::from_str(&text).expect("a snapshot"));
        assert_eq!((after.invocations(), after.calls_started(), after.in_flight()), (2, 3, 0));
        assert_eq!(after.snapshot(), before.snapshot());
    }

    #[test]
    fn a_snapshot_with_other_buckets_keeps_its_sum() {
        let counts = CodeCounts { buckets: vec![1, 2, 3], nanos: 9 };
        let snapshot = StatsSnapshot { started: 0, codes: BTreeMap::from([(200, counts)]) };
        let stats = CallStats::restored(&snapshot);
        assert_eq!((stats.invocations(), stats.calls_started()), (6, 6));
    }

    #[test]
    fn codes_without_end_are_counted_together() {
        let stats = CallStats::default();
        for code in 100..1000 {
            stats.started();
            stats.finished(code, 0.0);
        }
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.codes.len(), MAX_CODES + 1);
        assert_eq!(snapshot.codes[&OTHER].count(), 900 - MAX_CODES as u64);
        assert_eq!(stats.invocations(), 900);
    }

    #[test]
    fn calls_from_many_threads_are_all_counted() {
        let stats = CallStats::default();
        std::thread::scope(|scope| {
            for thread in 0..8u16 {
                let stats = &stats;
                scope.spawn(move || {
                    for i in 0..1000 {
                        stats.started();
                        stats.finished(200 + (thread + i) % 8, 0.001);
                    }
                });
            }
        });
        assert_eq!((stats.invocations(), stats.in_flight()), (8000, 0));
        assert_eq!(stats.snapshot().codes.len(), 8);
    }

    #[test]
    fn a_function_that_is_not_called_costs_little() {
        assert!(size_of::<CallStats>() <= 512, "{}", size_of::<CallStats>());
        assert!(size_of::<CodeStats>() * (MAX_CODES + 1) < 4096);
    }
}
