//! Secrets: files under the state directory that containers see read-only.
//!
//! A secret is the file `function-secrets/<namespace>/<name>`, mounted into containers at
//! `/var/openfaas/secrets/<name>`. Its mode is 0644, so that a function that does not run as root can
//! read it; on the host the directories above it, 0700, keep everyone but root out.
//!
//! A bind mount shows the inode that it was made with, so a new value is written *into* the file:
//! functions that run see it at their next read. The value is first written to a journal beside it
//! (`.<name>.new`), which the next start carries out if the daemon dies in between. A read at the
//! very moment of the change may see a part of each value.
//!
//! Invariants
//! - A value never leaves this room, except as a file that is mounted, and sealed with the key of who asks.
//! - After a crash a secret has its old value or, once [`Secrets::open`] returned, its new one.

mod error;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub use error::SecretError;

use crate::private_file::{self, if_there, names_in};
use crate::runtime::Mount;
use age::FileKey;
use model::function::{Invalid, NamespaceName, SecretName};
use model::sync::lock;
use model::wire;

/// The largest value in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// Secrets that a namespace may have: they are listed whole.
const MAX_SECRETS: usize = 1000;
/// Bytes of values that are exported at once: they are in memory several times meanwhile.
const MAX_EXPORT: usize = 16 << 20;
/// Where containers see their secrets.
const TARGET: &str = "/var/openfaas/secrets";
/// The value's mode: see above.
const MODE: u32 = 0o644;

/// The secrets of all namespaces. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Secrets(Arc<Files>);

#[derive(Debug)]
struct Files {
    root: PathBuf,
    /// Held by whoever changes a file: a change is several steps.
    changing: Mutex<()>,
    /// Held by whoever exports: that takes memory.
    exporting: tokio::sync::Mutex<()>,
}

/// A value as it will be written.
struct Value(Vec<u8>);

impl Secrets {
    /// The secrets under `state_dir`; finishes what a crash left unfinished.
    pub fn open(state_dir: &Path) -> Result<Self, SecretError> {
        let files = Files {
            root: state_dir.join("function-secrets"),
            changing: Mutex::new(()),
            exporting: Default::default(),
        };
        private_file::make_directory(&files.root)
            .and_then(|()| files.recover())
            .map_err(|error| SecretError::io(format!("opening {}", files.root.display()), error))?;
        Ok(Self(Arc::new(files)))
    }

    /// The names of the namespace's secrets, sorted.
    pub async fn list(&self, namespace: NamespaceName) -> Result<Vec<SecretName>, SecretError> {
        self.blocking(move |files| files.list(&namespace)).await
    }

    /// Keeps a new secret.
    pub async fn create(&self, namespace: NamespaceName, secret: wire::Secret) -> Result<(), SecretError> {
        let name: SecretName = secret.name.parse()?;
        let value = Value::of(&secret)?;
        self.blocking(move |files| files.create(&namespace, &name, &value)).await
    }

    /// Gives a secret a new value, which running functions see at their next read.
    pub async fn update(&self, namespace: NamespaceName, secret: wire::Secret) -> Result<(), SecretError> {
        let name: SecretName = secret.name.parse()?;
        let value = Value::of(&secret)?;
        self.blocking(move |files| files.update(&namespace, &name, &value)).await
    }

    /// All secrets of these namespaces with their values, as the payload of an age file with this key. It
    /// holds a JSON array of [`wire::Secret`].
    pub async fn export(&self, namespaces: Vec<NamespaceName>, key: FileKey) -> Result<Vec<u8>, SecretError> {
        let _one = self.0.exporting.lock().await;
        self.blocking(move |files| {
            let secrets = serde_json::to_vec(&files.values(&namespaces)?);
            let secrets = secrets.map_err(|error| SecretError::io("writing secrets".into(), error.into()))?;
            Ok(age::seal(&key, &secrets))
        })
        .await
    }

    /// Copies all secrets to a directory, for a backup. Blocks.
    pub fn copy(&self, to: &Path) -> io::Result<()> {
        // No value is halfway to another.
        let _changing = lock(&self.0.changing);
        private_file::copy(&self.0.root, to)
    }

