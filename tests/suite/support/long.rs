//! How long the tests are that get better the longer they run.
//!
//! `INGLE_TESTS_LONG=ROUNDS` or `INGLE_TESTS_LONG=ROUNDS,SEED` asks for the long form of each of them; without
//! it they run in a form short enough for every change.

use std::env::VarError;

/// The variable, for messages.
pub(crate) const VARIABLE: &str = "INGLE_TESTS_LONG";

/// What the variable asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Long {
    pub(crate) rounds: u32,
    pub(crate) seed: Option<u64>,
}

/// The long form, if it is asked for.
pub(crate) fn long() -> Option<Long> {
    #[expect(clippy::disallowed_methods, reason = "a variable of the tests, not a setting")]
    match std::env::var(VARIABLE) {
        Ok(text) => Some(parse(&text).unwrap_or_else(|| panic!("{VARIABLE}={text} is not ROUNDS[,SEED]"))),
        Err(VarError::NotPresent) => None,
        Err(error) => panic!("{VARIABLE}: {error}"),
    }
}

fn parse(text: &str) -> Option<Long> {
    let (rounds, seed) = match text.split_once(',') {
        Some((rounds, seed)) => (rounds, Some(seed.parse().ok()?)),
        None => (text, None),
    };
    Some(Long { rounds: rounds.parse().ok()?, seed })
}

/// Numbers that look like chance, the same for the same seed (SplitMix64).
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that no other run has had.
    pub(crate) fn any_seed() -> u64 {
        uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of `all`, if there is any.
    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let end = u64::try_from(all.len()).expect("a length");
        (end > 0).then(|| &all[usize::try_from(self.below(end)).expect("a position")])
    }
}

mod tests {
    use super::*;

    #[test]
    fn rounds_and_a_seed_are_read() {
        assert_eq!(parse("100"), Some(Long { rounds: 100, seed: None }));
        assert_eq!(parse("100,7"), Some(Long { rounds: 100, seed: Some(7) }));
        for bad in ["", "many", "100,", "100,x", "1,2,3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed_and_reaches_everything() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            (0..200).map(|_| *chance.one_of(&[0, 1, 2, 3]).expect("one")).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!((0..4).all(|n| draw(7).contains(&n)));
        assert_eq!(Chance::new(7).one_of::<u8>(&[]), None);
    }
}
