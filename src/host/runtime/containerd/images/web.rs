//! Small answers of a registry over HTTP, each read with a bound: oci-client, which brings the layers,
//! would hold an answer of any length in memory before anybody could look at it.

use std::time::Duration;

use http::header::{ACCEPT, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use oci_client::Reference;
use oci_client::client::Certificate;
use oci_client::errors::{OciDistributionError, OciEnvelope};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use reqwest::Response;
use tokio::sync::OnceCell;

use super::error::Fault;
use super::hosts::Host;
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST, digest_of};
use super::resolved::{Kind, Wanted};

/// How long a connection may take to come about.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Who we say we are.
pub(super) const USER_AGENT: &str = concat!("ingle/", env!("CARGO_PKG_VERSION"));
/// What is read of the body of a refusal.
const MAX_REFUSAL: u64 = 64 << 10;
const DIGEST_HEADER: &str = "docker-content-digest";

/// The documents of one repository of one host.
pub(super) struct Documents {
    web: reqwest::Client,
    /// Its token cache is where tokens for layers come from as well.
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    scheme: &'static str,
    /// What to send along, once the host has asked for it.
    credential: OnceCell<Option<Credential>>,
}

/// What a request proves its right with.
#[derive(Clone)]
enum Credential {
    Bearer(String),
    Basic { user: String, password: String },
}

impl Documents {
    pub(super) fn new(
        web: reqwest::Client,
        client: Client,
        auth: RegistryAuth,
        reference: Reference,
        plain: bool,
    ) -> Self {
        let scheme = if plain { "http" } else { "https" };
        Self { web, client, auth, reference, scheme, credential: OnceCell::new() }
    }

    /// The digest that the tag means now. Not every registry says it in a header.
    pub(super) async fn digest(&self) -> Result<String, Fault> {
        let tag = self.reference.tag().unwrap_or("latest");
        let path = format!("manifests/{tag}");
        let head = self.send(Method::HEAD, &path).await?;
        if head.status() == StatusCode::OK
            && let Some(digest) = head.headers().get(DIGEST_HEADER).and_then(|value| value.to_str().ok())
        {
            return Ok(digest.to_owned());
        }
        let bytes = self.get(&path, tag, MAX_MANIFEST).await?;
        Ok(digest_of(&bytes))
    }

    /// A document of at most `limit` bytes that has the digest which is wanted.
    pub(super) async fn read(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Vec<u8>, Fault> {
        let digest = wanted.digest;
        let path = match wanted.kind {
            Kind::Manifest => format!("manifests/{digest}"),
            Kind::Blob => format!("blobs/{digest}"),
        };
        let bytes = self.get(&path, digest, limit).await?;
        let found = digest_of(&bytes);
        if found != digest {
            return Err(Fault::Mismatch(format!("the registry sent {found} for {digest}")));
        }
        Ok(bytes)
    }

    async fn get(&self, path: &str, name: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let mut response = self.send(Method::GET, path).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let too_large = || {
            Fault::Mismatch(format!("{name} has more than {limit} bytes, which no manifest or config has"))
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let (bytes, is_whole) = read(&mut response, limit).await?;
        if is_whole { Ok(bytes) } else { Err(too_large()) }
    }

    /// Asks, and once more with credentials if the host wants some.
    async fn send(&self, method: Method, path: &str) -> Result<Response, Fault> {
        let known = self.credential.get();
        let response = self.request(&method, path, known.and_then(Option::as_ref)).await?;
        if response.status() != StatusCode::UNAUTHORIZED || known.is_some() {
            return Ok(response);
        }
        let credential = self.credential.get_or_try_init(|| self.authorize()).await?;
        if credential.is_none() {
            return Ok(response);
        }
        self.request(&method, path, credential.as_ref()).await
    }

    async fn request(
        &self,
        method: &Method,
        path: &str,
        credential: Option<&Credential>,
    ) -> Result<Response, Fault> {
        let (registry, repository) = (self.reference.resolve_registry(), self.reference.repository());
        let mut url = format!("{}://{registry}/v2/{repository}/{path}", self.scheme);
        if let Some(namespace) = self.reference.namespace() {
            url += &format!("?ns={namespace}");
        }
        let mut request = self.web.request(method.clone(), url);
        for accepted in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
            request = request.header(ACCEPT, accepted);
        }
        request = match credential {
            Some(Credential::Bearer(token)) => request.bearer_auth(token),
            Some(Credential::Basic { user, password }) => request.basic_auth(user, Some(password)),
            None => request,
        };
        request.send().await.map_err(|error| Fault::from_request(&error))
    }

    async fn authorize(&self) -> Result<Option<Credential>, Fault> {
        let token = self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await?;
        Ok(match (token, &self.auth) {
            (Some(token), _) => Some(Credential::Bearer(token)),
            (None, RegistryAuth::Basic(user, password)) => {
                Some(Credential::Basic { user: user.clone(), password: password.clone() })
            }
            (None, RegistryAuth::Anonymous | RegistryAuth::Bearer(_)) => None,
        })
    }
}

/// An HTTP client that trusts what `host` is to be trusted with.
pub(super) fn client(host: &Host, authorities: &[Certificate]) -> Result<reqwest::Client, Fault> {
    let mut certificates = Vec::new();
    for authority in authorities {
        let parsed = reqwest::Certificate::from_pem_bundle(&authority.data)
            .map_err(|error| Fault::Foreign(format!("its CA file is not one: {error}")))?;
        certificates.extend(parsed);
    }
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        // Who speaks in the clear can be led anywhere, so certificates prove nothing after that, and
        // need not be read: a machine may have none.
        .danger_accept_invalid_certs(host.skip_verify || host.plain)
        .tls_certs_merge(certificates)
        .build()
        .map_err(|error| Fault::from_request(&error))
}

/// The first `limit` bytes of a body, and whether that is all of it.
pub(super) async fn read(response: &mut Response, limit: u64) -> Result<(Vec<u8>, bool), Fault> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| Fault::from_request(&error))? {
        let room = limit - bytes.len();
        if part.len() > room {
            bytes.extend_from_slice(&part[..room]);
            return Ok((bytes, false));
        }
        bytes.extend_from_slice(&part);
    }
    Ok((bytes, true))
}

/// What an answer means that is not the thing itself.
async fn refusal(mut response: Response) -> Fault {
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        return Fault::Unauthorized;
    }
    let url = response.url().to_string();
    let (body, _) = match read(&mut response, MAX_REFUSAL).await {
        Ok(read) => read,
        Err(fault) => return fault,
    };
    match serde_json::from_slice::<OciEnvelope>(&body) {
        Ok(envelope) if status.is_client_error() => {
            OciDistributionError::RegistryError { envelope, url }.into()
        }
        _ => Fault::from_status(status.as_u16(), &String::from_utf8_lossy(&body)),
    }
}

/// The challenge of a host that wants credentials.
pub(super) fn challenge(response: &Response) -> Option<&str> {
    response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok())
}
