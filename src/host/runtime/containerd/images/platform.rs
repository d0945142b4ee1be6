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

    /// How well something built for `self` runs on `host`: the larger the better, `None` if it does
    /// not run.
    fn fitness(&self, host: &Self) -> Option<u32> {
        if self.os != host.os || self.architecture != host.architecture {
            return None;
        }
        // A missing variant is the oldest one that the architecture has.
        let level = |platform: &Self| match platform.variant.as_deref() {
            None | Some("") => Some(0),
            Some(variant) => variant.trim_start_matches('v').parse::<u32>().ok(),
        };
        let wanted = level(self)?;
        let limit = if host.architecture == "amd64" { amd64_level() } else { level(host)? };
        (wanted <= limit).then_some(wanted)
    }

    /// Whether something built for `self` runs on `host`. What does not say, is taken to.
    pub(super) fn runs_on(&self, host: &Self) -> bool {
        let or = |own: &String, host: &String| if own.is_empty() { host.clone() } else { own.clone() };
        let (os, architecture) = (or(&self.os, &host.os), or(&self.architecture, &host.architecture));
        Self { os, architecture, variant: self.variant.clone() }.fitness(host).is_some()
    }
}

/// The best fit for `host` among `offered`, by position.
pub(super) fn choose<'a>(
    offered: impl IntoIterator<Item = Option<&'a Platform>>,
    host: &Platform,
) -> Option<usize> {
    let fitness = offered.into_iter().map(|platform| platform.and_then(|platform| platform.fitness(host)));
    let fit = fitness.enumerate().filter(|(_, fitness)| fitness.is_some());
    // Among equals the first one counts, as everywhere else.
    fit.min_by_key(|(_, fitness)| std::cmp::Reverse(*fitness)).map(|(position, _)| position)
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

    fn chosen(offered: &[&str], host: &str) -> Option<usize> {
        let offered: Vec<_> = offered.iter().map(|text| platform(text)).collect();
        choose(offered.iter().map(Some), &platform(host))
    }

    #[test]
    fn the_best_variant_that_runs_is_chosen() {
        for (offered, host, want) in [
            (&["linux/amd64", "linux/arm64"][..], "linux/arm64/v8", Some(1)),
            (&["linux/arm64/v8"], "linux/arm64/v8", Some(0)),
            (&["linux/arm64/v9", "linux/arm64"], "linux/arm64/v8", Some(1)),
            (&["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", Some(1)),
            (&["linux/arm/v7"], "linux/arm64/v8", None),
            (&["windows/amd64", "unknown/unknown"], "linux/amd64", None),
            (&["linux/amd64", "linux/amd64"], "linux/amd64", Some(0)),
            (&[], "linux/amd64", None),
        ] {
            assert_eq!(chosen(offered, host), want, "{offered:?} on {host}");
        }
    }

    #[test]
    fn a_config_that_does_not_say_runs_and_another_architecture_does_not() {
        let host = platform("linux/arm64/v8");
        assert!(Platform::default().runs_on(&host));
        assert!(platform("linux/arm64").runs_on(&host));
        assert!(!platform("linux/amd64").runs_on(&host));
    }

    #[test]
    fn it_is_shown_as_people_write_it() {
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64");
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
        assert_eq!(Platform::default().to_string(), "unknown/unknown");
    }
}
