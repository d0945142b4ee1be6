//! How a function wants its queued calls to be tried again: `com.openfaas.retry.*`.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

/// Tries of one call at most, whatever a function asks for: each is noted in the job.
const MOST_ATTEMPTS: u32 = 100;
/// What it says; the configuration's defaults stand in for what is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetrySettings {
    /// `attempts`: tries in all, the first one included.
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
            let (first, last) = match item.split_once('-') {
                Some((first, last)) => (code(first)?, code(last)?),
                None => (code(item)?, code(item)?),
            };
            if first > last {
                return Err(format!("{item:?} ends before it begins"));
            }
            codes.extend(first..=last);
        }
        Ok(Self(codes))
    }
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

    proptest! {
        #[test]
        fn no_text_is_more_than_an_error(text in "\\PC{0,20}") {
            let _ = text.parse::<Codes>();
            let _ = attempts(&text);
        }
    }
}
