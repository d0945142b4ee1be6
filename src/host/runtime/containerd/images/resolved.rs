//! What an image consists of on this machine, known before any layer is here.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::error::brief;
use super::manifest::{
    ConfigFile, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, Manifest, chain_ids, check_digest, digest_of,
};
use super::platform::Platform;
use crate::runtime::{ImageConfig, ResolvedImage, RuntimeError};
use model::function::ImageRef;

/// Indexes that may stand one in the other.
const MAX_DEPTH: usize = 4;
/// Documents that are read to find the image for this machine.
const MAX_DOCUMENTS: usize = 100;

/// Where indexes, manifests and configs are read from.
#[async_trait]
pub(super) trait Documents: Send + Sync {
    /// The document, or `None` if there is none. It may have `limit` bytes. Whoever implements this
    /// need not check the digest.
    async fn read(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Option<Bytes>, RuntimeError>;
}

/// Which document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) digest: &'a str,
    pub(super) kind: Kind,
}

/// Where a registry keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An index or manifest.
    Manifest,
    /// A config.
    Blob,
}

/// The parts of an image for this machine.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// What the name points to: an index, or the manifest itself.
    pub(super) target: Descriptor,
    /// The indexes that lead to this platform's manifest, outermost first, and where in each is what leads on.
    pub(super) indexes: Vec<(String, usize)>,
    pub(super) manifest_digest: String,
    pub(super) manifest: Manifest,
    pub(super) settings: ImageConfig,
    pub(super) platform: Platform,
    pub(super) diff_ids: Vec<String>,
    pub(super) chain_ids: Vec<String>,
}

impl Layout {
    /// Reads what `digest` points to; `None` if a document is not there.
    pub(super) async fn read(
        image: &str,
        digest: &str,
        documents: &dyn Documents,
    ) -> Result<Option<Self>, RuntimeError> {
        let (host, left) = (Platform::host(), AtomicUsize::new(MAX_DOCUMENTS));
        let search = Search { image, host, documents, left };
        search.find(digest, None, &mut Vec::new()).await
    }

    /// The snapshot of the topmost layer.
    pub(super) fn chain_id(&self) -> &str {
        self.chain_ids.last().map_or("", String::as_str)
    }

    /// Compressed size of all layers.
    pub(super) fn size(&self) -> u64 {
        self.manifest.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size))
    }

    /// What the rest of the daemon is told.
    pub(super) fn resolved(&self, image: &ImageRef) -> ResolvedImage {
        ResolvedImage {
            image: image.clone(),
            digest: self.target.digest.clone(),
            manifest_digest: self.manifest_digest.clone(),
            config: self.settings.clone(),
            size: self.size(),
        }
    }
}

/// The way from a name to this machine's image.
struct Search<'a> {
    image: &'a str,
    host: Platform,
    documents: &'a dyn Documents,
    /// Documents that may still be read.
    left: AtomicUsize,
}

impl Search<'_> {
    /// Returns the image that an index, or a manifest, leads to. `claimed` is what the index says that it is for, and `indexes` the way
    /// to it.
    async fn find(
        &self,
        digest: &str,
        claimed: Option<&Platform>,
        indexes: &mut Vec<(String, usize)>,
    ) -> Result<Option<Layout>, RuntimeError> {
        let Some(bytes) = self.fetch(digest, Kind::Manifest).await? else { return Ok(None) };
        let document = Document::parse(&bytes).map_err(|reason| self.bad(reason))?;
        let target = Descriptor::of(document.media_type(), &bytes);
        let entries = match document {
            Document::Manifest(manifest) => return self.layout(target, manifest, claimed, indexes).await,
            Document::Index(entries) if indexes.len() < MAX_DEPTH => entries,
            Document::Index(_) => {
                return Err(self.bad(format!("more than {MAX_DEPTH} of its indexes stand one in the other")));
            }
        };
        let (mut refused, mut is_missing) = (None, false);
        for position in candidates(&entries, &self.host) {
            let entry = &entries[position];
            let claims = entry.platform.as_ref().or(claimed);
            indexes.push((digest.to_owned(), position));
            match Box::pin(self.find(&entry.digest, claims, indexes)).await {
                Ok(Some(layout)) => return Ok(Some(Layout { target, ..layout })),
                // What says that it is for this machine is the image, and what does not may be anything.
                Ok(None) if entry.platform.is_some() => return Ok(None),
                Ok(None) => is_missing = true,
                Err(error @ RuntimeError::WrongPlatform { .. }) => refused = Some(refused.unwrap_or(error)),
                Err(error @ RuntimeError::BadImage { .. }) if entry.platform.is_none() => {
                    refused = Some(refused.unwrap_or(error));
                }
                Err(error) => return Err(error),
            }
            indexes.pop();
        }
        let offered = entries.iter().filter_map(|entry| entry.platform.as_ref());
        match refused {
            _ if is_missing => Ok(None),
            Some(refused) => Err(refused),
            None => Err(wrong_platform(self.image, &self.host, offered)),
        }
    }

    async fn layout(
        &self,
        target: Descriptor,
        manifest: Manifest,
        claimed: Option<&Platform>,
        indexes: &[(String, usize)],
    ) -> Result<Option<Layout>, RuntimeError> {
        let Some(bytes) = self.fetch(&manifest.config.digest, Kind::Blob).await? else { return Ok(None) };
        let config = ConfigFile::parse(&bytes, manifest.layers.len()).map_err(|reason| self.bad(reason))?;
        let platform = config.platform();
        // An index has said which platform it is, and cross-built configs often say another.
        if claimed.is_none() && !platform.runs_on(&self.host) {
            return Err(wrong_platform(self.image, &self.host, [&platform]));
        }
        let diff_ids = config.diff_ids().to_vec();
        Ok(Some(Layout {
            manifest_digest: target.digest.clone(),
            target,
            indexes: indexes.to_vec(),
            settings: ImageConfig {
                programs_32bit: claimed.unwrap_or(&platform).is_32bit_on(&self.host),
                ..config.settings()
            },
            platform,
            chain_ids: chain_ids(&diff_ids),
            diff_ids,
            manifest,
        }))
    }

    async fn fetch(&self, digest: &str, kind: Kind) -> Result<Option<Bytes>, RuntimeError> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(self.bad(format!(
                "none of the first {MAX_DOCUMENTS} documents of its index is for this machine"
            )));
        }
        check_digest(digest).map_err(|reason| self.bad(reason))?;
        let limit = if kind == Kind::Manifest { MAX_MANIFEST } else { MAX_CONFIG };
        let wanted = Wanted { digest, kind };
        let Some(bytes) = self.documents.read(&wanted, limit).await? else { return Ok(None) };
        let found = digest_of(&bytes);
        if found == digest {
            return Ok(Some(bytes));
        }
        Err(self.bad(format!("what was sent as {digest} has the digest {found}")))
    }

    fn bad(&self, reason: String) -> RuntimeError {
        RuntimeError::BadImage { image: self.image.to_owned(), reason: brief(reason) }
    }
}

