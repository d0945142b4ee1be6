//! One host of a registry, with credentials: questions to it, and its answers, each read with a bound.
//!
//! Invariants
//! - What the host wants to be shown is learnt from what it refuses, and again whenever it refuses: a token that it
//!   stops taking is replaced in the middle of a pull.
//! - A token is fetched once, however many requests wait for it.
//! - Credentials are for the host, and for the server of tokens that it names. Other hosts that they lead to get none,
//!   and cannot ask for any.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, RANGE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Response, Url};
use tokio::sync::Mutex;

use super::challenge::Challenge;
use super::credentials::{self, Credentials};
use super::error::{Failure, Fault};
use super::hosts::Host;
use super::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST, check_digest, digest_of,
};
use super::resolved::{Kind, Wanted};
use super::token::Question;
use super::web;
use crate::runtime::RuntimeError;
use model::error::public_url;
use model::function::ImageRef;

/// How long a small answer may take, from the question to its last byte.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Times that a request is sent, if its tokens go stale meanwhile.
const ATTEMPTS: usize = 6;
const DIGEST_HEADER: &str = "docker-content-digest";

/// A host with credentials.
pub(super) struct Session {
    web: reqwest::Client,
    host: Host,
    /// The image's repository as this host knows it.
    repository: String,
    tag: String,
    /// The registry that a mirror is asked in place of.
    namespace: Option<String>,
    credentials: Credentials,
    /// A client for forms with credentials.
    forms: reqwest::Client,
    /// Proof that is sent along, once the host has asked for one.
    proof: Mutex<Proof>,
}

/// Proof of a right: the header `Authorization`.
#[derive(Clone, Default)]
struct Proof {
    header: Option<HeaderValue>,
    /// Proofs before this one.
    number: usize,
    /// Set once the host has taken it.
    worked: Arc<AtomicBool>,
    /// Proofs in a row, before this one, that the host has not taken at all.
    vain: usize,
}

/// The body of a layer.
#[derive(Debug)]
pub(super) struct Transfer {
    /// The byte that it begins with.
    pub(super) start: u64,
    pub(super) response: Response,
}

