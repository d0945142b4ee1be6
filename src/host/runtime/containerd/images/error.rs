//! What went wrong between us and a registry, in words that say what to do.

use std::error::Error;

use oci_client::errors::{OciDistributionError, OciErrorCode};

use crate::runtime::RuntimeError;
use model::error::public_url;

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
    Busy(String),
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
            Self::Busy(cause) | Self::Down(cause) | Self::Foreign(cause) => {
                RuntimeError::RegistryUnreachable { image, registry, source: cause.into() }
            }
        }
    }
}

impl From<OciDistributionError> for Fault {
    fn from(error: OciDistributionError) -> Self {
        use OciDistributionError as E;
        match error {
            E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => Self::Unauthorized,
            E::ImageManifestNotFoundError(_) => Self::NotFound,
            E::RegistryError { envelope, url } => {
                match envelope.errors.first().map(|first| &first.code) {
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => Self::Unauthorized,
                    Some(OciErrorCode::Toomanyrequests) => {
                        Self::Busy(format!("it limits how often one may ask: {envelope}"))
                    }
                    // Whatever else it says about a request that is well formed: it does not have it.
                    Some(
                        OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestBlobUnknown
                        | OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameInvalid
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                        | OciErrorCode::TagInvalid,
                    ) => Self::NotFound,
                    // The query may contain a signature that grants access.
                    _ => Self::Foreign(format!("{}: {envelope}", public_url(&url))),
                }
            }
            E::ServerError { code, message, .. } => Self::from_status(code, &message),
            E::DigestError(error) => Self::Mismatch(format!("the registry sent something else: {error}")),
            E::RequestError(error) => Self::from_request(&error),
            E::IoError(error) => Self::from_io(&error),
            other => Self::Foreign(format!("it does not answer like a registry: {other}")),
        }
    }
}

impl Fault {
    /// From an answer with a status that is not 200.
    pub(super) fn from_status(code: u16, message: &str) -> Self {
        let start: String = message.trim_start().chars().take(200).collect();
        let is_page = start.to_ascii_lowercase().starts_with("<");
        match code {
            401 | 403 => Self::Unauthorized,
            404 if !is_page => Self::NotFound,
            408 | 429 => Self::Busy(format!("it answered {code}: {start}")),
            500.. => Self::Busy(format!("it answered {code}: {start}")),
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
        if error.is_connect() { Self::Down(root) } else { Self::Busy(root) }
    }

    /// From the stream of a body.
    pub(super) fn from_io(error: &std::io::Error) -> Self {
        let inner = error.get_ref();
        if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<oci_client::errors::DigestError>()) {
            return Self::Mismatch(format!("the registry sent something else: {error}"));
        }
        match inner.and_then(|inner| inner.downcast_ref::<reqwest::Error>()) {
            Some(error) => Self::from_request(error),
            None => Self::Busy(root_cause(error)),
        }
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
        "certificate signed by unknown authority: name its CA with 'ca = \"…\"' in its hosts.toml"
    } else if cause.contains("NotValidForName") || cause.contains("not valid for name") {
        "certificate is for another name"
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

impl From<OciDistributionError> for Failure {
    fn from(error: OciDistributionError) -> Self {
        Self::Fault(error.into())
    }
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
        assert_eq!(Fault::from_status(404, ""), Fault::NotFound);
        assert_eq!(Fault::from_status(404, "{\"detail\":\"no\"}"), Fault::NotFound);
        assert!(matches!(Fault::from_status(404, " <!DOCTYPE html>"), Fault::Foreign(_)));
        assert!(matches!(
            Fault::from_status(400, "Client sent an HTTP request to an HTTPS server."),
            Fault::Foreign(_)
        ));
        assert!(matches!(Fault::from_status(503, "<html>"), Fault::Busy(_)));
        assert_eq!(Fault::from_status(403, "<html>"), Fault::Unauthorized);
    }

    #[test]
    fn the_codes_of_the_specification() {
        for (code, want) in [
            ("MANIFEST_UNKNOWN", Fault::NotFound),
            ("NAME_UNKNOWN", Fault::NotFound),
            ("DENIED", Fault::Unauthorized),
        ] {
            let envelope = serde_json::from_str(&format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#)).unwrap();
            let error = OciDistributionError::RegistryError { envelope, url: String::new() };
            assert_eq!(Fault::from(error), want);
        }
    }

    #[test]
    fn a_refusal_does_not_tell_the_signature_of_its_url() {
        let envelope = serde_json::from_str(r#"{"errors":[{"code":"UNSUPPORTED"}]}"#).unwrap();
        let url = "https://user:canary@blobs.example/layer?X-Amz-Signature=canary".to_owned();
        let fault = Fault::from(OciDistributionError::RegistryError { envelope, url });
        let shown = format!("{fault:?}");
        assert!(shown.contains("https://blobs.example/layer: ") && !shown.contains("canary"), "{shown}");
    }
}