fn wrong_platform<'a>(
    image: &str,
    host: &Platform,
    offered: impl IntoIterator<Item = &'a Platform>,
) -> RuntimeError {
    let mut have: Vec<String> = offered
        .into_iter()
        // Attestations stand in an index as images of no platform.
        .filter(|platform| platform.architecture != "unknown")
        .map(Platform::to_string)
        .collect();
    have.dedup();
    RuntimeError::WrongPlatform {
        image: image.to_owned(),
        want: host.to_string(),
        have: if have.is_empty() { "no platform".into() } else { brief(have.join(", ")) },
    }
}

/// Returns the positions of those of `entries` that may have an image for `host`, best first. Those that do not say what
/// they are for come last.
fn candidates(entries: &[Descriptor], host: &Platform) -> Vec<usize> {
    let mut fit: Vec<_> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.is_image())
        .filter_map(|(position, entry)| match &entry.platform {
            Some(platform) if !platform.is_empty() => Some((Some(platform.fitness(host)?), position)),
            _ => Some((None, position)),
        })
        .collect();
    // Among equals the first one counts, as everywhere else.
    fit.sort_by_key(|(fitness, _)| std::cmp::Reverse(*fitness));
    fit.into_iter().map(|(_, position)| position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap(), variant: parts.next() }
    }

    fn ordered(offered: &[&str], host: &str) -> Vec<usize> {
        let entry = |text: &&str| Descriptor {
            platform: Some(platform(text)).filter(|_| *text != "-/-"),
            ..Descriptor::default()
        };
        candidates(&offered.iter().map(entry).collect::<Vec<_>>(), &platform(host))
    }

    #[test]
    fn the_best_variant_that_runs_is_first() {
        for (offered, host, want) in [
            (&["linux/amd64", "linux/arm64"][..], "linux/arm64/v8", &[1][..]),
            (&["linux/arm64/v8"], "linux/arm64/v8", &[0]),
            (&["linux/arm64/v9", "linux/arm64"], "linux/arm64/v8", &[1]),
            (&["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", &[1, 2, 0]),
            (&["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", &[2, 0]),
            (&["linux/arm/v7", "linux/arm/v5", "linux/arm64", "linux/arm"], "linux/arm64/v8", &[2, 0, 1, 3]),
            (&["linux/386", "linux/amd64"], "linux/amd64", &[1, 0]),
            (&["linux/i386", "linux/arm64/v8"], "linux/amd64", &[0]),
            (&["linux/amd64"], "linux/386", &[]),
            (&["Linux/x86_64", "linux/aarch64"], "linux/amd64", &[0]),
            (&["linux/armhf", "linux/AARCH64"], "linux/arm64/v8", &[1, 0]),
            (&["windows/amd64", "unknown/unknown"], "linux/amd64", &[]),
            (&["linux/amd64", "linux/amd64"], "linux/amd64", &[0, 1]),
            (&["-/-", "linux/amd64", "/"], "linux/amd64", &[1, 0, 2]),
            (&[], "linux/amd64", &[]),
        ] {
            assert_eq!(ordered(offered, host), want, "{offered:?} on {host}");
        }
    }

    #[test]
    fn what_is_no_image_is_passed_over() {
        let attestation = |key: &str| Descriptor {
            annotations: [(key.to_owned(), "attestation-manifest".to_owned())].into(),
            ..Descriptor::default()
        };
        let artifact = Descriptor {
            media_type: "application/vnd.oci.artifact.manifest.v1+json".into(),
            ..Descriptor::default()
        };
        let entries = [attestation("vnd.docker.reference.type"), artifact, attestation("other")];
        assert_eq!(candidates(&entries, &platform("linux/amd64")), [2]);
    }
}
