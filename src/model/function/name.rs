//! Names: of functions, namespaces, secrets and replicas.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// The longest name of a function, namespace or secret, in bytes.
const MAX_NAME: usize = 63;

/// `[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?`, at most 63 bytes, and no `..`: the name ends up in
/// URLs, file names and containerd labels, so what could mean a path is refused here, once.
fn check(field: &str, text: &str) -> Result<(), Invalid> {
    let refuse = |reason: String| Err(Invalid::new(field, reason));
    if text.is_empty() {
        return refuse("is empty; give a name".into());
    }
    if text.len() > MAX_NAME {
        return refuse(format!("{} bytes long; a name has at most {MAX_NAME}", text.len()));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c)) {
        return refuse(format!("{text:?} contains {bad:?}; use letters, digits, '-', '_' and '.'"));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !edge(text.chars().next()) || !edge(text.chars().last()) {
        return refuse(format!("{text:?} must begin and end with a letter or digit"));
    }
    if text.contains("..") {
        return refuse(format!("{text:?} contains \"..\""));
    }
    Ok(())
}

/// A namespace has no dot: it is what follows the last one in `name.namespace`, which could not be
/// told apart otherwise.
fn check_namespace(field: &str, text: &str) -> Result<(), Invalid> {
    check(field, text)?;
    if text.contains('.') {
        return Err(Invalid::new(field, format!("{text:?} contains '.'; use letters, digits, '-' and '_'")));
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $field:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Box<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                $check($field, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.into()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of a function, without its namespace.
    FunctionName,
    "service",
    check
);
name_type!(
    /// The name of a namespace: a set of functions and secrets.
    NamespaceName,
    "namespace",
    check_namespace
);
name_type!(
    /// The name of a secret, which is also its file name inside the container.
    SecretName,
    "secret",
    check
);

impl NamespaceName {
    /// The namespace of a function that names none.
    pub const DEFAULT: &'static str = "openfaas-fn";

    /// What a client command needs to mean this namespace: ` -n dev`, and nothing for the default one.
    pub fn option(&self) -> String {
        if *self.0 == *Self::DEFAULT { String::new() } else { format!(" -n {self}") }
    }
}

impl Default for NamespaceName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

/// A function's full name. Shown, and used in metrics, as `name.namespace`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FunctionKey {
    /// The namespace it lives in.
    pub namespace: NamespaceName,
    /// Its name there.
    pub name: FunctionName,
}

impl FunctionKey {
    /// The function `name` in `namespace`.
    pub fn new(name: FunctionName, namespace: NamespaceName) -> Self {
        Self { namespace, name }
    }

    /// Reads `name` or `name.namespace`: the namespace is what follows the last dot.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text.rsplit_once('.') {
            None => Ok(Self::new(text.parse()?, NamespaceName::default())),
            Some((name, namespace)) => Ok(Self::new(name.parse()?, namespace.parse()?)),
        }
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// The functions that a query means: all, those of a namespace, or one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionFilter {
    /// Returns the functions that the name may stand for, the likelier first; none if there is no name.
    named: Vec<FunctionKey>,
    namespace: Option<NamespaceName>,
}

impl FunctionFilter {
    /// Reads a query. A name is that of a function in the namespace, which without one is the default, or `name.namespace`
    /// as in the URL of a call.
    pub fn parse(name: Option<&str>, namespace: Option<NamespaceName>) -> Result<Self, Invalid> {
        let Some(text) = name else { return Ok(Self { named: Vec::new(), namespace }) };
        let plain = text.parse().map(|name| FunctionKey::new(name, namespace.clone().unwrap_or_default()));
        let label = text.contains('.').then(|| FunctionKey::parse(text).ok()).flatten();
        let label = label.filter(|label| namespace.as_ref().is_none_or(|meant| *meant == label.namespace));
        let named: Vec<_> = plain.iter().cloned().chain(label).collect();
        if named.is_empty() {
            plain?;
        }
        Ok(Self { named, namespace })
    }

    /// The functions that the name may stand for, the likelier first; nothing if there is no name.
    pub fn named(&self) -> &[FunctionKey] {
        &self.named
    }

    /// Whether a function is meant.
    pub fn means(&self, function: &FunctionKey) -> bool {
        match &self.named[..] {
            [] => self.namespace.as_ref().is_none_or(|meant| *meant == function.namespace),
            named => named.contains(function),
        }
    }
}

/// The longest part of a function's name that is repeated in a replica's id.
const MAX_SLUG: usize = 40;

/// Names one replica: the containerd container, its snapshot, netns, FIFOs and hostname.
///
/// It has the form `<function>-<10 hex digits>`, which fits containerd's rule for ids
/// (`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`, at most 76 bytes) for every function name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(Box<str>);

