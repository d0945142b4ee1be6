//! One host of a registry, with credentials: questions to it, and its answers.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use oci_client::Reference;
use oci_client::client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

use super::credentials::{self, Credentials};
use super::error::{Failure, Fault};
use super::hosts::Host;
use super::manifest::check_digest;
use super::resolved::Wanted;
use super::token;
use super::web::{self, CONNECT_TIMEOUT, Documents, READ_TIMEOUT, USER_AGENT};
use crate::runtime::RuntimeError;
use model::function::ImageRef;

/// How long a small answer may take, from the question to its last byte.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A host with credentials.
pub(super) struct Session {
    documents: Documents,
    /// For layers.
    client: oci_client::Client,
    /// The image as this host knows it.
    reference: Reference,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("reference", &self.reference).finish_non_exhaustive()
    }
}

impl Session {
    /// A session with `host` about `image`. Nothing is sent yet, unless credentials must be exchanged.
    pub(super) async fn open(image: &ImageRef, host: &Host, docker_config: &Path) -> Result<Self, Failure> {
        let reference = reference_at(image.reference(), host);
        let authorities = read_authorities(host).await?;
        let web = web::client(host, &authorities)?;
        let name = host.address.split('/').next().unwrap_or(&host.address);
        let auth = match credentials::find(docker_config, name, reference.repository()).await? {
            Credentials::Anonymous => RegistryAuth::Anonymous,
            Credentials::Password { user, password } => RegistryAuth::Basic(user, password),
            Credentials::IdentityToken(token) => {
                let exchanged = token::exchange(&web, host, reference.repository(), &token);
                RegistryAuth::Bearer(in_time(exchanged).await?)
            }
            Credentials::Bearer(token) => RegistryAuth::Bearer(token),
        };
        let client = oci_client::Client::try_from(ClientConfig {
            protocol: if host.plain { ClientProtocol::Http } else { ClientProtocol::Https },
            // Who speaks in the clear can be led anywhere, so certificates prove nothing after that,
            // and need not be read: a machine may have none.
            accept_invalid_certificates: host.skip_verify || host.plain,
            extra_root_certificates: authorities,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        })?;
        // Not every request carries the credentials.
        client.store_auth_if_needed(reference.resolve_registry(), &auth).await;
        let documents = Documents::new(web, client.clone(), auth, reference.clone(), host.plain);
        Ok(Self { documents, client, reference })
    }

    /// Returns the digest that the tag means now.
    pub(super) async fn digest(&self) -> Result<String, Failure> {
        let digest = in_time(self.documents.digest()).await?;
        check_digest(&digest).map_err(Fault::Foreign)?;
        Ok(digest)
    }

    /// A document of at most `limit` bytes.
    pub(super) async fn document(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Bytes, Failure> {
        Ok(in_time(self.documents.read(wanted, limit)).await?.into())
    }

    /// A layer from a byte on.
    pub(super) async fn layer(&self, digest: &str, offset: u64) -> Result<BlobResponse, Failure> {
        if offset == 0 {
            return Ok(BlobResponse::Full(self.client.pull_blob_stream(&self.reference, digest).await?));
        }
        Ok(self.client.pull_blob_stream_partial(&self.reference, digest, offset, None).await?)
    }
}

async fn read_authorities(host: &Host) -> Result<Vec<Certificate>, RuntimeError> {
    let mut authorities = Vec::with_capacity(host.ca.len());
    for path in &host.ca {
        let data = tokio::fs::read(path)
            .await
            .map_err(|error| RuntimeError::failed(format!("reading {}", path.display()), error))?;
        authorities.push(Certificate { encoding: CertificateEncoding::Pem, data });
    }
    Ok(authorities)
}

/// The image as `host` knows it.
fn reference_at(image: &Reference, host: &Host) -> Reference {
    let registry = image.registry().to_owned();
    let repository = format!("{}{}", host.prefix, image.repository());
    let mut reference = match (image.digest(), image.tag()) {
        (Some(digest), _) => Reference::with_digest(registry, repository, digest.to_owned()),
        (None, tag) => Reference::with_tag(registry, repository, tag.unwrap_or("latest").to_owned()),
    };
    // Docker's own registry has several names, and is not a mirror of itself.
    let is_hub = reference.registry() == "docker.io" && host.address == "registry-1.docker.io";
    if !is_hub && host.address != reference.resolve_registry() {
        // Also says in the request whose image it is, as containerd does.
        reference.set_mirror_registry(host.address.clone());
    }
    reference
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(DOCUMENT_TIMEOUT, asked).await.unwrap_or_else(|_| {
        let seconds = DOCUMENT_TIMEOUT.as_secs();
        Err(Fault::Down(format!("it did not answer within {seconds} s")))
    })
}

#[cfg(test)]
mod tests {
    use super::super::hosts;
    use super::*;

    fn host(address: &str, prefix: &str) -> Host {
        let mut known = hosts::hosts(Path::new("/does/not/exist"), address).unwrap();
        Host { prefix: prefix.into(), ..known.remove(0) }
    }

    #[test]
    fn a_mirror_is_told_whose_image_it_is_and_the_registry_itself_is_not() {
        let image: ImageRef = "alpine:3".parse().unwrap();
        let at = |address, prefix| reference_at(image.reference(), &host(address, prefix));
        let mirrored = at("mirror.example", "hub/");
        assert_eq!(mirrored.resolve_registry(), "mirror.example");
        assert_eq!(mirrored.namespace(), Some("docker.io"));
        assert_eq!(mirrored.repository(), "hub/library/alpine");
        assert_eq!(at("registry-1.docker.io", "").namespace(), None);
        let image: ImageRef = "ghcr.io/a/b:1".parse().unwrap();
        let own = reference_at(image.reference(), &host("ghcr.io", ""));
        assert_eq!((own.resolve_registry(), own.namespace()), ("ghcr.io", None));
    }
}
