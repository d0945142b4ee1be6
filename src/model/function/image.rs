//! Image references, as people write them, and when to pull them.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use oci_client::Reference;
use strum::{EnumString, VariantNames};

use super::{Invalid, none_of};

/// An image name. The text is kept as it was sent, because clients compare it; the reference is
/// that text with Docker's defaults filled in (`docker.io/library/…:latest`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    text: Box<str>,
    reference: Reference,
}

impl ImageRef {
    /// The name as the client sent it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name with all defaults filled in: what containerd's image store has it under.
    pub fn canonical(&self) -> String {
        self.reference.whole()
    }

    /// The parsed form, for a registry client.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }
}

impl FromStr for ImageRef {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |reason: String| Invalid::new("image", reason);
        if text.is_empty() {
            return Err(invalid("is empty; give an image such as ghcr.io/you/hello:1.0".into()));
        }
        let reference =
            parse(text).map_err(|reason| invalid(format!("{text:?} is not an image name: {reason}")))?;
        Ok(Self { text: text.into(), reference })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pattern for images, such as `registry.example/team/*`, that is compared with a reference with all
/// defaults filled in. `*` matches anything. A pattern without a tag matches every tag of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePattern(Box<str>);

impl ImagePattern {
    /// Returns whether the pattern matches an image.
    pub fn matches(&self, image: &ImageRef) -> bool {
        let reference = &image.reference;
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        matches(&self.0, &image.canonical()) || matches(&self.0, &repository)
    }
}

impl FromStr for ImagePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let registry = text.split_once('/').map(|(registry, _)| registry);
        let names_one = registry
            .is_some_and(|name| (name.contains(['.', ':']) || name == "localhost") && !name.contains('*'));
        // Otherwise `registry.example*` would match `registry.example.evil.example`, too.
        if text == "*" || names_one {
            return Ok(Self(text.into()));
        }
        Err(format!(
            "{text:?} does not begin with a registry and a slash, as docker.io/library/* and registry.example/team/* do"
        ))
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a pattern matches the whole of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// What Docker makes of a name.
///
/// `Reference` has a parser of its own, which a test holds this one to. It is built around a regular
/// expression whose automaton takes 15 MB of memory and a third of a second when it is first used:
/// more than all the rest of the daemon.
fn parse(text: &str) -> Result<Reference, &'static str> {
    let (named, digest) = at_first(text, '@');
    if !digest.is_none_or(is_digest) {
        return Err("the part after @ must be a digest, as in sha256: and 64 hexadecimal digits");
    }
    // Before the last slash a colon begins a port.
    let last = named.rfind('/').map_or(0, |slash| slash + 1);
    let (short, tag) = at_first(&named[last..], ':');
    let name = &named[..last + short.len()];
    if !tag.is_none_or(is_tag) {
        return Err(
            "a tag has at most 128 letters, digits, '_', '.' and '-', and does not begin with the last two",
        );
    }
    let (first, rest) = at_first(name, '/');
    let is_path = |path: &str| path.split('/').all(is_component);
    let (registry, repository) = match rest {
        Some(rest) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (HUB, name),
    };
    if !is_domain(registry) || !is_path(repository) {
        return Err("names are in lower case, as in registry.example:5000/you/hello");
    }
    let registry = if registry == "index.docker.io" { HUB } else { registry };
    let mut repository = repository.to_owned();
    if registry == HUB && !repository.contains('/') {
        repository.insert_str(0, "library/");
    }
    if repository.len() > 255 {
        return Err("it is longer than 255 characters");
    }
    let registry = registry.to_owned();
    Ok(match (tag, digest) {
        (None, None) => Reference::with_tag(registry, repository, "latest".into()),
        (Some(tag), None) => Reference::with_tag(registry, repository, tag.into()),
        (None, Some(digest)) => Reference::with_digest(registry, repository, digest.into()),
        (Some(tag), Some(digest)) => {
            Reference::with_tag_and_digest(registry, repository, tag.into(), digest.into())
        }
    })
}

