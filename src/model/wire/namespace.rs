//! Namespaces.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A namespace as created, updated and described.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Labels; `openfaas: "1"` marks a namespace for functions.
    pub labels: Option<BTreeMap<String, String>>,
}
