//! Secrets in a file that a passphrase keeps closed.
//!
//! The daemon seals their values with a key that is made here for this one file; the passphrase, and the
//! memory that turns it into a key, stay with this command.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use anyhow::Context as _;
use reqwest::Method;

use age::{self, FileKey};
use host::secrets;
use model::function::NamespaceName;
use model::wire::{Secret, SecretsExport};

use super::client::Client;
use super::error::CliError;
use super::{atomic_file, output, stdin};

/// Bytes of a file that is read: more than the daemon exports at once.
const MAX_FILE: usize = 64 << 20;

/// Writes the secrets of a namespace, or of all, to a file.
pub(super) async fn export(
    client: &Client,
    namespace: Option<&str>,
    path: &Path,
    passphrase: String,
) -> anyhow::Result<()> {
    let key = FileKey::random();
    let request = client.system(Method::POST, &["secrets", "export"], &[("namespace", namespace)]);
    let payload = request.json(&SecretsExport { key: key.encode() }).send().await?.body;
    let mut sealed = tokio::task::spawn_blocking(move || age::header(&key, &passphrase)).await?;
    sealed.extend_from_slice(&payload);
    atomic_file::replace(path, &sealed).with_context(|| format!("writing {}", path.display()))?;
    output::note(format!("the secrets are in {}", path.display()));
    Ok(())
}

/// The secrets in a file, all of which can be sent; for `namespace`, if there is one, instead of their own.
pub(super) async fn open(
    path: &Path,
    passphrase: String,
    namespace: Option<&str>,
) -> anyhow::Result<Vec<Secret>> {
    let read = async { stdin::read_at_most(tokio::fs::File::open(path).await?, MAX_FILE).await };
    let file = read.await.with_context(|| format!("secrets file {}", path.display()))?;
    let wrong = |reason: &dyn Display| CliError::usage(format!("secrets file {}: {reason}", path.display()));
    if file.len() > MAX_FILE {
        return Err(wrong(&format_args!("it is larger than {MAX_FILE} bytes")).into());
    }
    let opened = tokio::task::spawn_blocking(move || age::open(&file, &passphrase)).await?;
    let plain = opened.map_err(|error| wrong(&error))?;
    let mut secrets: Vec<Secret> = serde_json::from_slice(&plain)
        .map_err(|error| wrong(&format_args!("it holds something else than secrets: {error}")))?;
    for secret in &secrets {
        secrets::check(secret).map_err(|error| wrong(&format_args!("secret {}: {error}", secret.name)))?;
    }
    let mut seen = BTreeSet::new();
    for secret in &mut secrets {
        let namespace = namespace.map(str::to_owned).or_else(|| secret.namespace.take());
        secret.namespace = Some(namespace.unwrap_or_else(|| NamespaceName::DEFAULT.to_owned()));
        if !seen.insert(full_name(secret)) {
            return Err(wrong(&format_args!("it would set {} twice", full_name(secret))).into());
        }
    }
    Ok(secrets)
}

/// A secret's name with its namespace.
fn full_name(secret: &Secret) -> String {
    format!("{}.{}", secret.name, secret.namespace.as_deref().unwrap_or(NamespaceName::DEFAULT))
}

/// Makes a secret, or gives it this value.
pub(super) async fn set(client: &Client, secret: &Secret) -> anyhow::Result<()> {
    let send = |method| client.system(method, &["secrets"], &[]).json(secret).send();
    let done = match send(Method::POST).await {
        Err(CliError::Refused { status: 409, .. }) => {
            // Values are not given out, so whether it is the same is not known.
            send(Method::PUT).await?;
            "set"
        }
        created => created.map(|_| "created")?,
    };
    Ok(output::line(format!("secret {} was {done}", full_name(secret)))?)
}
