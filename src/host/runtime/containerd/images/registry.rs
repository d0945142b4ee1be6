//! A conversation with the registry that has one image: its hosts in order, until one of them gives
//! what is asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::error::{Failure, Fault};
use super::hosts::{Host, hosts};
use super::manifest::Descriptor;
use super::resolved::Wanted;
use super::session::{Session, Transfer};
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

/// Subject of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// A tag, and what it means now.
    Tag,
    /// Something that has a digest.
    Digest,
}

#[derive(Debug)]
struct Endpoint {
    host: Host,
    session: OnceCell<Arc<Session>>,
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

    /// The name of the registry.
    pub(super) fn name(&self) -> &str {
        self.image.reference().registry()
    }

    /// The digest that the image's name means now.
    pub(super) async fn digest(&self) -> Result<String, RuntimeError> {
        self.ask_patiently(About::Tag, |session| async move { session.digest().await }).await
    }

    /// An index, manifest or config by its digest. It is not checked here.
    pub(super) async fn document(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Bytes, RuntimeError> {
        let question = |session: Arc<Session>| async move { session.document(wanted, limit).await };
        self.ask_patiently(About::Digest, question).await
    }

    /// A layer from byte `offset` on. Hosts that do not know about offsets send all of it.
    pub(super) async fn layer(&self, layer: &Descriptor, offset: u64) -> Result<Transfer, Failure> {
        let question = |session: Arc<Session>| async move { session.layer(&layer.digest, offset).await };
        self.ask(About::Digest, &question).await
    }

    /// A fault as an error about this image.
    pub(super) fn error(&self, fault: Fault) -> RuntimeError {
        fault.into_error(self.image.as_str(), self.name(), &self.docker_config.display().to_string())
    }

    async fn ask_patiently<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        about: About,
        question: impl Fn(Arc<Session>) -> F,
    ) -> Result<T, RuntimeError> {
        let mut pause = FIRST_PAUSE;
        let mut repeats = 0;
        loop {
            let fault = match self.ask(about, &question).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Fault(fault)) => fault,
                Err(Failure::Ours(error)) => return Err(error),
            };
            let is_busy = matches!(fault, Fault::Busy { .. });
            let Some(wait) = fault.wait(pause).filter(|_| is_busy && repeats < REPEATS) else {
                return Err(self.error(fault));
            };
            tracing::debug!(image = %self.image, ?fault, ?wait, "asking the registry again");
            tokio::time::sleep(wait).await;
            pause *= 3;
            repeats += 1;
        }
    }

    /// Asks one host after the other, beginning with the one that answered last.
    async fn ask<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        about: About,
        question: &impl Fn(Arc<Session>) -> F,
    ) -> Result<T, Failure> {
        let mut refusal: Option<Fault> = None;
        let count = self.endpoints.len();
        // A tag is looked up where the settings say first, whoever has sent something before.
        let first = if about == About::Tag { 0 } else { self.answered.load(Ordering::Relaxed) };
        for position in (0..count).map(|step| (first + step) % count) {
            let Endpoint { host, session } = &self.endpoints[position];
            if !(if about == About::Tag { host.resolves } else { host.pulls }) {
                continue;
            }
            // A fallback is for when the host before it was not understood, and only then.
            if host.is_fallback && refusal.as_ref().is_some_and(Fault::is_answer) {
                continue;
            }
            let open = || async { Session::open(&self.image, host, &self.docker_config).await.map(Arc::new) };
            let answer = async { question(session.get_or_try_init(open).await?.clone()).await };
            let fault = match answer.await {
                Ok(answer) => {
                    self.answered.store(position, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Failure::Fault(fault)) => fault,
                Err(ours) => return Err(ours),
            };
            tracing::debug!(image = %self.image, host = host.address, ?fault, "a host did not give what was asked");
            refusal = Some(match refusal {
                // That it does not speak in the clear is nearer to the truth than that it has no TLS.
                Some(earlier) if host.is_fallback && !fault.is_answer() => earlier,
                // The one that could not be asked may be the one that has it.
                Some(earlier @ (Fault::Busy { .. } | Fault::Down(_))) if fault == Fault::NotFound => earlier,
                _ => fault,
            });
        }
        Err(Failure::Fault(refusal.unwrap_or_else(|| {
            Fault::Foreign("its hosts.toml names no host that may be asked for this".into())
        })))
    }
}
