//! The id that tells a function from an earlier one of the same name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of one life of a function, from its first deploy to its removal: 16 hexadecimal digits, drawn at
/// random. A function that is deployed after the removal of one with the same name has another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(Box<str>);

impl Incarnation {
    /// Makes an id of a random number.
    pub fn new(random: u64) -> Self {
        Self(format!("{random:016x}").into())
    }

    /// Takes up an id that was made by [`Incarnation::new`]; `None` if the text is no such id.
    pub fn from_existing(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 16 && text.bytes().all(is_digit)).then(|| Self(text.into()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
