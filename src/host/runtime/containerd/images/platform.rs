//! Which of an image's variants runs on this machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An operating system and processor, in the words of the OCI image specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub(super) fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(Into::into) }
    }

    /// Returns the platform in the words of the specification; builders write those of their systems, too.
    fn normal(&self) -> Self {
        let (os, architecture) = (self.os.to_ascii_lowercase(), self.architecture.to_ascii_lowercase());
        let variant = self.variant.as_ref().map(|variant| variant.to_ascii_lowercase());
        let (architecture, variant) = match architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", variant),
            "i386" | "i686" => ("386", None),
            "aarch64" => ("arm64", variant),
            "armhf" => ("arm", Some("v7".into())),
            "armel" => ("arm", Some("v6".into())),
            other => (other, variant),
        };
        Self { os, architecture: architecture.to_owned(), variant }
    }

    /// Returns whether nothing is said.
    pub(super) fn is_empty(&self) -> bool {
        self.os.is_empty() && self.architecture.is_empty()
    }

    /// How well something built for `self` runs on `host`: the larger the better, `None` if it does
    /// not run. Programs of 32 bits run on a 64-bit machine, and come after its own.
    pub(super) fn fitness(&self, host: &Self) -> Option<(bool, u32)> {
        let own = self.normal();
        // A missing variant is the oldest one that the architecture has.
        let level = |platform: &Self| match platform.variant.as_deref() {
            None | Some("") => Some(0),
            Some(variant) => variant.trim_start_matches('v').parse::<u32>().ok(),
        };
        let wanted = level(&own)?;
        let limit = match (host.architecture.as_str(), own.architecture.as_str()) {
            _ if own.os != host.os => return None,
            ("amd64", "amd64") => amd64_level(),
            (host_architecture, own) if host_architecture == own => level(host)?,
            ("amd64", "386") | ("arm64", "arm") => u32::MAX,
            _ => return None,
        };
        (wanted <= limit).then_some((own.architecture == host.architecture, wanted))
    }

    /// Whether something built for `self` runs on `host`. What does not say, is taken to.
    pub(super) fn runs_on(&self, host: &Self) -> bool {
        self.or(host).fitness(host).is_some()
    }

    /// Returns whether something built for `self` has programs of 32 bits that `host`, of 64 bits, runs.
    pub(super) fn is_32bit_on(&self, host: &Self) -> bool {
        self.or(host).fitness(host).is_some_and(|(is_own, _)| !is_own)
    }

    fn or(&self, host: &Self) -> Self {
        let or = |own: &String, host: &String| if own.is_empty() { host.clone() } else { own.clone() };
        let (os, architecture) = (or(&self.os, &host.os), or(&self.architecture, &host.architecture));
        Self { os, architecture, variant: self.variant.clone() }
    }
}

/// The micro-architecture level of this processor, as in `amd64/v3`.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u32 {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("fma")
    {
        3
    } else if is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt") {
        2
    } else {
        1
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u32 {
    1
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        write!(f, "{}/{}", or_unknown(&self.os), or_unknown(&self.architecture))?;
        match self.variant.as_deref() {
            // Every arm64 is v8: saying so would only differ from what people write.
            None | Some("") => Ok(()),
            Some("v8") if self.architecture == "arm64" => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap(), variant: parts.next() }
    }

    #[test]
    fn a_config_that_does_not_say_runs_and_another_architecture_does_not() {
        let host = platform("linux/arm64/v8");
        assert!(Platform::default().runs_on(&host));
        assert!(platform("linux/arm64").runs_on(&host));
        assert!(!platform("linux/amd64").runs_on(&host));
        assert!(platform("linux/arm/v7").runs_on(&host) && platform("linux/arm/v7").is_32bit_on(&host));
        assert!(!platform("linux/arm64").is_32bit_on(&host) && !Platform::default().is_32bit_on(&host));
    }

    #[test]
    fn it_is_shown_as_people_write_it() {
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64");
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
        assert_eq!(Platform::default().to_string(), "unknown/unknown");
    }
}
