//! `Retry-After`: when a function wants to be called again.

use std::time::Duration;

/// How long `Retry-After` is obeyed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The pause that `Retry-After` asks for: seconds, or a date, as HTTP has them. One that cannot be read asks for none.
pub(in crate::queue) fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    let pause = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(pause.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,20}") {
            let _ = retry_after(&text, jiff::Timestamp::UNIX_EPOCH);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: jiff::Timestamp = "2026-11-22T08:00:00Z".parse().expect("a time");
        let seconds = |text| retry_after(text, now).map(|pause| pause.as_secs());
        for (text, wanted) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("999999", Some(3600)),
            ("Sun, 22 Nov 2026 08:01:30 GMT", Some(90)),
            ("Sun, 22 Nov 2026 07:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }
}
