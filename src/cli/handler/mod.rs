//! Handlers: the code of functions whose image has none, as an archive from a directory to the gateway, and from one
//! gateway by way of a file to another.

mod files;
mod pack;

use std::path::Path;

use anyhow::Context as _;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use sha2::{Digest as _, Sha256};

use super::client::Client;
use super::error::CliError;
use super::options::set;
use model::function::HandlerDigest;
use model::stack::Stack;
use model::wire::Deployment;

pub(super) use files::{Carried, save};

/// The annotation that names a function's handler.
pub(super) const ANNOTATION: &str = "ingle.handler";
/// Bytes of an archive, which is in memory while it is sent.
const MAX_ARCHIVE: usize = 1 << 30;

/// A handler as it is sent.
#[derive(Debug)]
pub(super) struct Packed {
    digest: HandlerDigest,
    archive: Vec<u8>,
}

impl Packed {
    /// Reads a directory.
    pub(super) fn read(directory: &Path) -> anyhow::Result<Self> {
        pack::pack(directory).map(Self::of)
    }

    fn of(archive: Vec<u8>) -> Self {
        Self { digest: HandlerDigest::of(&Sha256::digest(&archive).into()), archive }
    }

    /// Whether a deployment names it.
    pub(super) fn is_of(&self, deployment: &Deployment) -> bool {
        of(deployment) == Some(self.digest.as_str())
    }

    /// Hands it over, unless the gateway has it; what deployments name it by.
    pub(super) async fn hand_over(self, client: &Client) -> anyhow::Result<HandlerDigest> {
        let Self { digest, archive } = self;
        if !is_there(client, &digest).await? {
            let request = client.system(Method::PUT, &["handlers", digest.as_str()], &[]);
            let request =
                request.map(|builder| builder.header(CONTENT_TYPE, "application/x-tar").body(archive));
            request.stream_ok().await.context("handing the handler over")?;
        }
        Ok(digest)
    }
}

/// Reads the directories with the code of a stack's functions, and lets these name it.
pub(super) fn read_all(stack: &mut Stack) -> anyhow::Result<Vec<Packed>> {
    let handlers = std::mem::take(&mut stack.handlers);
    let read = |(place, directory): (usize, std::path::PathBuf)| {
        let Some(function) = stack.functions.get_mut(place) else {
            anyhow::bail!("{} belongs to no function", directory.display());
        };
        let packed = Packed::read(&directory).with_context(|| {
            format!("functions.{}.handler, which has no lang or skip_build", function.service)
        })?;
        set(function, ANNOTATION, packed.digest.to_string(), false);
        Ok(packed)
    };
    handlers.into_iter().map(read).collect()
}

/// What a deployment names its handler by, if it has one.
pub(super) fn of(deployment: &Deployment) -> Option<&str> {
    let mut settings = deployment.annotations.iter().chain(&deployment.labels);
    settings.find_map(|settings| settings.get(ANNOTATION)).map(String::as_str)
}

/// Whether the gateway has it; if so, it keeps it for an hour.
async fn is_there(client: &Client, digest: &HandlerDigest) -> Result<bool, CliError> {
    match client.system(Method::HEAD, &["handlers", digest.as_str()], &[]).send().await {
        Ok(_) => Ok(true),
        Err(CliError::Refused { status: 404, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
