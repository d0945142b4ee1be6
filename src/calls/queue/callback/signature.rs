//! Signatures of callbacks, by which a receiver knows who sent them: those of Standard Webhooks
//! (<https://www.standardwebhooks.com>), for which most languages have a library.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::hmac;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// How a secret begins that is written in base64.
const PREFIX: &str = "whsec_";
/// Bytes of a secret at least: a shorter one can be guessed.
const SHORTEST: usize = 16;
/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// Keys that callbacks are signed with: a secret, or an old and a new one for as long as receivers have either.
#[derive(Debug)]
pub(super) struct Keys(Vec<hmac::Key>);

impl Keys {
    /// Reads a file with a secret in each line.
    pub(super) async fn read(path: &Path) -> Result<Self, String> {
        let text = tokio::fs::read_to_string(path).await;
        let text =
            text.map_err(|error| format!("{} (queue.callback_secret_file): {error}", path.display()))?;
        Self::parse(&text)
            .map_err(|reason| format!("{} (queue.callback_secret_file): {reason}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Vec<hmac::Key> = lines
            .enumerate()
            .map(|(index, line)| {
                let secret = match line.strip_prefix(PREFIX) {
                    Some(encoded) => STANDARD.decode(encoded).map_err(|_| {
                        format!("what follows {PREFIX} in secret {} is not base64", index + 1)
                    })?,
                    None => line.as_bytes().to_vec(),
                };
                if secret.len() < SHORTEST {
                    return Err(format!(
                        "secret {} has {} bytes, at least {SHORTEST} are needed: openssl rand -hex 32",
                        index + 1,
                        secret.len()
                    ));
                }
                Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret))
            })
            .collect::<Result<_, String>>()?;
        if keys.is_empty() { Err("there is no secret in it".to_owned()) } else { Ok(Self(keys)) }
    }

    /// Begins to sign a message.
    pub(super) fn begin(&self, id: &str, at: Timestamp) -> Signing {
        let mut signing = Signing(self.0.iter().map(hmac::Context::with_key).collect());
        signing.update(format!("{id}.{}.", at.as_second()).as_bytes());
        signing
    }
}

/// A signature that is being made.
pub(super) struct Signing(Vec<hmac::Context>);

impl Signing {
    pub(super) fn update(&mut self, piece: &[u8]) {
        self.0.iter_mut().for_each(|context| context.update(piece));
    }

    /// The same with what a file has from where it stands to its end; it stands there again afterwards.
    pub(super) async fn update_from(&mut self, file: &mut File) -> io::Result<()> {
        let start = file.stream_position().await?;
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece).await? {
                0 => break,
                count => self.update(&piece[..count]),
            }
        }
        file.seek(io::SeekFrom::Start(start)).await.map(drop)
    }

    /// `v1,` and the signature, of each key.
    pub(super) fn finish(self) -> String {
        let one = |context: hmac::Context| format!("v1,{}", STANDARD.encode(context.sign()));
        self.0.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // The example of the specification.
        let keys = Keys::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("a secret");
        let at = Timestamp::from_second(1_614_265_330).expect("a time");
        let mut signing = keys.begin("msg_p5jXN8AQM9LWM0D4loKWxJek", at);
        signing.update(br#"{"test": "#);
        signing.update(br#"2432232314}"#);
        assert_eq!(signing.finish(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_refused_in_words() {
        for (text, part) in [
            ("", "no secret"),
            ("\n \n", "no secret"),
            ("short", "5 bytes"),
            ("whsec_!!", "not base64"),
            ("a-secret-of-its-own-right\nwhsec_c2hvcnQ=", "secret 2 has 5 bytes"),
        ] {
            let error = Keys::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        let both = Keys::parse("  the-old-one-of-them\r\nthe-new-one-of-them\n").expect("two secrets");
        let signature = both.begin("a", Timestamp::UNIX_EPOCH).finish();
        assert_eq!(signature.split(' ').filter(|one| one.starts_with("v1,")).count(), 2);
    }

    #[tokio::test]
    async fn a_file_is_signed_from_where_it_stands() {
        let keys = Keys::parse("a-secret-of-its-own-right").expect("a secret");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("body");
        std::fs::write(&path, [b"head".to_vec(), vec![b'x'; 2 * PIECE + 1]].concat()).expect("written");
        let mut file = File::open(&path).await.expect("there");
        file.seek(io::SeekFrom::Start(4)).await.expect("moved");
        let mut signing = keys.begin("a", Timestamp::UNIX_EPOCH);
        signing.update_from(&mut file).await.expect("read");
        let mut same = keys.begin("a", Timestamp::UNIX_EPOCH);
        same.update(&vec![b'x'; 2 * PIECE + 1]);
        assert_eq!(signing.finish(), same.finish());
        assert_eq!(file.stream_position().await.expect("it stands"), 4);
    }
}
