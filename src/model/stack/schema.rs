//! The stack file's YAML: `stack.yml` version 1.0, the part of it that deploying needs.
//!
//! Every scalar is taken as the text that it is written as: `1.10`, `0o17`, `1:30` and `yes` in `environment` stay so,
//! as they do in faas-cli, and what is true or false may be said in the words of YAML 1.1. Merge keys (`<<: *base`)
//! work in maps of functions, in a function and in its maps.

use std::collections::BTreeMap;
use std::fmt;

use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess as _, Visitor};
use serde::{Deserialize, Serialize};

use crate::wire::{Deployment, Resources};

/// The keys of a function that are read; those of [`IGNORED_FUNCTION_KEYS`] are known, and for building.
const FUNCTION_KEYS: [&str; 16] = [
    "<<",
    "annotations",
    "constraints",
    "environment",
    "environment_file",
    "fprocess",
    "handler",
    "image",
    "labels",
    "lang",
    "limits",
    "namespace",
    "readonly_root_filesystem",
    "requests",
    "secrets",
    "skip_build",
];
const IGNORED_FUNCTION_KEYS: [&str; 5] =
    ["build_args", "build_options", "build_secrets", "copy", "platforms"];

/// A whole stack file.
#[serde_with::skip_serializing_none]
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct File {
    pub(super) version: Option<String>,
    pub(super) provider: Option<Provider>,
    pub(super) namespaces: Option<Entries<Option<Namespace>>>,
    pub(super) functions: Option<Entries<Option<Function>>>,
}

/// The part of a stack file that says where it goes.
#[derive(Debug, Deserialize)]
pub(super) struct Address {
    pub(super) provider: Option<Provider>,
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
    #[serde(rename = "<<", skip_serializing)]
    base: Option<Bases<Function>>,
    lang: Option<String>,
    handler: Option<String>,
    skip_build: Option<Flag>,
    pub(super) image: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) fprocess: Option<String>,
    pub(super) environment: Option<Texts>,
    #[serde(default, deserialize_with = "list")]
    pub(super) environment_file: Option<Vec<String>>,
    #[serde(default, deserialize_with = "list")]
    pub(super) secrets: Option<Vec<String>>,
    pub(super) labels: Option<Texts>,
    pub(super) annotations: Option<Texts>,
    #[serde(default, deserialize_with = "list")]
    pub(super) constraints: Option<Vec<String>>,
    #[serde(default, deserialize_with = "resources")]
    pub(super) limits: Option<Resources>,
    #[serde(default, deserialize_with = "resources")]
    pub(super) requests: Option<Resources>,
    pub(super) readonly_root_filesystem: Option<Flag>,
}

/// Reads a list; an entry that is empty is none.
fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let list = Option::<Vec<Option<String>>>::deserialize(from)?;
    Ok(list.map(|list| list.into_iter().flatten().collect()))
}

fn resources<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Resources>, D::Error> {
    let texts = Option::<Texts>::deserialize(from)?;
    Ok(texts.map(|Texts(mut texts)| Resources { memory: texts.remove("memory"), cpu: texts.remove("cpu") }))
}

/// What is true or false, in the words of YAML 1.1.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FlagVisitor)
    }
}

struct FlagVisitor;

impl Visitor<'_> for FlagVisitor {
    type Value = Flag;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Flag, E> {
        Ok(Flag(flag))
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Flag, E> {
        match word {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(Flag(true)),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Ok(Flag(false)),
            other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
        }
    }
}

/// What `<<` points at: a map, or several.
///
/// No untagged enum: that would take `1.10` for a number before it is known that a text is meant.
#[derive(Debug, Clone)]
struct Bases<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bases<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(BasesVisitor(PhantomData))
    }
}

struct BasesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for BasesVisitor<T> {
    type Value = Bases<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, or a list of maps")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Bases<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|base| Bases(vec![base]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Bases<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Bases)
    }
}