impl ReplicaId {
    /// A new id for a replica of `name`, told apart from others by `unique`.
    pub fn new(name: &FunctionName, unique: u64) -> Self {
        let mut slug = String::with_capacity(MAX_SLUG);
        for c in name.as_str().chars().take(MAX_SLUG) {
            // containerd takes one separator at a time, and none at the end.
            if c.is_ascii_alphanumeric() {
                slug.push(c.to_ascii_lowercase());
            } else if !slug.ends_with('-') {
                slug.push('-');
            }
        }
        let slug = slug.trim_end_matches('-');
        Self(format!("{slug}-{:010x}", unique & 0xff_ffff_ffff).into())
    }

    /// Takes up an id that was made by [`ReplicaId::new`] and read back from containerd, the store
    /// or the file system.
    pub fn from_existing(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether this is such an id.
    pub fn is_one(text: &str) -> bool {
        let Some((slug, unique)) = text.rsplit_once('-') else { return false };
        let lower_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        !slug.is_empty()
            && slug.len() <= MAX_SLUG
            && slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && unique.len() == 10
            && unique.chars().all(lower_hex)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_wrong_with_it() {
        for (text, part) in [
            ("", "is empty"),
            ("../etc", "contains '/'"),
            ("a..b", "contains \"..\""),
            ("-a", "begin and end"),
            ("a.", "begin and end"),
            ("a b", "contains ' '"),
            ("naïve", "contains 'ï'"),
        ] {
            let error = text.parse::<FunctionName>().expect_err(text).to_string();
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        assert!(long.parse::<FunctionName>().is_err());
        assert!(long[1..].parse::<FunctionName>().is_ok());
    }

    #[test]
    fn the_namespace_follows_the_last_dot() {
        let key = |text| FunctionKey::parse(text).expect("a key");
        assert_eq!(key("env").to_string(), "env.openfaas-fn");
        assert_eq!(key("env.dev").namespace.as_str(), "dev");
        assert_eq!(key("a.b.c").name.as_str(), "a.b");
        assert!(FunctionKey::parse("a.").is_err());
        assert!(FunctionKey::parse(".a").is_err());
        // Else two functions had one full name: `a.b` in `c`, and `a` in `b.c`.
        let error = "b.c".parse::<NamespaceName>().expect_err("a dot").to_string();
        assert!(error.contains("contains '.'"), "{error}");
    }

    #[test]
    fn a_replica_id_is_one_that_containerd_takes() {
        for name in
            ["env", "A_-_b", "x".repeat(63).as_str(), "a.b.c", "a-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-z"]
        {
            let id = ReplicaId::new(&name.parse().expect(name), u64::MAX);
            let text = id.as_str();
            assert!(text.len() <= 76, "{text}");
            assert!(ReplicaId::is_one(text), "{text}");
            assert!(!text.contains("--"), "{text}");
            assert!(
                text.split('-')
                    .all(|part| part.chars().all(|c| c.is_ascii_alphanumeric()) && !part.is_empty()),
                "{text}"
            );
        }
        let others =
            ["env", "env-00000000", "env-00000000AA", "-00000000aa", "e.v-00000000aa", "0123456789abcdef"];
        for other in others {
            assert!(!ReplicaId::is_one(other), "{other}");
        }
    }

    #[test]
    fn a_filter_means_a_function_by_its_name_or_by_its_name_with_its_namespace() {
        let (long, dev) = ("f".repeat(63), "n".repeat(63));
        let label = format!("{long}.{dev}");
        for (name, namespace, means, others) in [
            (None, None, &["a", "a.dev"][..], &[][..]),
            (None, Some("dev"), &["a.dev", "a.b.dev"], &["a", "a.b.openfaas-fn"]),
            (Some("a"), None, &["a"], &["a.dev", "b"]),
            (Some("a"), Some("dev"), &["a.dev"], &["a"]),
            (Some("a.dev"), None, &["a.dev", "a.dev.openfaas-fn"], &["a", "a.b"]),
            (Some("a.dev"), Some("dev"), &["a.dev", "a.dev.dev"], &["a", "a.dev.openfaas-fn"]),
            (Some("a.dev"), Some("b"), &["a.dev.b"], &["a.dev", "a.b"]),
            (Some("a.openfaas-fn"), None, &["a"], &["a.dev"]),
            (Some(&label), None, &[&label], &["a"]),
        ] {
            let namespace = namespace.map(|name| name.parse().expect("a name"));
            let filter = FunctionFilter::parse(name, namespace).expect("a filter");
            let key = |text: &&str| FunctionKey::parse(text).expect("a name");
            assert!(means.iter().all(|text| filter.means(&key(text))), "{filter:?}");
            assert!(!others.iter().any(|text| filter.means(&key(text))), "{filter:?}");
        }
        assert!(FunctionFilter::parse(Some("../a"), None).is_err());
        assert!(FunctionFilter::parse(Some(&long.repeat(3)), None).is_err());
    }
}
