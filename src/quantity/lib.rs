//! Kubernetes quantities and durations: parsed for use, their text kept for the answer.

use std::fmt;
use std::time::Duration;

/// The text as it was sent, and the number that it means.
macro_rules! quantity {
    ($(#[$doc:meta])* $type:ident, $unit:ident, $parse:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $type {
            text: Box<str>,
            $unit: u64,
        }

        impl $type {
            /// Reads a quantity, or says what would be one.
            pub fn parse(text: &str) -> Result<Self, String> {
                Ok(Self { text: text.into(), $unit: $parse(text)? })
            }

            /// The number that is meant.
            pub fn $unit(&self) -> u64 {
                self.$unit
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }
    };
}

quantity!(
    /// An amount of memory, such as `128Mi`.
    Memory,
    bytes,
    parse_bytes
);
quantity!(
    /// A share of processor time, such as `500m` (half a core) or `1.5`.
    Cpu,
    millis,
    parse_millis
);

impl Memory {
    /// Reads an amount of bytes that is not a container's memory, and so may be small.
    pub fn parse_any(text: &str) -> Result<u64, String> {
        parse_amount(text)
    }
}

/// More memory than any machine has: 1 PiB.
const MAX_BYTES: u64 = 1 << 50;
/// More cores than any machine has. The kernel takes no quota of more than that, in thousandths.
const MAX_MILLIS: u64 = 10_000 * 1_000;
/// The longest duration, ten years: a longer one could not be added to a point in time.
const MAX_DURATION: Duration = Duration::from_secs(87_600 * 3600);
/// The smallest memory limit that a container can start with: runc itself needs some.
const MIN_MEMORY: u64 = 4 << 20;

fn parse_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_amount(text)?;
    if bytes < MIN_MEMORY {
        return Err(format!("{text:?} is less than 4Mi, with which no container can start"));
    }
    Ok(bytes)
}

fn parse_amount(text: &str) -> Result<u64, String> {
    let hint = "write bytes, or a number with Ki, Mi, Gi, k, M or G, as in 128Mi";
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let unit: u64 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(format!("{text:?} is not an amount of memory: {hint}")),
    };
    let bytes = scaled(number, unit).ok_or_else(|| format!("{text:?} is not an amount of memory: {hint}"))?;
    if bytes > MAX_BYTES { Err(format!("{text:?} is more than 1024Ti")) } else { Ok(bytes) }
}

fn parse_millis(text: &str) -> Result<u64, String> {
    let error = || format!("{text:?} is not an amount of cpu: write cores (0.5) or thousandths (500m)");
    let millis = match text.strip_suffix('m') {
        Some(number) => scaled(number, 1),
        None => scaled(text, 1_000),
    }
    .ok_or_else(error)?;
    match millis {
        0 => Err(error()),
        1..=MAX_MILLIS => Ok(millis),
        _ => Err(format!("{text:?} is more than 10000 cores")),
    }
}

/// `number * unit` with a decimal fraction, in whole units, without floating point.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || fraction.len() > 9
    {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let exponent = u32::try_from(fraction.len()).ok()?;
    let part = u64::try_from(part * u128::from(unit) / 10u128.pow(exponent)).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// Reads a duration as the watchdogs of this field do: a bare integer is seconds, else parts such
/// as `1m30s`, with the units `ms`, `s`, `m`, `h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time > MAX_DURATION { Err(format!("{text:?} is more than ten years (87600h)")) } else { Ok(time) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is not a duration: write seconds (30) or parts such as 1m30s, 250ms");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let nanos: u64 = match unit {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(error()),
        };
        let part = scaled(number, nanos).ok_or_else(error)?;
        total = total.checked_add(Duration::from_nanos(part)).ok_or_else(error)?;
        rest = tail;
    }
    if text.is_empty() { Err(error()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bytes_and_keeps_its_text() {
        for (text, bytes) in [
            ("5Mi", 5 << 20),
            ("128M", 128_000_000),
            ("1Gi", 1 << 30),
            ("0.5Gi", 1 << 29),
            ("10000k", 10_000_000),
            ("8388608", 8 << 20),
        ] {
            let memory = Memory::parse(text).expect(text);
            assert_eq!(memory.bytes(), bytes, "{text}");
            assert_eq!(memory.to_string(), text);
        }
        // Of what fits into a number, not all is a limit that containers can be given.
        for text in ["1025Ti", "9223372036854775808"] {
            assert!(Memory::parse(text).expect_err(text).contains("more than"), "{text}");
        }
        for text in ["", "Mi", "-5Mi", "5mi", "5 Mi", "1e3", "1Mi", "99999999999Gi", "..5Mi", "5Mib"] {
            assert!(Memory::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_is_thousandths_of_a_core() {
        for (text, millis) in [("1", 1_000), ("0.5", 500), ("250m", 250), ("1.25", 1_250)] {
            assert_eq!(Cpu::parse(text).expect(text).millis(), millis, "{text}");
        }
        for text in ["10001", "18446744073709551m"] {
            assert!(Cpu::parse(text).expect_err(text).contains("more than"), "{text}");
        }
        for text in ["", "0", "m", "-1", "half", "0m"] {
            assert!(Cpu::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_is_seconds_or_parts() {
        for (text, millis) in [("30", 30_000), ("1m30s", 90_000), ("250ms", 250), ("1.5s", 1_500), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["18446744073709551615", "87601h", "5000000h"] {
            assert!(parse_duration(text).expect_err(text).contains("ten years"), "{text}");
        }
        let longest = parse_duration("87600h").expect("the longest");
        assert!(std::time::Instant::now().checked_add(longest * 2).is_some(), "it can be waited for");
        for text in ["", "12moons", "s", "1m30", "-3s", "3 s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
