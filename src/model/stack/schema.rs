//! The stack file's YAML: `stack.yml` version 1.0, the part of it that deploying needs.
//!
//! Every scalar is taken as the text that it is written as: `1.10` in `environment` stays `1.10`, as it
//! does in faas-cli. Merge keys (`<<: *base`) work in a function and in its maps.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::wire::{Deployment, Resources};

/// The keys of a function that are read; those of [`IGNORED_FUNCTION_KEYS`] are known, and for building.
const FUNCTION_KEYS: [&str; 13] = [
    "<<",
    "annotations",
    "constraints",
    "environment",
    "environment_file",
    "fprocess",
    "image",
    "labels",
    "limits",
    "namespace",
    "readonly_root_filesystem",
    "requests",
    "secrets",
];
const IGNORED_FUNCTION_KEYS: [&str; 8] =
    ["build_args", "build_options", "build_secrets", "copy", "handler", "lang", "platforms", "skip_build"];

/// A whole stack file.
#[serde_with::skip_serializing_none]
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) version: Option<String>,
    pub(super) provider: Option<Provider>,
    pub(super) namespaces: Option<BTreeMap<String, Option<Namespace>>>,
    pub(super) functions: Option<BTreeMap<String, Option<Function>>>,
}

/// `provider`
#[serde_with::skip_serializing_none]
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Provider {
    pub(super) name: Option<String>,
    pub(super) gateway: Option<String>,
}

/// One of `namespaces`
#[serde_with::skip_serializing_none]
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Namespace {
    pub(super) labels: Option<Texts>,
    pub(super) annotations: Option<Texts>,
}

/// One of `functions`, in the order in which people write it.
#[serde_with::skip_serializing_none]
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Function {
    #[serde(rename = "<<")]
    base: Option<Bases>,
    pub(super) image: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) fprocess: Option<String>,
    pub(super) environment: Option<Texts>,
    pub(super) environment_file: Option<Vec<String>>,
    pub(super) secrets: Option<Vec<String>>,
    pub(super) labels: Option<Texts>,
    pub(super) annotations: Option<Texts>,
    pub(super) constraints: Option<Vec<String>>,
    pub(super) limits: Option<Resources>,
    pub(super) requests: Option<Resources>,
    pub(super) readonly_root_filesystem: Option<bool>,
}

/// What `<<` points at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Bases {
    One(Box<Function>),
    Many(Vec<Function>),
}

impl Function {
    /// The function with its bases filled in: its own keys count before theirs, earlier bases before later ones.
    pub(super) fn merged(mut self) -> Self {
        let bases = match self.base.take() {
            None => return self,
            Some(Bases::One(base)) => vec![*base],
            Some(Bases::Many(bases)) => bases,
        };
        for base in bases {
            let base = base.merged();
            self.image = self.image.or(base.image);
            self.namespace = self.namespace.or(base.namespace);
            self.fprocess = self.fprocess.or(base.fprocess);
            self.environment = self.environment.or(base.environment);
            self.environment_file = self.environment_file.or(base.environment_file);
            self.secrets = self.secrets.or(base.secrets);
            self.labels = self.labels.or(base.labels);
            self.annotations = self.annotations.or(base.annotations);
            self.constraints = self.constraints.or(base.constraints);
            self.limits = self.limits.or(base.limits);
            self.requests = self.requests.or(base.requests);
            self.readonly_root_filesystem = self.readonly_root_filesystem.or(base.readonly_root_filesystem);
        }
        self
    }
}

impl From<Deployment> for Function {
    fn from(deployment: Deployment) -> Self {
        Self {
            image: Some(deployment.image),
            namespace: deployment.namespace,
            fprocess: deployment.env_process,
            environment: deployment.env_vars.map(Texts),
            secrets: deployment.secrets,
            labels: deployment.labels.map(Texts),
            annotations: deployment.annotations.map(Texts),
            constraints: deployment.constraints,
            limits: deployment.limits,
            requests: deployment.requests,
            readonly_root_filesystem: deployment.read_only_root_filesystem,
            ..Self::default()
        }
    }
}

/// A map from names to texts, where a missing value is the empty text.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Texts(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from names to texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut own = BTreeMap::new();
        let mut bases = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "<<" {
                bases = map.next_value::<Texts>()?.0;
            } else if own
                .insert(key.clone(), map.next_value::<Option<String>>()?.unwrap_or_default())
                .is_some()
            {
                return Err(serde::de::Error::custom(format!("{key:?} stands there twice")));
            }
        }
        bases.extend(own);
        Ok(Texts(bases))
    }
}

/// An `environment_file`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct EnvironmentFile {
    pub(super) environment: Option<Texts>,
}

/// Keys that nothing reads and nobody documents: misspelled, or from a newer faas-cli.
pub(super) fn unknown_keys(file: &serde_norway::Value) -> Vec<String> {
    let mut found = Vec::new();
    let of = |value: &serde_norway::Value, known: &[&[&str]], prefix: &str, found: &mut Vec<String>| {
        let keys = value.as_mapping().into_iter().flat_map(|map| map.keys()).filter_map(|key| key.as_str());
        for key in keys.filter(|key| !known.iter().any(|names| names.contains(key)) && !key.starts_with("x-"))
        {
            found.push(format!("{prefix}{key}"));
        }
    };
    of(file, &[&["version", "provider", "namespaces", "functions", "configuration"]], "", &mut found);
    if let Some(provider) = file.get("provider") {
        of(provider, &[&["name", "gateway", "network"]], "provider.", &mut found);
    }
    let functions = file.get("functions").and_then(serde_norway::Value::as_mapping).into_iter().flatten();
    for (name, function) in functions {
        let prefix = format!("functions.{}.", name.as_str().unwrap_or_default());
        of(function, &[&FUNCTION_KEYS, &IGNORED_FUNCTION_KEYS], &prefix, &mut found);
        for part in ["limits", "requests"] {
            if let Some(resources) = function.get(part) {
                of(resources, &[&["memory", "cpu"]], &format!("{prefix}{part}."), &mut found);
            }
        }
    }
    found
}