impl Proof {
    /// Returns whether it was shown and never taken, as far as is known.
    fn is_vain(&self) -> bool {
        self.header.is_some() && !self.worked.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("host", &self.host)
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session with `host` about `image`. Nothing is sent yet.
    pub(super) async fn open(image: &ImageRef, host: &Host, docker_config: &Path) -> Result<Self, Failure> {
        let authorities = read_authorities(host).await?;
        let web = web::client(host, &authorities, Policy::default())?;
        let name = host.address.split('/').next().unwrap_or(&host.address);
        let repository = format!("{}{}", host.prefix, image.reference().repository());
        let credentials = credentials::find(docker_config, name, &repository).await?;
        let forms = match credentials {
            Credentials::Anonymous => web.clone(),
            // A form would be sent again, with all that is in it, to wherever an answer leads.
            _ => web::client(host, &authorities, Policy::none())?,
        };
        Ok(Self {
            web,
            host: host.clone(),
            repository,
            tag: image.reference().tag().unwrap_or("latest").to_owned(),
            namespace: namespace(image, host),
            credentials,
            forms,
            proof: Mutex::default(),
        })
    }

    /// Returns the digest that the tag means now. Not every registry says it in a header.
    pub(super) async fn digest(&self) -> Result<String, Failure> {
        let digest = in_time(async {
            let path = format!("manifests/{}", self.tag);
            let head = self.send(&Method::HEAD, &path, 0).await?;
            let said = head.headers().get(DIGEST_HEADER).and_then(|value| value.to_str().ok());
            match said.filter(|_| head.status() == StatusCode::OK) {
                Some(digest) => Ok(digest.to_owned()),
                None => Ok(digest_of(&self.get(&path, &self.tag, MAX_MANIFEST).await?)),
            }
        });
        let digest = digest.await?;
        check_digest(&digest).map_err(Fault::Foreign)?;
        Ok(digest)
    }

    /// Fetches a document of at most `limit` bytes that has the digest which is wanted.
    pub(super) async fn document(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Bytes, Failure> {
        let digest = wanted.digest;
        let path = match wanted.kind {
            Kind::Manifest => format!("manifests/{digest}"),
            Kind::Blob => format!("blobs/{digest}"),
        };
        let bytes = in_time(self.get(&path, digest, limit)).await?;
        let found = digest_of(&bytes);
        if found != digest {
            return Err(Fault::Mismatch(format!("the registry sent {found} for {digest}")).into());
        }
        Ok(bytes.into())
    }

    /// Fetches a layer from a byte on; from its first one, if the host does not give it from there.
    pub(super) async fn layer(&self, digest: &str, start: u64) -> Result<Transfer, Failure> {
        let path = format!("blobs/{digest}");
        if start > 0 {
            let response = in_time(self.send(&Method::GET, &path, start)).await?;
            match response.status().as_u16() {
                200 => return Ok(Transfer { start: 0, response }),
                206 if first_byte(&response) == Some(start) => return Ok(Transfer { start, response }),
                // Another answer about a part says nothing about the whole, unless it is about the moment.
                401 | 408 | 429 | 500 | 502.. => return Err(self.refusal(response).await.into()),
                _ => {}
            }
        }
        let response = in_time(self.send(&Method::GET, &path, 0)).await?;
        match response.status() {
            StatusCode::OK => Ok(Transfer { start: 0, response }),
            _ => Err(self.refusal(response).await.into()),
        }
    }

    async fn get(&self, path: &str, name: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let mut response = self.send(&Method::GET, path, 0).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        let too_large = || {
            Fault::Mismatch(format!("{name} has more than {limit} bytes, which no manifest or config has"))
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let (bytes, is_whole) = web::read(&mut response, limit).await?;
        if is_whole { Ok(bytes) } else { Err(too_large()) }
    }

    /// Asks, and again with another proof if the host wants one.
    async fn send(&self, method: &Method, path: &str, start: u64) -> Result<Response, Fault> {
        let mut attempt = 1;
        loop {
            let proof = self.proof.lock().await.clone();
            let response = self.request(method, path, start, proof.header.as_ref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                proof.worked.store(true, Ordering::Relaxed);
                return Ok(response);
            }
            // What is new may not have come to every server of the host. The second that is refused when it is new is
            // refused for another reason.
            let is_refused = proof.is_vain() && proof.vain > 0;
            if is_refused || attempt == ATTEMPTS || !self.renew(&response, &proof).await? {
                return Ok(response);
            }
            attempt += 1;
        }
    }

    async fn request(
        &self,
        method: &Method,
        path: &str,
        start: u64,
        proof: Option<&HeaderValue>,
    ) -> Result<Response, Fault> {
        let mut url = format!("{}/v2/{}/{path}", self.root(), self.repository);
        if let Some(namespace) = &self.namespace {
            url += &format!("?ns={namespace}");
        }
        let mut request = self.web.request(method.clone(), url);
        if path.starts_with("manifests/") {
            for accepted in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*"] {
                request = request.header(ACCEPT, accepted);
            }
        }
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        if let Some(proof) = proof {
            request = request.header(AUTHORIZATION, proof);
        }
        request.send().await.map_err(|error| Fault::from_request(&error))
    }

    /// Returns the meaning of an answer that is not the thing itself.
    async fn refusal(&self, response: Response) -> Fault {
        let (status, url) = (response.status(), response.url().clone());
        match web::refusal(response).await {
            // Where a host leads to is good for a while, and says nothing of the credentials.
            Fault::Unauthorized if !self.is_own(&url) => {
                Fault::busy(format!("{}, where it leads, answered {status}", public_url(url.as_str())))
            }
            fault => fault,
        }
    }

    /// Returns whether an answer from this address is the host's own.
    fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.root()).is_ok_and(|root| root.origin() == url.origin())
    }

    fn root(&self) -> String {
        format!("{}://{}", if self.host.plain { "http" } else { "https" }, self.host.address)
    }

