//! What is done with requests: one of the modes.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::oneshot;

use super::afterburn::Afterburn;
use super::body::BodyError;
use super::call::Call;
use super::files::Files;
use super::fork::Fork;
use super::proxy::Proxy;
use super::server::Shared;
use super::settings::{Mode, Settings};
use super::whisk::Whisk;

/// Why a request was not answered as it should have been.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The request did not arrive whole.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// The client does not take the answer any more.
    #[error("the client went away: {0}")]
    Client(std::io::Error),
    /// The process could not be started.
    #[error("the command could not be started: {0}")]
    Start(std::io::Error),
    /// It ended, and not well.
    #[error("{0}")]
    Ended(String),
    /// It took longer than it may; the first of the watchdogs said so with another status.
    #[error("{text}")]
    Timeout {
        /// What is said.
        text: &'static str,
        /// The status that goes with it.
        status: StatusCode,
    },
    /// The process could not be reached, or does not speak as it should.
    #[error("{0}")]
    Upstream(String),
    /// The request is not one that this mode understands.
    #[error("{1}")]
    Request(StatusCode, String),
}

impl Failure {
    /// What the client is told; nothing if it has gone.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Body(BodyError::Malformed) => Some(StatusCode::BAD_REQUEST),
            Self::Body(BodyError::Late) => Some(StatusCode::REQUEST_TIMEOUT),
            Self::Body(BodyError::Gone) | Self::Client(_) => None,
            Self::Start(_) | Self::Ended(_) => Some(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Timeout { status, .. } | Self::Request(status, _) => Some(*status),
            Self::Upstream(_) => Some(StatusCode::BAD_GATEWAY),
        }
    }
}

/// Told when a process ends that the function cannot do without: how.
pub(super) type Ended = oneshot::Receiver<String>;

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
        let (sender, ended) = oneshot::channel();
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
