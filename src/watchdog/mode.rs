//! What is done with requests: one of the modes.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::afterburn::Afterburn;
use super::call::Call;
use super::child::Ended;
use super::failure::Failure;
use super::files::Files;
use super::fork::Fork;
use super::openwhisk::Whisk;
use super::proxy::Proxy;
use super::settings::{Mode, Settings};
use super::shared::Shared;

/// A mode, with what it needs.
#[derive(Debug)]
pub(super) enum Service {
    Fork(Fork),
    Proxy(Proxy),
    Files(Files),
    Afterburn(Afterburn),
    Whisk(Whisk),
}

impl Service {
    /// Starts what the mode needs to have running.
    pub(super) fn start(shared: &Arc<Shared>) -> Result<(Self, Ended), String> {
        let settings = &shared.settings;
        // Kept by those modes that have no such process: it never says anything.
        let (sender, ended) = mpsc::unbounded_channel();
        let service = match settings.mode {
            Mode::Streaming | Mode::Serializing | Mode::Classic => Self::Fork(Fork::new(settings, sender)?),
            Mode::Http => Self::Proxy(Proxy::start(shared, sender)?),
            Mode::Static => Self::Files(Files::new(settings, sender)?),
            Mode::Afterburn => Self::Afterburn(Afterburn::start(shared, sender)?),
            Mode::OpenWhisk => Self::Whisk(Whisk::start(shared, sender)?),
        };
        Ok((service, ended))
    }

    /// Answers a request.
    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        match self {
            Self::Fork(fork) => fork.serve(call).await,
            Self::Proxy(proxy) => proxy.serve(call).await,
            Self::Files(files) => files.serve(call).await,
            Self::Afterburn(afterburn) => afterburn.serve(call).await,
            Self::Whisk(whisk) => whisk.serve(call).await,
        }
    }

    /// Whether a request would be answered now.
    pub(super) async fn is_ready(&self, settings: &Settings) -> bool {
        match self {
            Self::Fork(_) | Self::Files(_) => true,
            Self::Afterburn(afterburn) => afterburn.is_ready(),
            Self::Proxy(proxy) => proxy.is_ready(settings).await,
            Self::Whisk(whisk) => whisk.is_ready(settings).await,
        }
    }

    /// Ends what was started.
    pub(super) async fn stop(&self) {
        match self {
            Self::Fork(_) | Self::Files(_) => {}
            Self::Proxy(proxy) => proxy.stop().await,
            Self::Afterburn(afterburn) => afterburn.stop().await,
            Self::Whisk(whisk) => whisk.stop().await,
        }
    }
}
