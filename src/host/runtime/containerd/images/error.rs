//! What went wrong between us and a registry, in words that say what to do.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::runtime::RuntimeError;

/// The longest time that a host is waited for which wants to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Characters of what others say that an error has.
const MAX_WORDS: usize = 500;

/// Why a registry did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It wants other credentials.
    Unauthorized,
    /// It has no such thing.
    NotFound,
    /// It sent something that its digest does not belong to.
    Mismatch(String),
    /// The registry cannot serve now, or the connection broke: worth another attempt at once.
    Busy {
        cause: String,
        /// Time that the host wants to be left alone.
        after: Option<Duration>,
    },
    /// Registry without an answer: worth another attempt later.
    Down(String),
    /// What answers does not speak our protocol, or cannot be trusted: trying again is no use.
    Foreign(String),
}

impl Fault {
    /// Whether the registry understood the question and answered it.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Unauthorized | Self::NotFound | Self::Mismatch(_))
    }

    /// For a person, about `image`.
    pub(super) fn into_error(self, image: &str, registry: &str, docker_config: &str) -> RuntimeError {
        let (image, registry) = (image.to_owned(), registry.to_owned());
        match self {
            Self::Unauthorized => {
                RuntimeError::Unauthorized { image, registry, config: docker_config.to_owned() }
            }
            Self::NotFound => RuntimeError::ImageNotFound { image, registry },
            Self::Mismatch(reason) => RuntimeError::BadImage { image, reason },
            Self::Busy { cause, after: Some(after) } if after > LONGEST_WAIT => {
                let cause = format!("{cause}; it wants to be asked again in {} s", after.as_secs());
                RuntimeError::RegistryUnreachable { image, registry, source: cause.into() }
            }
            Self::Busy { cause, .. } | Self::Down(cause) | Self::Foreign(cause) => {
                RuntimeError::RegistryUnreachable { image, registry, source: cause.into() }
            }
        }
    }
}

/// Cuts the words of others off where they get long.
pub(super) fn brief(text: String) -> String {
    match text.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unauthorized => f.write_str("it refuses access"),
            Self::NotFound => f.write_str("it has no such thing"),
            Self::Mismatch(cause) | Self::Busy { cause, .. } | Self::Down(cause) | Self::Foreign(cause) => {
                f.write_str(cause)
            }
        }
    }
}

impl Fault {
    /// Returns a fault that passes by itself.
    pub(super) fn busy(cause: impl Into<String>) -> Self {
        Self::Busy { cause: cause.into(), after: None }
    }

    /// Returns the time to wait before the next attempt, where one is worth it: at least `pause`, and as long as the host
    /// wants, unless that is too long to be waited for.
    pub(super) fn wait(&self, pause: Duration) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => {
                Some(after.unwrap_or_default().max(pause)).filter(|wait| *wait <= LONGEST_WAIT)
            }
            Self::Down(_) | Self::Mismatch(_) => Some(pause),
            Self::Unauthorized | Self::NotFound | Self::Foreign(_) => None,
        }
    }

    /// Replaces the words of a fault.
    pub(super) fn because(self, cause: String) -> Self {
        match self {
            Self::Busy { after, .. } => Self::Busy { cause, after },
            Self::Down(_) => Self::Down(cause),
            _ => Self::Foreign(cause),
        }
    }

    /// Returns the fault that a status other than 200 means.
    pub(super) fn from_status(code: u16, message: &str, after: Option<Duration>) -> Self {
        let start: String = message.trim_start().chars().take(200).collect();
        let is_page = start.to_ascii_lowercase().starts_with("<");
        match code {
            401 | 403 => Self::Unauthorized,
            404 if !is_page => Self::NotFound,
            408 | 429 | 500.. => Self::Busy { cause: format!("it answered {code}: {start}"), after },
            _ if is_page => Self::Foreign(format!("it answered {code} with a web page: is it a registry?")),
            _ => Self::Foreign(format!("it answered {code}: {start}")),
        }
    }

    /// From a connection that did not come about, or a body that broke off.
    pub(super) fn from_request(error: &reqwest::Error) -> Self {
        let root = root_cause(error);
        if root.contains("No CA certificates") {
            return Self::Foreign("this machine has no CA certificates: install ca-certificates".into());
        }
        if root.contains("certificate") {
            return Self::Foreign(certificate_hint(&root));
        }
        if root.contains("InvalidContentType") || root.contains("corrupt message") {
            return Self::Foreign(
                "it does not speak TLS: for plain http put 'server = \"http://…\"' into its hosts.toml"
                    .into(),
            );
        }
        if error.is_builder() || error.is_redirect() {
            return Self::Foreign(root);
        }
        let late = error.is_timeout();
        let root = if late { format!("it did not answer in time ({root})") } else { root };
        if error.is_connect() { Self::Down(root) } else { Self::busy(root) }
    }
}

