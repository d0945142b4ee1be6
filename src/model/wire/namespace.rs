//! Namespaces.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A namespace as created, updated and described.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Labels; `openfaas: "1"` marks a namespace for functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}
