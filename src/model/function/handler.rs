//! What names a function's code that is not part of its image.

use std::fmt;
use std::str::FromStr;

use super::Invalid;

/// What all of them begin with.
const ALGORITHM: &str = "sha256:";

/// The digest of the archive that a handler was handed over as: `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandlerDigest(Box<str>);

impl HandlerDigest {
    /// That of an archive with this hash.
    pub fn of(hash: &[u8; 32]) -> Self {
        Self(format!("{ALGORITHM}{}", hex::encode(hash)).into())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        &self.0[ALGORITHM.len()..]
    }
}

impl FromStr for HandlerDigest {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.strip_prefix(ALGORITHM).unwrap_or_default();
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 64 && digits.bytes().all(is_digit) {
            return Ok(Self(text.into()));
        }
        Err(Invalid::new("handler", format!("{text:?} is not a digest: sha256: and 64 digits, 0-9 and a-f")))
    }
}

impl fmt::Display for HandlerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_can_be_the_name_of_a_directory() {
        let digest = HandlerDigest::of(&[0xab; 32]);
        assert_eq!(digest.as_str().parse(), Ok(digest.clone()));
        assert_eq!(digest.hex(), "ab".repeat(32));
        for text in [
            String::new(),
            "ab".repeat(32),
            format!("sha256:{}", "AB".repeat(32)),
            format!("sha256:{}", "a".repeat(63)),
            format!("sha512:{}", "ab".repeat(32)),
            format!("sha256:../{}", "a".repeat(61)),
        ] {
            assert!(text.parse::<HandlerDigest>().is_err(), "{text}");
        }
    }
}
