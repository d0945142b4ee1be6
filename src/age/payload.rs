//! The payload: pieces, each sealed, so that none can be changed, moved, or left out.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{AgeError, FileKey, TAG, random};

/// Bytes of each piece but the last.
const PIECE: usize = 64 << 10;
/// Bytes of the nonce that the payload begins with.
const NONCE: usize = 16;

/// The payload that holds `plain`, to be put behind a header.
pub fn seal(key: &FileKey, plain: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE] = random();
    let sealing = cipher(key, &nonce);
    // Nothing at all is one empty piece.
    let last = plain.len().saturating_sub(1) / PIECE;
    let mut payload = Vec::with_capacity(NONCE + plain.len() + (last + 1) * TAG);
    payload.extend_from_slice(&nonce);
    for number in 0..=last {
        let piece = &plain[number * PIECE..plain.len().min((number + 1) * PIECE)];
        let start = payload.len();
        payload.extend_from_slice(piece);
        let tag = sealing
            .seal_in_place_separate_tag(counter(number, number == last), Aad::empty(), &mut payload[start..])
            .expect("a piece is not too long to be sealed");
        payload.extend_from_slice(tag.as_ref());
    }
    payload
}

/// What [`seal`] was given.
pub(super) fn open(payload: &[u8], key: &FileKey) -> Result<Vec<u8>, AgeError> {
    let (nonce, sealed) = payload.split_at_checked(NONCE).ok_or(AgeError::Damaged)?;
    let opening = cipher(key, nonce);
    let last = sealed.len().saturating_sub(1) / (PIECE + TAG);
    let mut plain = Vec::with_capacity(sealed.len());
    for number in 0..=last {
        let start = number * (PIECE + TAG);
        let mut piece = sealed[start..sealed.len().min(start + PIECE + TAG)].to_vec();
        let opened = opening
            .open_in_place(counter(number, number == last), Aad::empty(), &mut piece)
            .map_err(|_| AgeError::Damaged)?;
        // Nothing is empty but the whole.
        if opened.is_empty() && number > 0 {
            return Err(AgeError::Damaged);
        }
        plain.extend_from_slice(opened);
    }
    Ok(plain)
}

fn cipher(key: &FileKey, nonce: &[u8]) -> LessSafeKey {
    let key = key.derive(nonce, "payload");
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("of the right length"))
}

/// Eleven bytes that count, and one that marks the end.
fn counter(number: usize, is_last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[3..11].copy_from_slice(&(number as u64).to_be_bytes());
    bytes[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(bytes)
}
