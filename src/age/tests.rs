use proptest::prelude::*;

use super::*;

const PASSPHRASE: &str = "correct horse battery staple";

fn file(plain: &[u8]) -> Vec<u8> {
    let key = FileKey::random();
    [header(&key, PASSPHRASE), seal(&key, plain)].concat()
}

#[test]
fn a_file_opens_with_its_passphrase_only() {
    let file = file(b"treasure");
    assert_eq!(open(&file, PASSPHRASE), Ok(b"treasure".to_vec()));
    assert_eq!(open(&file, "correct horse"), Err(AgeError::Passphrase));
    assert!(!file.windows(8).any(|bytes| bytes == b"treasure"));
}

#[test]
fn no_byte_can_be_changed_or_cut_off() {
    let whole = file(b"treasure");
    let end = whole.windows(4).position(|bytes| bytes == b"\n---").expect("the header's end");
    // One of each part: version, kind, salt, cost, wrapped key, code, nonce, piece, tag.
    for place in [3, 26, 40, 56, 70, end + 10, whole.len() - 40, whole.len() - 20, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        let error = open(&changed, PASSPHRASE).expect_err("it was changed");
        assert!(place > 21 || error == AgeError::NotAge, "byte {place}: {error}");
    }
    for length in [0, 10, 30, 60, end, end + 5, whole.len() - 30, whole.len() - 1] {
        assert!(open(&whole[..length], PASSPHRASE).is_err(), "{length} bytes");
    }
    assert_eq!(open(&[&whole[..], b"x"].concat(), PASSPHRASE), Err(AgeError::Damaged));
}

#[test]
fn a_cost_without_sense_and_other_recipients_are_refused_at_once() {
    let text = String::from_utf8_lossy(&file(b"")).replacen(" 17\n", " 40\n", 1);
    assert_eq!(open(text.as_bytes(), PASSPHRASE), Err(AgeError::Cost(40)));
    let text = text.replacen(" 40\n", " 017\n", 1);
    assert_eq!(open(text.as_bytes(), PASSPHRASE), Err(AgeError::Damaged), "there is one way to write it");
    let keys = b"age-encryption.org/v1\n-> X25519 abc\nabc\n--- abc\n";
    assert_eq!(open(keys, PASSPHRASE), Err(AgeError::OtherRecipients));
    assert_eq!(open(b"-----BEGIN AGE ENCRYPTED FILE-----\n", PASSPHRASE), Err(AgeError::NotAge));
}

#[test]
fn a_key_is_sent_in_one_way_only() {
    let key = FileKey::random();
    assert_eq!(FileKey::decode(&key.encode()), Some(key.clone()));
    assert_eq!(FileKey::decode(&key.encode()[1..]), None);
    assert_eq!(FileKey::decode(&format!("{}==", key.encode())), None);
    assert!(!format!("{key:?}").contains(&key.encode()));
}

proptest! {
    /// Around the ends of pieces above all.
    #[test]
    fn a_payload_of_any_length_comes_back(pieces in 0_usize..3, off in -2_isize..3, cut in 1_usize..100) {
        let length = (pieces * (64 << 10)).saturating_add_signed(off);
        let plain: Vec<u8> = (0..=250).cycle().take(length).collect();
        let key = FileKey::random();
        let payload = seal(&key, &plain);
        prop_assert_eq!(payload::open(&payload, &key), Ok(plain));
        let short = payload.len().saturating_sub(cut);
        prop_assert_eq!(payload::open(&payload[..short], &key), Err(AgeError::Damaged));
        // A whole piece left out at the end is seen, too.
        if pieces > 1 {
            let cut = 16 + (64 << 10) + 16;
            prop_assert_eq!(payload::open(&payload[..cut], &key), Err(AgeError::Damaged));
        }
    }
}
