//! The header: who may open the file. Here it is always one passphrase.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use scrypt::Params;

use super::{AgeError, FileKey, KEY, TAG, decode, random};

const VERSION: &str = "age-encryption.org/v1";
const LABEL: &[u8] = b"age-encryption.org/v1/scrypt";
/// Binary logarithm of the cost of a guess: 128 MiB of memory, and half a second of a small machine's time.
const COST: u8 = 17;
/// The greatest cost that is taken: 1 GiB. `age` itself writes 18.
pub(super) const MAX_COST: u8 = 20;
/// Headers are some 150 bytes.
const MAX_HEADER: usize = 4096;

/// The header that gives the file's key to whoever knows the passphrase. Takes 128 MiB meanwhile.
pub fn header(key: &FileKey, passphrase: &str) -> Vec<u8> {
    let salt: [u8; 16] = random();
    let mut wrapped = key.0.to_vec();
    wrapping(passphrase, &salt, COST)
        .seal_in_place_append_tag(nonce(), Aad::empty(), &mut wrapped)
        .expect("a key is not too long to be sealed");
    let [salt, wrapped] = [&salt[..], &wrapped].map(|bytes| STANDARD_NO_PAD.encode(bytes));
    let mut text = format!("{VERSION}\n-> scrypt {salt} {COST}\n{wrapped}\n---").into_bytes();
    let code = hmac::sign(&authentication(key), &text);
    text.extend_from_slice(format!(" {}\n", STANDARD_NO_PAD.encode(code)).as_bytes());
    text
}

/// The file's key, and what follows the header.
pub(super) fn open<'a>(file: &'a [u8], passphrase: &str) -> Result<(FileKey, &'a [u8]), AgeError> {
    let mut rest = file;
    let mut line = || {
        let end = rest.iter().take(MAX_HEADER).position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        rest = &rest[end + 1..];
        Some(line)
    };
    if line() != Some(VERSION) {
        return Err(AgeError::NotAge);
    }
    let stanza = line().and_then(|line| line.strip_prefix("-> ")).ok_or(AgeError::Damaged)?;
    let arguments = stanza.strip_prefix("scrypt ").ok_or(AgeError::OtherRecipients)?;
    let (salt, cost) = arguments.split_once(' ').ok_or(AgeError::Damaged)?;
    let salt: [u8; 16] = decode(salt).ok_or(AgeError::Damaged)?;
    let number = cost.parse().ok().filter(|number: &u8| number.to_string() == cost);
    let cost = number.ok_or(AgeError::Damaged)?;
    let mut wrapped: [u8; 16 + TAG] = line().and_then(decode).ok_or(AgeError::Damaged)?;
    // A passphrase stands alone, so the end of the header follows.
    let code = line().and_then(|line| line.strip_prefix("--- ")).ok_or(AgeError::Damaged)?;
    let signed = file.len() - rest.len() - code.len() - " \n".len();
    let code: [u8; 32] = decode(code).ok_or(AgeError::Damaged)?;
    if !(1..=MAX_COST).contains(&cost) {
        return Err(AgeError::Cost(cost));
    }
    let key = wrapping(passphrase, &salt, cost)
        .open_in_place(nonce(), Aad::empty(), &mut wrapped)
        .map_err(|_| AgeError::Passphrase)?;
    let key = FileKey(key.try_into().expect("of the length that it was sealed with"));
    hmac::verify(&authentication(&key), &file[..signed], &code).map_err(|_| AgeError::Damaged)?;
    Ok((key, rest))
}

/// The key that the passphrase stands for.
fn wrapping(passphrase: &str, salt: &[u8], cost: u8) -> LessSafeKey {
    let mut key = [0; KEY];
    let params = Params::new(cost, 8, 1, KEY).expect("the cost is within limits");
    let salt = [LABEL, salt].concat();
    scrypt::scrypt(passphrase.as_bytes(), &salt, &params, &mut key).expect("a key is not too long");
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("of the right length"))
}

/// Always the same: a key that was derived with a random salt is used once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// The key of the code over the header.
fn authentication(key: &FileKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &key.derive(&[], "header"))
}
