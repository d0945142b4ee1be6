//! Patterns of `${NAME#pattern}`: `*`, `?`, `[a-z]`, `[^a-z]`, and a backslash before a character that is meant itself.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::RangeInclusive;
use std::str::Chars;

/// One pattern.
#[derive(Debug)]
pub(super) struct Glob(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    /// Any text, slashes included.
    Star,
    /// One character, and whether it is one of these or none of them.
    One { is_in: bool, ranges: Vec<RangeInclusive<char>> },
}

impl Glob {
    /// Reads a pattern. `None`: it is malformed, and matches nothing.
    pub(super) fn parse(pattern: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(char) = chars.next() {
            pieces.push(match char {
                '*' => Piece::Star,
                '?' => Piece::One { is_in: false, ranges: Vec::new() },
                '[' => class(&mut chars)?,
                '\\' => literal(chars.next()?),
                char => literal(char),
            });
        }
        Some(Self(pieces))
    }

    /// The bytes of the shortest beginning of `text` that matches and is not empty.
    pub(super) fn shortest(&self, text: &str) -> Option<usize> {
        self.ends(text).next()
    }

    /// The bytes of the longest beginning of `text` that matches and is not empty.
    pub(super) fn longest(&self, text: &str) -> Option<usize> {
        self.ends(text).last()
    }

    /// Returns the ends of beginnings that match, each place in the pattern being looked at once for a character.
    fn ends(&self, text: &str) -> impl Iterator<Item = usize> {
        let mut places = BTreeSet::new();
        self.enter(0, &mut places);
        let ends = text.char_indices().map_while(move |(index, char)| {
            let mut next = BTreeSet::new();
            for place in &places {
                match self.0.get(*place) {
                    Some(Piece::Star) => self.enter(*place, &mut next),
                    Some(piece) if piece.takes(char) => self.enter(place + 1, &mut next),
                    _ => {}
                }
            }
            places = std::mem::take(&mut next);
            let end = places.contains(&self.0.len()).then_some(index + char.len_utf8());
            (!places.is_empty()).then_some(end)
        });
        ends.flatten()
    }

    /// Adds a place, and those behind stars that may stand for nothing.
    fn enter(&self, mut place: usize, places: &mut BTreeSet<usize>) {
        while places.insert(place) && matches!(self.0.get(place), Some(Piece::Star)) {
            place += 1;
        }
    }
}

impl Piece {
    fn takes(&self, char: char) -> bool {
        match self {
            Self::Star => true,
            Self::One { is_in, ranges } => ranges.iter().any(|range| range.contains(&char)) == *is_in,
        }
    }
}

fn literal(char: char) -> Piece {
    Piece::One { is_in: true, ranges: vec![char..=char] }
}

/// Reads a class behind its `[`.
fn class(chars: &mut Peekable<Chars<'_>>) -> Option<Piece> {
    let is_in = chars.next_if_eq(&'^').is_none();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let first = member(chars)?;
        let last = if chars.next_if_eq(&'-').is_some() { member(chars)? } else { first };
        ranges.push(first..=last);
    }
    Some(Piece::One { is_in, ranges })
}

fn member(chars: &mut Peekable<Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        char => Some(char),
    }
}
