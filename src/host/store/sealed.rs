//! A JSON file that says of itself whether it is whole.
//!
//! ```json
//! { "format": 1, "checksum": "sha256:…", "content": { … } }
//! ```
//!
//! The checksum is that of the content as compact JSON with sorted keys, after the format's number. So another
//! layout of the same content is the same file, and any other change is seen.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The latest format.
const FORMAT: u64 = 1;

/// Why the content of a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsealed {
    /// The file could not be read at all; it may be sound.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    /// The file is of a later version of this program.
    #[error(
        "it has format {0}, which is of a later version of ingle; {FORMAT} is the latest that this one knows"
    )]
    Later(u64),
    /// The file is damaged, or was edited.
    #[error("{0}")]
    Broken(String),
}

/// Returns the text of a file with this content.
pub(super) fn seal(content: &impl Serialize) -> Result<String, serde_json::Error> {
    let content = serde_json::to_value(content)?;
    let checksum = checksum(FORMAT, &content);
    let mut text =
        serde_json::to_string_pretty(&json!({ "format": FORMAT, "checksum": checksum, "content": content }))?;
    text.push('\n');
    Ok(text)
}

/// Returns the content of a file whose checksum is right.
pub(super) fn open<T: DeserializeOwned>(path: &Path) -> Result<T, Unsealed> {
    let text = fs::read(path).map_err(Unsealed::Io)?;
    let Parts { format, stated, content } = parts(&text)?;
    let found = checksum(format, &content);
    if stated.as_deref() != Some(found.as_str()) {
        return Err(Unsealed::Broken(
            "its checksum does not match its content: it is damaged, or was edited".into(),
        ));
    }
    serde_json::from_value(content)
        .map_err(|error| Unsealed::Broken(format!("its content is not valid: {error}")))
}

/// Returns the content of a file whose checksum may be wrong, because a person has edited it.
pub(super) fn open_edited<T: DeserializeOwned>(path: &Path) -> Result<T, Unsealed> {
    let text = fs::read(path).map_err(Unsealed::Io)?;
    let Parts { content, .. } = parts(&text)?;
    serde_json::from_value(content)
        .map_err(|error| Unsealed::Broken(format!("its content is not valid: {error}")))
}

struct Parts {
    format: u64,
    stated: Option<String>,
    content: Value,
}

fn parts(text: &[u8]) -> Result<Parts, Unsealed> {
    let file: Value =
        serde_json::from_slice(text).map_err(|error| Unsealed::Broken(format!("it is no JSON: {error}")))?;
    let Value::Object(mut file) = file else { return Err(Unsealed::Broken("it is no JSON object".into())) };
    let format = file.get("format").and_then(Value::as_u64);
    let format = format.ok_or_else(|| Unsealed::Broken("it has no format".into()))?;
    if format > FORMAT {
        return Err(Unsealed::Later(format));
    }
    let content = file.remove("content").ok_or_else(|| Unsealed::Broken("it has no content".into()))?;
    let stated = file.get("checksum").and_then(Value::as_str).map(str::to_owned);
    Ok(Parts { format, stated, content })
}

fn checksum(format: u64, content: &Value) -> String {
    let mut hash = Sha256::new();
    hash.update(format.to_string());
    // A value is always JSON, and its keys are sorted.
    hash.update(content.to_string());
    format!("sha256:{}", hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("written");
        file
    }

    #[test]
    fn a_file_is_what_was_written_whatever_its_layout() {
        let content = json!({ "z": [1, null, "ä\u{1}"], "a": { "y": true, "b": -1 } });
        let text = seal(&content).expect("JSON");
        assert_eq!(open::<Value>(written(&text).path()).expect("whole"), content);
        let compact: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(open::<Value>(written(compact.to_string()).path()).expect("whole"), content);
        let edited = text.replace("true", "false");
        let file = written(edited);
        let error = open::<Value>(file.path()).expect_err("edited").to_string();
        assert!(error.contains("was edited"), "{error}");
        assert_eq!(open_edited::<Value>(file.path()).expect("read")["a"]["y"], false);
        let later = text.replace("\"format\": 1", "\"format\": 2");
        assert!(matches!(open::<Value>(written(later).path()), Err(Unsealed::Later(2))));
    }

    proptest! {
        #[test]
        fn no_damage_goes_unseen(at in 0usize..10_000, bits in 1u8..=255, cut: bool, words in ".{0,80}") {
            let content = json!({ "image": words, "replicas": 3, "env": { "A": "b", "C": words } });
            let mut text = seal(&content).expect("JSON").into_bytes();
            let at = at % text.len();
            if cut { text.truncate(at) } else { text[at] ^= bits }
            // What changes nothing of the content is no damage.
            if let Ok(found) = open::<Value>(written(&text).path()) {
                prop_assert_eq!(found, content);
            }
        }
    }
}