impl Function {
    /// The function with its bases filled in: its own keys count before theirs, earlier bases before later ones.
    pub(super) fn merged(mut self) -> Self {
        for base in self.base.take().into_iter().flat_map(|bases| bases.0) {
            let base = base.merged();
            self.lang = self.lang.or(base.lang);
            self.handler = self.handler.or(base.handler);
            self.skip_build = self.skip_build.or(base.skip_build);
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

    /// Returns the directory with the function's code if nothing builds its image of it.
    pub(super) fn code(&self) -> Option<&str> {
        let is_built = self.lang.as_ref().is_some_and(|lang| !lang.is_empty());
        let is_built = is_built || self.skip_build.is_some_and(|flag| flag.0);
        self.handler.as_deref().filter(|handler| !is_built && !handler.is_empty())
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
            readonly_root_filesystem: deployment.read_only_root_filesystem.map(Flag),
            ..Self::default()
        }
    }
}

/// A map from names to texts, where a missing value is the empty text.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Entries<Option<String>>")]
pub(super) struct Texts(pub(super) BTreeMap<String, String>);

impl From<Entries<Option<String>>> for Texts {
    fn from(Entries(entries): Entries<Option<String>>) -> Self {
        Self(entries.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect())
    }
}

/// A map from names, none of which stands there twice.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Entries<T>(pub(super) BTreeMap<String, T>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
        let mut own = BTreeMap::new();
        let mut bases = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "<<" {
                bases.extend(map.next_value::<Bases<Entries<T>>>()?.0);
            } else if own.insert(key.clone(), map.next_value()?).is_some() {
                return Err(serde::de::Error::custom(format!("{key:?} stands there twice")));
            }
        }
        for (key, value) in bases.into_iter().flat_map(|base: Entries<T>| base.0) {
            own.entry(key).or_insert(value);
        }
        Ok(Entries(own))
    }
}

/// An `environment_file`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct EnvironmentFile {
    pub(super) environment: Option<Texts>,
}

/// The keys of a map, each with those of what it stands for. What is no map has none.
///
/// No [`serde_norway::Value`]: a number in it has 64 bits at most, and may be a text that is longer.
#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, Keys>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(KeysVisitor)
    }
}

struct KeysVisitor;

macro_rules! without_keys {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Keys, E> {
            Ok(Keys::default())
        })*
    };
}

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    without_keys!(visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Keys, E> {
        Ok(Keys::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Keys, A::Error> {
        while list.next_element::<Keys>()?.is_some() {}
        Ok(Keys::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut keys = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            keys.insert(key, value);
        }
        Ok(Keys(keys))
    }

    /// A value with a tag, as `!Ref x`.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Keys, A::Error> {
        let (_, value) = tagged.variant::<IgnoredAny>()?;
        value.newtype_variant()
    }
}

/// Keys that nothing reads and nobody documents: misspelled, or from a newer faas-cli.
pub(super) fn unknown_keys(file: &Keys) -> Vec<String> {
    let mut found = Vec::new();
    let of = |Keys(keys): &Keys, known: &[&[&str]], prefix: &str, found: &mut Vec<String>| {
        let is_known = |key: &str| known.iter().any(|names| names.contains(&key)) || key.starts_with("x-");
        found.extend(keys.keys().filter(|key| !is_known(key)).map(|key| format!("{prefix}{key}")));
    };
    of(file, &[&["version", "provider", "namespaces", "functions", "configuration"]], "", &mut found);
    if let Some(provider) = file.0.get("provider") {
        of(provider, &[&["name", "gateway", "network"]], "provider.", &mut found);
    }
    let functions = file.0.get("functions").into_iter().flat_map(|functions| &functions.0);
    for (name, function) in functions.filter(|(name, _)| *name != "<<") {
        let prefix = format!("functions.{name}.");
        of(function, &[&FUNCTION_KEYS, &IGNORED_FUNCTION_KEYS], &prefix, &mut found);
        for part in ["limits", "requests"] {
            if let Some(resources) = function.0.get(part) {
                of(resources, &[&["<<", "memory", "cpu"]], &format!("{prefix}{part}."), &mut found);
            }
        }
    }
    found
}
