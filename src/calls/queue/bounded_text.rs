//! Text from clients and functions in rows, bounded so that rows stay small.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// Text of at most `BYTES` bytes in JSON. Longer text is cut and ends with an ellipsis, also when it is read
/// from a row that an earlier version wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "String")]
pub struct BoundedText<const BYTES: usize>(Box<str>);

impl<const BYTES: usize> BoundedText<BYTES> {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const BYTES: usize> PartialEq<str> for BoundedText<BYTES> {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl<const BYTES: usize> PartialEq<&str> for BoundedText<BYTES> {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl<const BYTES: usize> From<&str> for BoundedText<BYTES> {
    fn from(text: &str) -> Self {
        let mut size = 0;
        for (at, char) in text.char_indices() {
            size += match char {
                '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
                '\0'..='\x1f' => 6,
                _ => char.len_utf8(),
            };
            if size > BYTES {
                return Self(format!("{}…", &text[..at]).into());
            }
        }
        Self(text.into())
    }
}

impl<const BYTES: usize> From<String> for BoundedText<BYTES> {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl<const BYTES: usize> From<BoundedText<BYTES>> for String {
    fn from(text: BoundedText<BYTES>) -> Self {
        text.0.into()
    }
}

impl<const BYTES: usize> Serialize for BoundedText<BYTES> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<const BYTES: usize> Deref for BoundedText<BYTES> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const BYTES: usize> fmt::Display for BoundedText<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_is_cut_to_its_size_in_json(text in prop_oneof![".{0,40}", "[\"\\\\\u{0}-\u{20}\u{fc}a]{0,40}"]) {
            let kept = BoundedText::<24>::from(text.as_str());
            let json = serde_json::to_string(&kept).expect("text is JSON");
            prop_assert!(json.len() <= 2 + 24 + "…".len(), "{json}");
            let is_whole = serde_json::to_string(&text).expect("text is JSON").len() <= 2 + 24;
            prop_assert_eq!(&*kept == text.as_str(), is_whole);
            prop_assert!(is_whole || text.starts_with(kept.trim_end_matches('…')));
            let again: BoundedText<24> = serde_json::from_str(&json).expect("text");
            prop_assert!(again == kept || !is_whole);
            let read: BoundedText<24> =
                serde_json::from_str(&serde_json::to_string(&text).expect("text is JSON")).expect("text");
            prop_assert_eq!(read, kept);
        }
    }
}
