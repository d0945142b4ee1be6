//! Secrets.

use serde::{Deserialize, Serialize};

/// A secret as sent; answers never carry a value.
#[serde_with::skip_serializing_none]
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: Option<String>,
    /// The value as text.
    pub value: Option<String>,
    /// The value as base64; counts before `value`.
    pub raw_value: Option<String>,
}

/// Asks for the values of secrets, sealed.
#[derive(Clone, Serialize, Deserialize)]
pub struct SecretsExport {
    /// The key of an age file, which the answer is the payload of: 16 bytes in base64 without padding.
    pub key: String,
}

impl std::fmt::Debug for SecretsExport {
    /// Without the key: this type must not reach a log with it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretsExport").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Secret {
    /// Without the value: this type must not reach a log with it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