/// The last error in the chain: the ones before only say that sending failed.
fn root_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn certificate_hint(cause: &str) -> String {
    let meaning = if cause.contains("UnknownIssuer") || cause.contains("CaUsedAsEndEntity") {
        "certificate signed by unknown authority: put its CA, or the certificate itself if it signed itself, \
         beside its hosts.toml as 'ca.crt', and name it there with 'ca = \"ca.crt\"'"
    } else if cause.contains("NotValidForName") || cause.contains("not valid for name") {
        "certificate is for another name: the name or address of the registry must be among its \
         subjectAltNames"
    } else if cause.contains("Expired") || cause.contains("expired") {
        "certificate has expired"
    } else {
        "certificate is not accepted"
    };
    format!("{meaning} ({cause})")
}

/// What an attempt with a host ends in.
#[derive(Debug)]
pub(super) enum Failure {
    /// The host's doing.
    Fault(Fault),
    /// Not the host's doing.
    Ours(RuntimeError),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::Ours(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_registry_s_answer() {
        assert_eq!(Fault::from_status(404, "", None), Fault::NotFound);
        assert_eq!(Fault::from_status(404, "{\"detail\":\"no\"}", None), Fault::NotFound);
        assert!(matches!(Fault::from_status(404, " <!DOCTYPE html>", None), Fault::Foreign(_)));
        assert!(matches!(
            Fault::from_status(400, "Client sent an HTTP request to an HTTPS server.", None),
            Fault::Foreign(_)
        ));
        assert!(matches!(Fault::from_status(503, "<html>", None), Fault::Busy { .. }));
        assert_eq!(Fault::from_status(403, "<html>", None), Fault::Unauthorized);
    }

    #[test]
    fn the_words_of_others_are_cut_off() {
        assert_eq!(brief("é".repeat(MAX_WORDS)), "é".repeat(MAX_WORDS));
        assert_eq!(brief("é".repeat(MAX_WORDS + 1)), format!("{}…", "é".repeat(MAX_WORDS)));
    }

    #[test]
    fn a_time_to_come_back_is_waited_for_up_to_a_bound() {
        let seconds = Duration::from_secs;
        let wait = |after: Option<u64>| {
            Fault::Busy { cause: String::new(), after: after.map(seconds) }.wait(seconds(1))
        };
        assert_eq!(wait(None), Some(seconds(1)));
        assert_eq!(wait(Some(0)), Some(seconds(1)));
        assert_eq!(wait(Some(30)), Some(seconds(30)));
        assert_eq!(wait(Some(3600)), None);
        assert_eq!(Fault::Unauthorized.wait(seconds(1)), None);
        let late = Fault::Busy { cause: "it answered 429".into(), after: Some(seconds(3600)) };
        let RuntimeError::RegistryUnreachable { source, .. } = late.into_error("a", "r", "c") else {
            panic!()
        };
        assert!(source.to_string().contains("again in 3600 s"), "{source}");
    }
}
