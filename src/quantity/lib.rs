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
    /// Reads memory that is asked for, which may be less than a container starts with.
    pub fn parse_request(text: &str) -> Result<Self, String> {
        Ok(Self { text: text.into(), bytes: parse_amount(text)? })
    }

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
    if (1..MIN_MEMORY).contains(&bytes) {
        return Err(format!("{text:?} is less than 4Mi, with which no container can start"));
    }
    Ok(bytes)
}

fn parse_amount(text: &str) -> Result<u64, String> {
    let hint = "write bytes, or a number with Ki, Mi, Gi, k, M or G, as in 128Mi";
    let bytes = read(text, 0).map_err(|error| error.of(text, "memory", hint, "1024Ti"))?;
    if bytes > MAX_BYTES {
        Err(QuantityError::TooLarge.of(text, "memory", hint, "1024Ti"))
    } else {
        Ok(bytes)
    }
}

fn parse_millis(text: &str) -> Result<u64, String> {
    let hint = "write cores (0.5) or thousandths (500m)";
    let millis = read(text, 3).map_err(|error| error.of(text, "cpu", hint, "10000 cores"))?;
    if millis > MAX_MILLIS {
        Err(QuantityError::TooLarge.of(text, "cpu", hint, "10000 cores"))
    } else {
        Ok(millis)
    }
}

/// Why a text is no quantity.
enum QuantityError {
    Malformed,
    Negative,
    TooLarge,
}

impl QuantityError {
    fn of(self, text: &str, what: &str, hint: &str, most: &str) -> String {
        match self {
            Self::Malformed => format!("{text:?} is not an amount of {what}: {hint}"),
            Self::Negative => format!("{text:?} is negative: {hint}; 0 sets nothing"),
            Self::TooLarge => format!("{text:?} is more than {most}"),
        }
    }
}

/// Digits behind the point that count; Kubernetes rounds up what is smaller.
const FRACTION: usize = 9;

/// Reads a quantity as Kubernetes does, in units of so many decimal places, rounded up.
fn read(text: &str, places: i32) -> Result<u64, QuantityError> {
    use QuantityError::{Malformed, Negative, TooLarge};
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (shift, exponent) = match suffix {
        "" => (0, 0),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        _ => {
            let digits = suffix.strip_prefix(['e', 'E']).ok_or(Malformed)?;
            (0, digits.parse::<i16>().map_err(|_| Malformed)?.into())
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(Malformed);
    }
    let (fraction, rest) = fraction.split_at(fraction.len().min(FRACTION));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let is_more = rest.bytes().any(|digit| digit != b'0');
    if digits.is_empty() && !is_more {
        return Ok(0);
    }
    if text.starts_with('-') {
        return Err(Negative);
    }
    let number: u128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| TooLarge)? };
    let number = (number + u128::from(is_more)).checked_mul(1 << shift).ok_or(TooLarge)?;
    let exponent = exponent + places - i32::try_from(fraction.len()).map_err(|_| TooLarge)?;
    let power = 10u128.checked_pow(exponent.unsigned_abs());
    let number = match (exponent < 0, power) {
        (true, Some(power)) => number.div_ceil(power),
        (true, None) => 1,
        (false, power) => power.and_then(|power| number.checked_mul(power)).ok_or(TooLarge)?,
    };
    u64::try_from(number).map_err(|_| TooLarge)
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
        for text in [
            "", "Mi", "5mi", "5 Mi", " 5Mi", "5Mi ", "1e", "1e1.5", "..5Mi", "5.5.Mi", "5Mib", "5K", "5MB",
            "0x5",
        ] {
            assert!(Memory::parse(text).expect_err(text).contains("is not an amount of memory"), "{text}");
        }
    }

    /// As apimachinery's `resource.Quantity` has them: `Value` for memory, `MilliValue` for cpu.
    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, bytes) in [
            ("0", 0),
            ("0m", 0),
            ("0Mi", 0),
            ("-0", 0),
            ("+0.0Gi", 0),
            ("0e9", 0),
            ("1", 1),
            ("+1Ki", 1024),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129E6", 129_000_000),
            ("129M", 129_000_000),
            ("128974848000m", 128_974_848),
            ("123Mi", 123 << 20),
            ("1e3", 1000),
            ("1.5e3", 1500),
            ("1e-3", 1),
            ("12e+2", 1200),
            ("100m", 1),
            ("1u", 1),
            ("1500n", 1),
            (".5Ki", 512),
            ("5.Ki", 5 << 10),
            ("0.1Ki", 103),
            ("1.0000000001", 2),
            ("0.001P", 1_000_000_000_000),
            ("0.0001Ei", 115_292_150_460_685),
            ("000000000000000000000000000000000000000000001k", 1000),
            ("1024Ti", 1 << 50),
            ("1Pi", 1 << 50),
        ] {
            assert_eq!(Memory::parse_any(text), Ok(bytes), "{text}");
        }
        for (text, millis) in [
            ("0", 0),
            ("0m", 0),
            ("-0m", 0),
            ("100m", 100),
            ("0.1", 100),
            ("2e-1", 200),
            ("0.5m", 1),
            ("100u", 1),
            ("1500000n", 2),
            ("1k", 1_000_000),
            ("1.5", 1_500),
            ("4Ki", 4_096_000),
        ] {
            assert_eq!(Cpu::parse(text).expect(text).millis(), millis, "{text}");
        }
        for text in ["-5Mi", "-1", "-1m", "-1e3", "-.5"] {
            assert!(Memory::parse(text).expect_err(text).contains("is negative"), "{text}");
            assert!(Cpu::parse(text).expect_err(text).contains("is negative"), "{text}");
        }
        for text in
            ["1E", "2Ei", "99999999999Gi", "1e99", "1e30000", "999999999999999999999999999999999999999999"]
        {
            assert!(Memory::parse_any(text).expect_err(text).contains("more than"), "{text}");
        }
        // A limit that no container can start with is refused; nothing at all is no limit.
        assert!(Memory::parse("1Mi").expect_err("too small").contains("less than 4Mi"));
        assert_eq!(Memory::parse("0").expect("no limit").bytes(), 0);
        assert_eq!(Memory::parse_request("1Mi").expect("a request").bytes(), 1 << 20);
    }

    #[test]
    fn cpu_is_thousandths_of_a_core() {
        for (text, millis) in [("1", 1_000), ("0.5", 500), ("250m", 250), ("1.25", 1_250)] {
            assert_eq!(Cpu::parse(text).expect(text).millis(), millis, "{text}");
        }
        for text in ["10001", "18446744073709551m"] {
            assert!(Cpu::parse(text).expect_err(text).contains("more than"), "{text}");
        }
        for text in ["", "m", "half", "1 ", "1cores", "e3"] {
            assert!(Cpu::parse(text).expect_err(text).contains("is not an amount of cpu"), "{text}");
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
