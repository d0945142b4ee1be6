//! Image references, as people write them, and when to pull them.

use std::fmt;
use std::str::FromStr;

use oci_client::Reference;
use serde::{Deserialize, Serialize};

use super::Invalid;

/// An image name. The text is kept as it was sent, because clients compare it; the reference is
/// that text with Docker's defaults filled in (`docker.io/library/…:latest`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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
        let reference = text
            .parse::<Reference>()
            .map_err(|error| invalid(format!("{text:?} is not an image name: {error}")))?;
        Ok(Self { text: text.into(), reference })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> String {
        image.text.into()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// When a deploy asks the registry, as in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Resolve the name at the registry on every deploy; layers that are there are not sent again.
    Always,
    /// Ask the registry only when this machine has no image of that name.
    IfNotPresent,
    /// Never ask a registry: the image was loaded with `ingle image load`.
    Never,
}

impl FromStr for PullPolicy {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "Always" => Ok(Self::Always),
            "IfNotPresent" => Ok(Self::IfNotPresent),
            "Never" => Ok(Self::Never),
            other => {
                Err(Invalid::new("pull-policy", format!("{other:?} is none of Always, IfNotPresent, Never")))
            }
        }
    }
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
    fn a_malformed_name_is_refused_with_its_text() {
        for text in ["", "UPPER/case:x y", "a@sha256:12", "http://x/y"] {
            let error = text.parse::<ImageRef>().expect_err(text);
            assert_eq!(error.field, "image");
        }
    }
}
