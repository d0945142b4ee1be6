//! How a function wants its queued calls to be tried again: `com.openfaas.retry.*`.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

/// Tries of one call at most, whatever a function asks for: each is noted in the job.
const MOST_ATTEMPTS: u32 = 100;
/// What it says; the configuration's defaults stand in for what is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetrySettings {
    /// `attempts`: all attempts, the first one included.
    pub attempts: Option<u32>,
    /// `codes`: the answers after which a call is made again.
    pub codes: Option<Codes>,
    /// `min_wait`: the shortest pause.
    pub min_wait: Option<Duration>,
    /// `max_wait`: the longest pause.
    pub max_wait: Option<Duration>,
}

/// Status codes, as `408,429,500-504`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes(BTreeSet<u16>);

impl Codes {
    /// Whether this one is among them.
    pub fn contains(&self, code: u16) -> bool {
        self.0.contains(&code)
    }
}

impl FromStr for Codes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let code = |text: &str| match text.trim().parse() {
            Ok(code @ 100..=599) => Ok(code),
            _ => Err(format!("{text:?} is not a status code (100 to 599)")),
        };
        let mut codes = BTreeSet::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (code(first)?, code(last)?);
            if first > last {
                return Err(format!("{item:?} ends before it begins"));
            }
            codes.extend(first..=last);
        }
        Ok(Self(codes))
    }
}

/// How often and after which pauses a call is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first one included.
    pub attempts: u32,
    /// The answers after which it is made again.
    pub codes: Codes,
    /// The shortest pause.
    pub min_wait: Duration,
    /// The longest pause.
    pub max_wait: Duration,
    /// What chance does to a pause.
    pub jitter: Jitter,
}

/// What chance does to a pause, so that calls that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = no_jitter)]
pub enum Jitter {
    /// Anything from the shortest pause to the computed one.
    Full,
    /// Anything from half of the computed pause to all of it.
    Equal,
}

impl RetryPolicy {
    /// This policy, with what a function says in its place.
    pub fn with(&self, settings: &RetrySettings) -> Self {
        let min_wait = settings.min_wait.unwrap_or(self.min_wait);
        Self {
            attempts: settings.attempts.unwrap_or(self.attempts),
            codes: settings.codes.clone().unwrap_or_else(|| self.codes.clone()),
            min_wait,
            max_wait: settings.max_wait.unwrap_or(self.max_wait).max(min_wait),
            jitter: self.jitter,
        }
    }

    /// The pause after the `failed`th attempt that failed, counted from 1. It doubles from attempt to
    /// attempt; `chance` is from 0 to 1.
    pub fn pause(&self, failed: u32, chance: f64) -> Duration {
        let doubled = 2u32.checked_pow(failed.max(1)).and_then(|factor| self.min_wait.checked_mul(factor));
        let longest = doubled.map_or(self.max_wait, |doubled| doubled.min(self.max_wait));
        let shortest = match self.jitter {
            Jitter::Full => self.min_wait,
            Jitter::Equal => (longest / 2).max(self.min_wait),
        };
        let spread = longest.saturating_sub(shortest);
        shortest.min(longest) + spread.mul_f64(chance.clamp(0.0, 1.0))
    }
}

fn no_jitter(text: &str) -> String {
    format!("{text:?} is neither full nor equal")
}

/// Reads how often a call is tried.
pub fn attempts(text: &str) -> Result<u32, String> {
    let attempts = text.parse().ok().filter(|attempts| (1..=MOST_ATTEMPTS).contains(attempts));
    attempts.ok_or_else(|| format!("{text:?} is not a number from 1 to {MOST_ATTEMPTS}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_numbers_and_ranges() {
        let codes: Codes = "408, 500-502,".parse().expect("codes");
        let found: Vec<u16> = (100..600).filter(|code| codes.contains(*code)).collect();
        assert_eq!(found, [408, 500, 501, 502]);
        for (text, part) in [
            ("x", "\"x\""),
            ("99", "100 to 599"),
            ("600", "100 to 599"),
            ("502-500", "ends before"),
            ("5-", "\"5\""),
        ] {
            let error = text.parse::<Codes>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    fn policy(jitter: Jitter) -> RetryPolicy {
        RetryPolicy {
            attempts: 10,
            codes: "500".parse().expect("codes"),
            min_wait: Duration::from_secs(10),
            max_wait: Duration::from_secs(120),
            jitter,
        }
    }

    fn policy_with(min: u64, max: u64, full: bool) -> RetryPolicy {
        let settings = RetrySettings {
            min_wait: Some(Duration::from_millis(min)),
            max_wait: Some(Duration::from_millis(max)),
            ..RetrySettings::default()
        };
        policy(if full { Jitter::Full } else { Jitter::Equal }).with(&settings)
    }

    #[test]
    fn a_pause_doubles_up_to_the_longest() {
        let seconds = |jitter, failed, chance| policy(jitter).pause(failed, chance).as_secs();
        for (failed, full, equal) in [
            (1, (10, 20), (10, 20)),
            (2, (10, 40), (20, 40)),
            (3, (10, 80), (40, 80)),
            (4, (10, 120), (60, 120)),
        ] {
            let both = |jitter| (seconds(jitter, failed, 0.0), seconds(jitter, failed, 1.0));
            assert_eq!((both(Jitter::Full), both(Jitter::Equal)), (full, equal), "after {failed}");
        }
        assert_eq!(seconds(Jitter::Full, u32::MAX, 1.0), 120);
        assert_eq!(seconds(Jitter::Full, 1, 0.5), 15);
    }

    proptest! {
        #[test]
        fn a_pause_keeps_its_bounds(
            min in 0u64..100_000, max in 0u64..100_000, failed in any::<u32>(), chance in 0.0f64..=1.0, full in any::<bool>(),
        ) {
            let policy = policy_with(min, max, full);
            let pause = policy.pause(failed, chance);
            prop_assert!(pause >= policy.min_wait && pause <= policy.max_wait, "{pause:?} of {policy:?}");
        }

        /// Against the same in milliseconds and by hand: doubled once for each attempt that failed.
        #[test]
        fn a_pause_is_what_the_documentation_says(
            min in 1u64..100_000, max in 1u64..10_000_000, failed in 1u32..40, chance in 0.0f64..=1.0, full in any::<bool>(),
        ) {
            let max = max.max(min);
            let mut longest = u128::from(min);
            for _ in 0..failed {
                longest = (longest * 2).min(u128::from(max));
            }
            let longest = longest as f64;
            let shortest = if full { min as f64 } else { (longest / 2.0).max(min as f64) };
            let wanted = shortest + (longest - shortest) * chance;
            let policy = policy_with(min, max, full);
            let found = policy.pause(failed, chance).as_secs_f64() * 1000.0;
            prop_assert!((found - wanted).abs() < 0.001, "{found} instead of {wanted}");
        }

        #[test]
        fn no_text_is_more_than_an_error(text in "\\PC{0,20}") {
            let _ = text.parse::<Codes>();
            let _ = attempts(&text);
        }
    }
}