    /// Makes what `refused` asks for, in place of `used`, unless somebody else has done it; says whether there is
    /// anything that could be shown.
    async fn renew(&self, refused: &Response, used: &Proof) -> Result<bool, Fault> {
        let mut proof = self.proof.lock().await;
        if proof.number != used.number {
            return Ok(true);
        }
        let challenges = Challenge::all(refused.headers());
        let mut header = self.prove(&challenges, refused, used).await?;
        if header.is_none() && !challenges.iter().any(|challenge| challenge.realm().is_some()) {
            // Some say only here what they want.
            let greeting = self.web.get(format!("{}/v2/", self.root())).send().await;
            let greeting = greeting.map_err(|error| Fault::from_request(&error))?;
            header = self.prove(&Challenge::all(greeting.headers()), &greeting, used).await?;
        }
        if header.is_none() {
            return Ok(false);
        }
        let vain = if used.is_vain() { used.vain + 1 } else { 0 };
        *proof = Proof { header, number: used.number + 1, worked: Arc::default(), vain };
        Ok(true)
    }

    /// Returns a header that meets one of these challenges of an answer, if there is one.
    async fn prove(
        &self,
        challenges: &[Challenge],
        refused: &Response,
        used: &Proof,
    ) -> Result<Option<HeaderValue>, Fault> {
        if !self.is_own(refused.url()) {
            return Ok(None);
        }
        // It is shown whatever the host asks for, and once.
        if let Credentials::Bearer(token) = &self.credentials {
            return if used.header.is_none() { bearer(token).map(Some) } else { Ok(None) };
        }
        for challenge in challenges {
            let Some(realm) = challenge.realm().and_then(|realm| refused.url().join(realm).ok()) else {
                continue;
            };
            let (repository, credentials) = (self.repository.as_str(), &self.credentials);
            let question = Question { realm, challenge, repository, credentials, plain: self.host.plain };
            return bearer(&question.ask(&self.web, &self.forms).await?).map(Some);
        }
        let Credentials::Password { user, password } = &self.credentials else { return Ok(None) };
        if !challenges.iter().any(Challenge::is_basic) {
            return Ok(None);
        }
        let header = secret(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))?;
        // The same once more would be refused once more.
        Ok(Some(header).filter(|header| used.header.as_ref() != Some(header)))
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Fault> {
    secret(format!("Bearer {token}"))
}

fn secret(text: String) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Fault::Foreign("its token has characters that none can have".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the first byte of the part in an answer.
fn first_byte(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?.trim();
    let (unit, range) = range.split_once(' ')?;
    unit.eq_ignore_ascii_case("bytes").then(|| range.trim().split_once('-')?.0.parse().ok()).flatten()
}

/// The registry that `host` is asked in place of, for it to know whose image is meant, as containerd tells it.
fn namespace(image: &ImageRef, host: &Host) -> Option<String> {
    let registry = image.reference().registry();
    // Docker's own registry has several names, and is not a mirror of itself.
    let own = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    (host.address != own && host.address != image.reference().resolve_registry()).then(|| registry.to_owned())
}

async fn read_authorities(host: &Host) -> Result<Vec<Vec<u8>>, RuntimeError> {
    let mut authorities = Vec::with_capacity(host.ca.len());
    for path in &host.ca {
        let data = tokio::fs::read(path)
            .await
            .map_err(|error| RuntimeError::failed(format!("reading {}", path.display()), error))?;
        authorities.push(data);
    }
    Ok(authorities)
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

    fn host(address: &str) -> Host {
        hosts::hosts(Path::new("/does/not/exist"), address).unwrap().remove(0)
    }

    #[test]
    fn a_mirror_is_told_whose_image_it_is_and_the_registry_itself_is_not() {
        let of = |image: &str, address| namespace(&image.parse().unwrap(), &host(address));
        assert_eq!(of("alpine:3", "mirror.example").as_deref(), Some("docker.io"));
        assert_eq!(of("alpine:3", "registry-1.docker.io"), None);
        assert_eq!(of("ghcr.io/a/b:1", "ghcr.io"), None);
        assert_eq!(of("ghcr.io/a/b:1", "docker.io").as_deref(), Some("ghcr.io"));
    }

    #[test]
    fn the_first_byte_of_a_part() {
        let first = |value: &str| {
            let answer = http::Response::builder().header(CONTENT_RANGE, value).body("").expect("an answer");
            first_byte(&answer.into())
        };
        assert_eq!(first("bytes 5-9/10"), Some(5));
        assert_eq!(first("Bytes  5-9/*"), Some(5));
        for none in ["bytes */10", "5-9/10", "lines 5-9/10", ""] {
            assert_eq!(first(none), None, "{none}");
        }
    }
}