    /// Forgets a secret. Functions that run keep what they have mounted.
    pub async fn delete(&self, namespace: NamespaceName, name: SecretName) -> Result<(), SecretError> {
        self.blocking(move |files| files.delete(&namespace, &name)).await
    }

    /// Takes away the directory of a namespace that is gone and has no secrets.
    pub async fn forget_namespace(&self, namespace: NamespaceName) -> Result<(), SecretError> {
        self.blocking(move |files| files.forget_namespace(&namespace)).await
    }

    /// What a replica mounts to see these secrets; an error names the first that is not there.
    pub fn mount(&self, namespace: &NamespaceName, names: &[SecretName]) -> Result<Vec<Mount>, SecretError> {
        names
            .iter()
            .map(|name| {
                let source = self.0.existing(namespace, name)?;
                Ok(Mount { source, target: Path::new(TARGET).join(name.as_str()), holds_programs: false })
            })
            .collect()
    }

    /// File systems may take their time, with every change synced to disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, SecretError> + Send + 'static,
    ) -> Result<T, SecretError> {
        let files = self.0.clone();
        tokio::task::spawn_blocking(move || work(&files)).await.unwrap_or_else(|error| {
            Err(SecretError::io("working on secrets".into(), io::Error::other(error)))
        })
    }
}

/// Whether a secret could be kept.
pub fn check(secret: &wire::Secret) -> Result<(), SecretError> {
    secret.name.parse::<SecretName>()?;
    secret.namespace.as_deref().map_or(Ok(()), |name| name.parse::<NamespaceName>().map(|_| ()))?;
    Value::of(secret).map(|_| ())
}

impl Value {
    fn of(secret: &wire::Secret) -> Result<Self, SecretError> {
        let too_large = || SecretError::TooLarge { secret: secret.name.clone(), limit: MAX_VALUE };
        let raw = secret.raw_value.as_deref().filter(|text| !text.is_empty());
        let value = match (raw, secret.value.as_deref()) {
            // Checked before decoding, which makes it at most a quarter shorter.
            (Some(text), _) if text.len() > MAX_VALUE * 2 => return Err(too_large()),
            (Some(text), _) => STANDARD
                .decode(text)
                .map_err(|error| Invalid::new("rawValue", format!("is not base64: {error}")))?,
            (None, Some(text)) if !text.is_empty() => text.as_bytes().to_vec(),
            (None, _) => {
                return Err(Invalid::new("value", "is empty; give a value, or a rawValue in base64").into());
            }
        };
        if value.len() > MAX_VALUE { Err(too_large()) } else { Ok(Self(value)) }
    }
}

impl Files {
    fn directory(&self, namespace: &NamespaceName) -> PathBuf {
        self.root.join(namespace.as_str())
    }

    /// The file of a secret that is there.
    fn existing(&self, namespace: &NamespaceName, name: &SecretName) -> Result<PathBuf, SecretError> {
        let path = self.directory(namespace).join(name.as_str());
        match path.try_exists() {
            Ok(true) => Ok(path),
            Ok(false) => Err(SecretError::NotFound { secret: name.clone(), namespace: namespace.clone() }),
            Err(error) => Err(SecretError::io(format!("looking for secret {name}"), error)),
        }
    }

