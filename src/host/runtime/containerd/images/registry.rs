//! A conversation with the registry that has one image: its hosts in order, until one of them gives
//! what is asked for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use oci_client::client::BlobResponse;
use tokio::sync::OnceCell;

use super::error::{Failure, Fault};
use super::hosts::{Host, hosts};
use super::manifest::Descriptor;
use super::resolved::Wanted;
use super::session::{Answer, Question, Session};
use crate::runtime::RuntimeError;
use model::config;
use model::function::ImageRef;

/// How often a small question is asked again that a busy registry has not answered.
const REPEATS: u32 = 2;
/// The pause before the first repetition.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The registry of one image. Nothing is sent before something is asked.
#[derive(Debug)]
pub(super) struct Registry {
    image: ImageRef,
    docker_config: PathBuf,
    endpoints: Vec<Endpoint>,
    /// The host that answered last: what has a digest is asked for there first.
    answered: AtomicUsize,
}

#[derive(Debug)]
struct Endpoint {
    host: Host,
    session: OnceCell<Session>,
}

impl Registry {
    /// The registry of `image` by the settings as they are now.
    pub(super) fn new(settings: &config::Images, image: &ImageRef) -> Result<Self, RuntimeError> {
        let endpoints = hosts(&settings.certs_dir, image.reference().registry())?
            .into_iter()
            .map(|host| Endpoint { host, session: OnceCell::new() })
            .collect();
        Ok(Self {
            image: image.clone(),
            docker_config: settings.docker_config.clone(),
            endpoints,
            answered: AtomicUsize::new(0),
        })
    }

    /// The digest that the image's name means now.
    pub(super) async fn digest(&self) -> Result<String, RuntimeError> {
        match self.ask_patiently(&Question::Digest).await? {
            Answer::Digest(digest) => Ok(digest),
            Answer::Document(_) | Answer::Layer(_) => unreachable!("a question has its kind of answer"),
        }
    }

    /// An index, manifest or config by its digest. It is not checked here.
    pub(super) async fn document(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Bytes, RuntimeError> {
        match self.ask_patiently(&Question::Document { wanted, limit }).await? {
            Answer::Document(bytes) => Ok(bytes),
            Answer::Digest(_) | Answer::Layer(_) => unreachable!("a question has its kind of answer"),
        }
    }

    /// A layer from byte `offset` on. Hosts that do not know about offsets send all of it.
    pub(super) async fn layer(&self, layer: &Descriptor, offset: u64) -> Result<BlobResponse, Failure> {
        match self.ask(&Question::Layer { digest: &layer.digest, offset }).await? {
            Answer::Layer(response) => Ok(response),
            Answer::Digest(_) | Answer::Document(_) => unreachable!("a question has its kind of answer"),
        }
    }

    /// A fault as an error about this image.
    pub(super) fn error(&self, fault: Fault) -> RuntimeError {
        let registry = self.image.reference().registry();
        fault.into_error(self.image.as_str(), registry, &self.docker_config.display().to_string())
    }

    async fn ask_patiently(&self, question: &Question<'_>) -> Result<Answer, RuntimeError> {
        let mut pause = FIRST_PAUSE;
        let mut repeats = 0;
        loop {
            match self.ask(question).await {
                Err(Failure::Fault(Fault::Busy(cause))) if repeats < REPEATS => {
                    tracing::debug!(image = %self.image, cause, "asking the registry again");
                    tokio::time::sleep(pause).await;
                    pause *= 3;
                    repeats += 1;
                }
                Ok(answer) => return Ok(answer),
                Err(Failure::Fault(fault)) => return Err(self.error(fault)),
                Err(Failure::Ours(error)) => return Err(error),
            }
        }
    }

    /// Asks one host after the other, beginning with the one that answered last.
    async fn ask(&self, question: &Question<'_>) -> Result<Answer, Failure> {
        let mut refusal: Option<Fault> = None;
        let count = self.endpoints.len();
        // A tag is looked up where the settings say first, whoever has sent something before.
        let first = if question.is_about_tag() { 0 } else { self.answered.load(Ordering::Relaxed) };
        for position in (0..count).map(|step| (first + step) % count) {
            let Endpoint { host, session } = &self.endpoints[position];
            if !(if question.is_about_tag() { host.resolves } else { host.pulls }) {
                continue;
            }
            // A fallback is for when the host before it was not understood, and only then.
            if host.is_fallback && refusal.as_ref().is_some_and(Fault::is_answer) {
                continue;
            }
            let fault = match self.ask_one(host, session, question).await {
                Ok(answer) => {
                    self.answered.store(position, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Failure::Fault(fault)) => fault,
                ours => return ours,
            };
            tracing::debug!(image = %self.image, host = host.address, ?fault, "a host did not give what was asked");
            refusal = Some(match refusal {
                // That it does not speak in the clear is nearer to the truth than that it has no TLS.
                Some(earlier) if host.is_fallback && !fault.is_answer() => earlier,
                _ => fault,
            });
        }
        Err(Failure::Fault(refusal.unwrap_or_else(|| {
            Fault::Foreign("its hosts.toml names no host that may be asked for this".into())
        })))
    }

    async fn ask_one(
        &self,
        host: &Host,
        session: &OnceCell<Session>,
        question: &Question<'_>,
    ) -> Result<Answer, Failure> {
        let open = || Session::open(&self.image, host, &self.docker_config);
        session.get_or_try_init(open).await?.ask(question).await
    }
}
