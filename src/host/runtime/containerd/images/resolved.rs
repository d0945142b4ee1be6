//! What an image consists of on this machine, known before any layer is here.

use async_trait::async_trait;
use bytes::Bytes;

use super::manifest::{
    ConfigFile, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, Manifest, chain_ids, digest_of,
};
use super::platform::{self, Platform};
use crate::runtime::{ImageConfig, ResolvedImage, RuntimeError};
use model::function::ImageRef;

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
    /// Where in the index this platform's manifest is.
    pub(super) position: Option<usize>,
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
        let bad = |reason: String| RuntimeError::BadImage { image: image.to_owned(), reason };
        let host = Platform::host();
        let Some(bytes) = fetch(image, digest, Kind::Manifest, documents).await? else { return Ok(None) };
        let document = Document::parse(&bytes).map_err(bad)?;
        let target = Descriptor::of(document.media_type(), &bytes);
        let (position, manifest_digest, manifest) = match document {
            Document::Manifest(manifest) => (None, target.digest.clone(), manifest),
            Document::Index(entries) => {
                let position = platform::choose(entries.iter().map(|entry| entry.platform.as_ref()), &host)
                    .ok_or_else(|| {
                    wrong_platform(image, &host, entries.iter().filter_map(|e| e.platform.as_ref()))
                })?;
                let chosen = &entries[position].digest;
                let Some(bytes) = fetch(image, chosen, Kind::Manifest, documents).await? else {
                    return Ok(None);
                };
                match Document::parse(&bytes).map_err(bad)? {
                    Document::Manifest(manifest) => (Some(position), chosen.clone(), manifest),
                    Document::Index(_) => return Err(bad("its index points to another index".into())),
                }
            }
        };
        let Some(bytes) = fetch(image, &manifest.config.digest, Kind::Blob, documents).await? else {
            return Ok(None);
        };
        let config = ConfigFile::parse(&bytes, manifest.layers.len()).map_err(bad)?;
        // An index has said which platform it is, and cross-built configs often say another.
        if position.is_none() && !config.platform.runs_on(&host) {
            return Err(wrong_platform(image, &host, [&config.platform]));
        }
        let diff_ids = config.diff_ids().to_vec();
        Ok(Some(Self {
            target,
            position,
            manifest_digest,
            settings: config.settings(),
            platform: config.platform,
            chain_ids: chain_ids(&diff_ids),
            diff_ids,
            manifest,
        }))
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

async fn fetch(
    image: &str,
    digest: &str,
    kind: Kind,
    documents: &dyn Documents,
) -> Result<Option<Bytes>, RuntimeError> {
    let limit = if kind == Kind::Manifest { MAX_MANIFEST } else { MAX_CONFIG };
    let Some(bytes) = documents.read(&Wanted { digest, kind }, limit).await? else { return Ok(None) };
    if digest_of(&bytes) == digest {
        return Ok(Some(bytes));
    }
    Err(RuntimeError::BadImage {
        image: image.to_owned(),
        reason: format!("what was sent as {digest} has the digest {}", digest_of(&bytes)),
    })
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
        have: if have.is_empty() { "no platform".into() } else { have.join(", ") },
    }
}