/// What is before the first of these marks, and what is after it.
fn at_first(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// The registry of names that do not say theirs.
const HUB: &str = "docker.io";

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

/// Host and port: labels with dots between, or an IPv6 address in brackets.
fn is_domain(text: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if let Some(bracketed) = text.strip_prefix('[') {
        let Some((address, rest)) = bracketed.split_once(']') else { return false };
        let has_port = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().is_ok() && has_port;
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "0"));
    let is_label = |label: &str| {
        label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && is_port(port)
}

/// A part of a repository: lower case letters and digits, joined by a dot, one or two underscores,
/// or any number of dashes.
fn is_component(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let joints = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let is_joint = |joint: &str| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-');
    text.bytes().next().is_some_and(is_plain)
        && text.bytes().next_back().is_some_and(is_plain)
        && joints.into_iter().all(is_joint)
}

/// When a deploy asks the registry, as in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(parse_err_ty = String, parse_err_fn = none_of::<PullPolicy>)]
pub enum PullPolicy {
    /// Resolve the name at the registry on every deploy; layers that are there are not sent again.
    Always,
    /// Ask the registry only when this machine has no image of that name.
    IfNotPresent,
    /// Never ask a registry: the image was loaded with `ingle image load`.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_defaults_are_filled_in_and_the_text_is_kept() {
        for (text, canonical) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("me/fn:1", "docker.io/me/fn:1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
            ("ghcr.io/a/b:2", "ghcr.io/a/b:2"),
        ] {
            let image: ImageRef = text.parse().expect(text);
            assert_eq!(image.as_str(), text);
            assert_eq!(image.canonical(), canonical);
        }
    }

    #[test]
    fn a_registry_can_have_an_ipv6_address() {
        for (text, registry, canonical) in [
            ("[::1]:5000/a/b", "[::1]:5000", "[::1]:5000/a/b:latest"),
            ("[::1]/a:2", "[::1]", "[::1]/a:2"),
            ("[fe80::1]:443/team/x:1", "[fe80::1]:443", "[fe80::1]:443/team/x:1"),
            ("[2001:db8::A]:5000/a", "[2001:db8::A]:5000", "[2001:db8::A]:5000/a:latest"),
        ] {
            let image: ImageRef = text.parse().expect(text);
            assert_eq!((image.reference().registry(), image.canonical().as_str()), (registry, canonical));
        }
        for text in
            ["[::1]:/a", "[::1]5000/a", "[::1/a", "::1/a", "[fe80::1%eth0]/a", "[1.2.3.4]/a", "[]/a", "[::1]"]
        {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
        let pattern: ImagePattern = "[::1]:5000/team/*".parse().expect("a pattern");
        assert!(pattern.matches(&"[::1]:5000/team/a:1".parse().expect("a name")));
    }

    proptest::proptest! {
        #[test]
        fn names_are_read_as_reference_reads_them(
            text in "[a-zA-Z0-9._:/@-]{0,24}\
                |[a-zA-Z0-9.-]{1,9}(:[0-9]{0,3})?(/[a-z0-9._-]{0,5}){0,3}(:[A-Za-z0-9._-]{0,9})?(@[a-z0-9]{3,6}:[0-9a-fA-F]{62,66})?\
                |(localhost|index.docker.io|docker.io|a.b:1)(/[a-z]{1,3}){0,2}(:[a-z]{1,130})?(@sha(256:[0-9a-f]{64}|512:[0-9a-f]{128}))?\
                |([a-z]{0,60}(__|_|-|/)){0,6}[a-z]{0,60}"
        ) {
            let ours = parse(&text);
            // The other parser takes "You/hello" for a name on Docker Hub, which has none in upper case.
            let is_lower = |name: &Reference| name.repository() == name.repository().to_lowercase();
            let theirs = text.parse::<Reference>().ok().filter(is_lower);
            proptest::prop_assert_eq!(ours.is_ok(), theirs.is_some(), "{} {:?} {:?}", text, ours, theirs);
            if let (Ok(ours), Some(theirs)) = (ours, theirs) {
                proptest::prop_assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn a_malformed_name_is_refused_with_its_text() {
        // The last one would be on Docker Hub, under a name that cannot exist.
        for text in [
            "",
            "UPPER/case:x y",
            "a@sha256:12",
            "http://x/y",
            "a:ü",
            "a/../b",
            "a:b:c",
            "a@b@c",
            "You/hello",
        ] {
            let error = text.parse::<ImageRef>().expect_err(text);
            assert_eq!(error.field, "image");
        }
    }

    #[test]
    fn a_pattern_matches_whole_references() {
        let all = [
            "you/echo",
            "python",
            "python:3.12",
            "registry.example/team/a",
            "registry.example/team/b/c@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ];
        for (pattern, allowed) in [
            ("*", &all[..]),
            ("registry.example/team/*", &all[3..]),
            ("registry.example/*", &all[3..]),
            ("registry.example/*/c*", &all[4..]),
            ("docker.io/library/*", &all[1..3]),
            ("docker.io/library/python", &all[1..3]),
            ("docker.io/library/python:3.*", &all[2..3]),
            ("docker.io/you/echo:latest", &all[..1]),
            ("docker.io/you/echo:1", &[]),
            ("registry.example/tea", &[]),
            ("evil.example/*", &[]),
        ] {
            let pattern: ImagePattern = pattern.parse().expect("a pattern");
            let found: Vec<_> =
                all.into_iter().filter(|image| pattern.matches(&image.parse().expect("an image"))).collect();
            assert_eq!(found, allowed, "{pattern}");
        }
        // The registry must be given in full.
        for wrong in
            ["", "python", "library/python", "registry.example*", "*.example/team", "*/team", "re*.example/a"]
        {
            wrong.parse::<ImagePattern>().expect_err(wrong);
        }
    }
}
