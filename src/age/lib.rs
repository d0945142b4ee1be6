//! Files that a passphrase keeps closed, in the format of [age](https://c2sp.org/age): `age -d` opens what is
//! written here, and what `age -p` wrote is opened here.
//!
//! ```text
//! header    salt and cost of the derivation of a key from the passphrase; the file's key, sealed with the
//!           derived one; a code that shows a change of the header
//! payload   a nonce; pieces of 64 KiB, sealed with a key that is derived from it and the file's key
//! ```
//!
//! The crate `age` is not used: for its plugins, its other kinds of recipients and its translations it brings
//! some eighty crates, several of them in a second version. What is needed here is a frame around functions of
//! two libraries, and is tested against the program itself.
//!
//! Whoever has the file's key can write the payload, and needs no passphrase for it. So the passphrase stays
//! with whoever knows it, and so does the memory that its derivation takes.

mod header;
mod payload;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::hkdf;

pub use header::header;
pub use payload::seal;

/// Bytes of a key that is derived from another.
const KEY: usize = 32;
/// Bytes by which a sealed text is longer than what it holds.
const TAG: usize = 16;

/// Why a file could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgeError {
    /// It is of another kind.
    #[error("it is not a file that age wrote (the binary form; not the one with BEGIN and END lines)")]
    NotAge,
    /// It is closed in another way.
    #[error(
        "it is closed for keys, not with a passphrase: open it with 'age -d', and close it with 'age -p'"
    )]
    OtherRecipients,
    /// Opening it would take more memory than is sensible.
    #[error("the passphrase's derivation has cost 2^{0}; at most 2^{max} is taken", max = header::MAX_COST)]
    Cost(u8),
    /// The passphrase does not open it.
    #[error("the passphrase is wrong")]
    Passphrase,
    /// It was changed or cut off.
    #[error("it is damaged, or cut off: take another copy of it")]
    Damaged,
}

/// The key of one file, and of no other.
#[derive(Clone, PartialEq, Eq)]
pub struct FileKey([u8; 16]);

impl FileKey {
    /// A new one.
    pub fn random() -> Self {
        Self(random())
    }

    /// As it is sent.
    pub fn encode(&self) -> String {
        STANDARD_NO_PAD.encode(self.0)
    }

    /// From what [`Self::encode`] gave.
    pub fn decode(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    /// A key for one purpose.
    fn derive(&self, salt: &[u8], purpose: &str) -> [u8; KEY] {
        let mut key = [0; KEY];
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(&self.0)
            .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|derived| derived.fill(&mut key))
            .expect("a key is not too long to be derived");
        key
    }
}

impl std::fmt::Debug for FileKey {
    /// Without the key: this type must not reach a log with it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileKey").finish_non_exhaustive()
    }
}

/// What is in a file, header and payload.
pub fn open(file: &[u8], passphrase: &str) -> Result<Vec<u8>, AgeError> {
    let (key, payload) = header::open(file, passphrase)?;
    payload::open(payload, &key)
}

/// Exactly as many bytes as are wanted, in the one way to write them.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD_NO_PAD.decode(text).ok()?.try_into().ok()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

#[cfg(test)]
mod tests;