    fn list(&self, namespace: &NamespaceName) -> Result<Vec<SecretName>, SecretError> {
        let failed = |error| SecretError::io(format!("listing the secrets of {namespace}"), error);
        let mut names: Vec<SecretName> = names_in(&self.directory(namespace))
            .map_err(failed)?
            .into_iter()
            // What does not parse as a name is ours, or was put there by hand.
            .filter_map(|name| name.parse().ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn values(&self, namespaces: &[NamespaceName]) -> Result<Vec<wire::Secret>, SecretError> {
        // No value is halfway to another.
        let _changing = lock(&self.changing);
        let mut secrets = Vec::new();
        let mut size = 0;
        for namespace in namespaces {
            for name in self.list(namespace)? {
                let value = std::fs::read(self.existing(namespace, &name)?)
                    .map_err(|error| SecretError::io(format!("reading secret {name}"), error))?;
                size += value.len();
                if size > MAX_EXPORT {
                    return Err(SecretError::ExportTooLarge { limit: MAX_EXPORT });
                }
                secrets.push(wire::Secret {
                    name: name.into(),
                    namespace: Some(namespace.as_str().to_owned()),
                    value: None,
                    raw_value: Some(STANDARD.encode(value)),
                });
            }
        }
        Ok(secrets)
    }

    fn create(&self, namespace: &NamespaceName, name: &SecretName, value: &Value) -> Result<(), SecretError> {
        let _changing = lock(&self.changing);
        if self.existing(namespace, name).is_ok() {
            return Err(SecretError::Exists { secret: name.clone(), namespace: namespace.clone() });
        }
        if self.list(namespace)?.len() >= MAX_SECRETS {
            return Err(SecretError::Full { namespace: namespace.clone(), limit: MAX_SECRETS });
        }
        let directory = self.directory(namespace);
        private_file::make_directory(&directory)
            .and_then(|()| private_file::write(&directory, name.as_str(), &value.0, MODE))
            .map_err(|error| SecretError::io(format!("writing secret {name}"), error))
    }

    fn update(&self, namespace: &NamespaceName, name: &SecretName, value: &Value) -> Result<(), SecretError> {
        let _changing = lock(&self.changing);
        self.existing(namespace, name)?;
        let directory = self.directory(namespace);
        private_file::write(&directory, &journal(name), &value.0, 0o600)
            .and_then(|()| carry_out(&directory, name))
            .map_err(|error| SecretError::io(format!("writing secret {name}"), error))
    }

    fn delete(&self, namespace: &NamespaceName, name: &SecretName) -> Result<(), SecretError> {
        let _changing = lock(&self.changing);
        let path = self.existing(namespace, name)?;
        std::fs::remove_file(path)
            .and_then(|()| private_file::sync_directory(&self.directory(namespace)))
            .map_err(|error| SecretError::io(format!("deleting secret {name}"), error))
    }

    fn forget_namespace(&self, namespace: &NamespaceName) -> Result<(), SecretError> {
        let _changing = lock(&self.changing);
        let removed = if_there(std::fs::remove_dir(self.directory(namespace)));
        removed
            .map(drop)
            .map_err(|error| SecretError::io(format!("deleting the secrets directory of {namespace}"), error))
    }

    /// Carries out the journals that are whole and removes what is not.
    fn recover(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.root)? {
            let directory = entry?.path();
            if !directory.is_dir() {
                continue;
            }
            for name in names_in(&directory)? {
                if private_file::is_unfinished(&name) {
                    std::fs::remove_file(directory.join(name))?;
                } else if let Some(secret) = journal_of(&name) {
                    carry_out(&directory, &secret)?;
                }
            }
        }
        Ok(())
    }
}

/// Names of secrets begin with a letter or digit, so no secret has a journal's name.
fn journal(name: &SecretName) -> String {
    format!(".{name}.new")
}

fn journal_of(file: &str) -> Option<SecretName> {
    file.strip_prefix('.')?.strip_suffix(".new")?.parse().ok()
}

/// Writes the journal's value into the secret's file, then removes the journal. Doing it twice does
/// no harm.
fn carry_out(directory: &Path, name: &SecretName) -> io::Result<()> {
    let journal = directory.join(journal(name));
    let secret = std::fs::OpenOptions::new().write(true).open(directory.join(name.as_str()));
    // If the secret was deleted, its new value has nowhere to go.
    if let Some(secret) = if_there(secret)? {
        let value = std::fs::read(&journal)?;
        secret.write_all_at(&value, 0)?;
        secret.set_len(value.len() as u64)?;
        secret.sync_all()?;
    }
    std::fs::remove_file(journal)?;
    private_file::sync_directory(directory)
}

#[cfg(test)]
mod tests;
