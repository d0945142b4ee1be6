//! What an image consists of on this machine, known before any layer is here.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::manifest::{
    ConfigFile, Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, Manifest, chain_ids, digest_of,
};
use super::platform::{self, Platform};
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
    /// What an index, or a manifest, leads to. `claimed` is what the index says that it is for, and `indexes` the way
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
        for position in platform::candidates(&entries, &self.host) {
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
        let config =
            ConfigFile::parse(&bytes, manifest.layers.len()).map_err(|reason| self.bad(reason))?;
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
            settings: config.settings(),
            platform,
            chain_ids: chain_ids(&diff_ids),
            diff_ids,
            manifest,
        }))
    }

    async fn fetch(&self, digest: &str, kind: Kind) -> Result<Option<Bytes>, RuntimeError> {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(self.bad(format!("none of the first {MAX_DOCUMENTS} documents of its index is for this machine")));
        }
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
        RuntimeError::BadImage { image: self.image.to_owned(), reason }
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
        have: if have.is_empty() { "no platform".into() } else { have.join(", ") },
    }
}
