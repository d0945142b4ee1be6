//! One of the five fields: which of its values are meant.

/// What a field may hold.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Its name in errors.
    name: &'static str,
    /// What to write instead, in errors.
    allowed: &'static str,
    first: u8,
    last: u8,
    /// Also understood, beyond `last`: 7 is Sunday, too.
    most: u8,
    /// Names of the values, from `first` on.
    names: &'static [&'static str],
}

/// The five of them, in order.
pub(crate) const KINDS: [Kind; 5] = [
    Kind { name: "minute", allowed: "0 to 59", first: 0, last: 59, most: 59, names: &[] },
    Kind { name: "hour", allowed: "0 to 23", first: 0, last: 23, most: 23, names: &[] },
    Kind { name: "day of the month", allowed: "1 to 31", first: 1, last: 31, most: 31, names: &[] },
    Kind {
        name: "month",
        allowed: "1 to 12 or JAN to DEC",
        first: 1,
        last: 12,
        most: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Kind {
        name: "day of the week",
        allowed: "0 to 7 (0 and 7 are Sunday) or SUN to SAT",
        first: 0,
        last: 6,
        most: 7,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    },
];

/// The values of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field {
    /// A bit for each value.
    bits: u64,
    /// It begins with a star, which is more than that it has all values: with days, it says that the field does not
    /// choose; with minutes and hours, that the schedule is one that goes on and on.
    pub(crate) star: bool,
}

impl Field {
    /// Whether a value is meant.
    pub(crate) fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits & (1 << value) != 0)
    }

    /// Whether all values are meant, of which there are so many.
    pub(crate) fn has_all(self, count: u32) -> bool {
        self.bits.count_ones() == count
    }

    /// The values in order.
    pub(crate) fn values(self) -> impl Iterator<Item = i8> {
        (0..60).filter(move |value| self.has(*value))
    }
}

impl Kind {
    /// Reads a field: values, ranges and steps, with commas between them.
    pub(crate) fn parse(&self, text: &str) -> Result<Field, String> {
        let mut bits = 0;
        for item in text.split(',') {
            let (first, last, step) = self.item(item)?;
            bits |= (first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value);
        }
        // Sunday has two numbers.
        if self.most > self.last && bits & 1 << self.most != 0 {
            bits = bits & !(1 << self.most) | 1 << self.first;
        }
        Ok(Field { bits, star: text.starts_with(['*', '?']) })
    }

    fn item(&self, item: &str) -> Result<(u8, u8, usize), String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (self.first, self.last),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            // 5/15 goes on to the end, as with the scheduler that OpenFaaS has.
            None if step.is_some() => (self.value(range)?, self.last),
            None => (self.value(range)?, self.value(range)?),
        };
        // A week may end with Sunday.
        let last = if self.most > self.last && last == self.first && first > last { self.most } else { last };
        if first > last {
            return Err(format!(
                "the {} {item:?} ends before it begins: allowed is {}",
                self.name, self.allowed
            ));
        }
        Ok((first, last, step.unwrap_or(1)))
    }

    fn step(&self, text: &str) -> Result<usize, String> {
        let most = usize::from(self.last - self.first) + 1;
        let step = number(text).map(usize::from).filter(|step| (1..=most).contains(step));
        step.ok_or_else(|| format!("the step {text:?} of the {} is not allowed: 1 to {most} is", self.name))
    }

    fn value(&self, text: &str) -> Result<u8, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match named {
            Some(place) => u8::try_from(place).ok().map(|place| place + self.first),
            None => number(text),
        };
        value.filter(|value| (self.first..=self.most).contains(value)).ok_or_else(|| {
            format!(
                "the {} {text:?} is not allowed: {} is, with lists (1,2), ranges (1-5) and steps (*/2)",
                self.name, self.allowed
            )
        })
    }
}

/// Digits only: a sign is not one.
fn number(text: &str) -> Option<u8> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}
