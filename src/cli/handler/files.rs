//! Handlers in files: what `ingle export --handlers` writes, and `ingle apply --handlers` hands over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::Method;

use super::{MAX_ARCHIVE, Packed, is_there};
use crate::cli::atomic_file;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use model::function::HandlerDigest;
use model::wire::Deployment;

/// The handlers that deployments name, each once, with a function that does.
fn named<'a>(deployments: impl IntoIterator<Item = &'a Deployment>) -> BTreeMap<HandlerDigest, &'a str> {
    let mut named = BTreeMap::new();
    for deployment in deployments {
        // What is no digest is the gateway's to refuse.
        if let Some(Ok(digest)) = super::of(deployment).map(str::parse) {
            named.entry(digest).or_insert(deployment.service.as_str());
        }
    }
    named
}

/// Where the archive of a handler is.
fn path(directory: &Path, digest: &HandlerDigest) -> PathBuf {
    directory.join(format!("{}.tar", digest.hex()))
}

/// Writes the handlers of these deployments to a directory, made if need be; how many there are.
pub(crate) async fn save<'a>(
    client: &Client,
    deployments: impl IntoIterator<Item = &'a Deployment>,
    directory: &Path,
) -> anyhow::Result<usize> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let named = named(deployments);
    for (digest, function) in &named {
        let path = path(directory, digest);
        let request = client.system(Method::GET, &["handlers", digest.as_str()], &[]);
        let archive =
            request.download(MAX_ARCHIVE).await.with_context(|| format!("the handler of {function}"))?;
        let found =
            Packed::of(archive.body).checked(digest).with_context(|| format!("the handler of {function}"))?;
        atomic_file::replace(&path, &found.archive).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(named.len())
}

/// Handlers that are handed over before the deployments that name them.
#[derive(Debug, Default)]
pub(crate) struct Carried(Vec<(HandlerDigest, PathBuf)>);

impl Carried {
    /// Those of the handlers of `deployments` that the gateway does not have: each is in the directory, and whole.
    pub(crate) async fn find<'a>(
        client: &Client,
        deployments: impl IntoIterator<Item = &'a Deployment>,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let mut carried = Vec::new();
        for (digest, function) in named(deployments) {
            if is_there(client, &digest).await? {
                continue;
            }
            let path = path(directory, &digest);
            if !path.exists() {
                let text = format!(
                    "the handler of {function} is neither at the gateway nor in {}: \
                     'ingle export --handlers' writes it where it is",
                    path.display()
                );
                return Err(CliError::Usage(text).into());
            }
            open(&path, &digest)?;
            carried.push((digest, path));
        }
        Ok(Self(carried))
    }

    /// Hands them over, one after the other: each is in memory while it is sent.
    pub(crate) async fn hand_over(self, client: &Client) -> anyhow::Result<()> {
        for (digest, path) in self.0 {
            open(&path, &digest)?.hand_over(client).await?;
        }
        Ok(())
    }
}

/// Reads the archive of a handler.
fn open(path: &Path, digest: &HandlerDigest) -> anyhow::Result<Packed> {
    let read = || Packed::of(fs::read(path)?).checked(digest);
    read().with_context(|| path.display().to_string())
}

impl Packed {
    /// This, if it is what the digest is of.
    fn checked(self, digest: &HandlerDigest) -> anyhow::Result<Self> {
        anyhow::ensure!(
            self.digest == *digest,
            "it was changed: its digest is {}, not {digest}",
            self.digest
        );
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(service: &str, handler: &str) -> Deployment {
        let annotations = Some([(super::super::ANNOTATION.to_owned(), handler.to_owned())].into());
        Deployment { service: service.into(), annotations, ..Default::default() }
    }

    #[test]
    fn a_handler_that_several_share_is_carried_once() {
        let one = HandlerDigest::of(&[1; 32]);
        let deployments =
            [deployment("a", one.as_str()), deployment("b", one.as_str()), deployment("c", "latest")];
        assert_eq!(named(&deployments), [(one, "a")].into());
        assert_eq!(named(&[Deployment::default()]), BTreeMap::new());
    }

    #[test]
    fn what_was_changed_is_not_sent() {
        let packed = || Packed::of(b"archive".to_vec());
        let digest = packed().digest;
        packed().checked(&digest).expect("it is the same");
        let error = packed().checked(&HandlerDigest::of(&[0; 32])).expect_err("another").to_string();
        assert!(error.contains(digest.as_str()), "{error}");
    }
}
