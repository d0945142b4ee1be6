//! Images from a file: what `docker save` writes, and archives in the OCI layout.
//!
//! Everything that can be said against an archive is found out before a byte of it is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Images;
use super::archive::{Archive, ArchiveError, Place, compression};
use super::content_store::{CommitError, Opened};
use super::error::brief;
use super::image_store::Naming;
use super::json;
use super::lease::Lease;
use super::manifest::{
    ConfigFile, Descriptor, MAX_CONFIG, MAX_MANIFEST, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST,
};
use super::resolved::{Documents, Kind, Layout, Wanted};
use crate::runtime::{ImageRecord, Loaded, RuntimeError};
use model::function::ImageRef;

/// The annotations that name an image, best first.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Source of layers that no registry sends.
const SOURCE: &str = "archive";

/// Images that one archive may hold.
const MAX_IMAGES: usize = 1000;

/// One image of an archive.
struct Found {
    name: ImageRef,
    layout: Layout,
}

/// Digests of images, each with the name that the archive gives it.
type Listed = Vec<(Option<ImageRef>, String)>;

/// Names of images for other machines, and the reason.
type Skipped = Vec<(String, String)>;

/// The blobs of an archive, by digest.
struct Parts {
    archive: Archive,
    /// What to call the archive in an error.
    shown: String,
    /// Documents that had to be made up.
    made: HashMap<String, Bytes>,
    /// Files that are not where their digest says.
    placed: HashMap<String, Place>,
    /// Digests of compressed layers: images share them.
    hashed: HashMap<Place, String>,
}

/// Takes in an archive. Its one image, or the one that has no name, is called `name`.
pub(super) async fn load(
    images: &Images,
    path: PathBuf,
    name: Option<&ImageRef>,
) -> Result<Loaded, RuntimeError> {
    let shown = path.display().to_string();
    let archive = Archive::open(path).await.map_err(|error| archive_error(&shown, error))?;
    let mut parts =
        Parts { archive, shown, made: HashMap::new(), placed: HashMap::new(), hashed: HashMap::new() };
    let (found, skipped) = parts.images(name).await?;
    let mut loaded = Vec::with_capacity(found.len());
    for image in found {
        // Not those of a pull of the same image: what is at hand waits for no registry.
        let own = Lease::name(SOURCE, &image.layout.target.digest);
        let _alone = images.locks.lock(&own).await;
        let lease = Lease::open(&images.client, &own, SOURCE).await?;
        match take_in(images, &lease, &parts, &image).await {
            Ok(()) => lease.release().await?,
            Err(error) => {
                // Nothing can be gone on with: the archive is as bad the next time.
                if let Err(undo) = lease.discard().await {
                    tracing::warn!(error = %undo, "what came from an archive is still there, and will expire");
                }
                return Err(error);
            }
        }
        loaded.push(ImageRecord {
            name: image.name.canonical(),
            digest: image.layout.target.digest.clone(),
            platform: image.layout.platform.to_string(),
            size: image.layout.size(),
            created_at: jiff::Timestamp::now(),
            superseded: None,
            unused_since: None,
        });
    }
    Ok(Loaded { images: loaded, skipped })
}

async fn take_in(images: &Images, lease: &Lease, parts: &Parts, image: &Found) -> Result<(), RuntimeError> {
    let layout = &image.layout;
    let indexes = layout.indexes.iter().map(|(digest, _)| (digest, Kind::Manifest));
    for (digest, kind) in indexes
        .chain([(&layout.manifest_digest, Kind::Manifest), (&layout.manifest.config.digest, Kind::Blob)])
    {
        lease.hold_blob(digest).await?;
        let Some(bytes) = parts.read(&Wanted { digest, kind }, MAX_CONFIG).await? else {
            return Err(parts.bad(format!("{digest} is missing")));
        };
        let descriptor = Descriptor { digest: digest.clone(), ..Descriptor::of("", &bytes) };
        images.content.put(lease, &descriptor, bytes).await.map_err(|error| parts.commit_error(error))?;
    }
    for layer in super::unique(&layout.manifest.layers) {
        let _alone = images.fetcher.alone(SOURCE, &layer.digest).await;
        lease.hold_blob(&layer.digest).await?;
        parts.copy(images, lease, layer).await?;
    }
    images.unpacker.unpack(lease, &parts.shown, layout).await?;
    images.settle(&image.name, layout, Naming::Moves).await
}

impl Parts {
    fn bad(&self, reason: impl Into<String>) -> RuntimeError {
        RuntimeError::BadImage { image: self.shown.clone(), reason: brief(reason.into()) }
    }

    fn too_many(&self) -> RuntimeError {
        self.bad(format!("it has more than {MAX_IMAGES} images"))
    }

    fn commit_error(&self, error: CommitError) -> RuntimeError {
        match error {
            CommitError::Mismatch(reason) => self.bad(reason),
            CommitError::Other(error) => error,
        }
    }

    async fn file(&self, name: &str) -> Result<Option<Bytes>, RuntimeError> {
        self.archive.read(name, MAX_MANIFEST).await.map_err(|error| archive_error(&self.shown, error))
    }

    /// Finds the images in the archive and checks all there is to check without unpacking.
    async fn images(&mut self, name: Option<&ImageRef>) -> Result<(Vec<Found>, Skipped), RuntimeError> {
        let mut listed = Vec::new();
        if let Some(index) = self.file("index.json").await? {
            listed = self.names_in_index(&index)?;
        }
        // Docker writes both forms into one archive, and not always the names into the first.
        if !listed.iter().any(|(name, _)| name.is_some())
            && let Some(list) = self.file("manifest.json").await?
        {
            listed = self.docker_images(&list).await?;
        }
        let named = self.call(listed, name)?;
        if named.is_empty() {
            return Err(self.bad("there is no image in it: neither index.json nor manifest.json names one"));
        }
        if named.len() > MAX_IMAGES {
            return Err(self.too_many());
        }
        // One name can stand at several manifests, one for each platform.
        let mut by_name: BTreeMap<String, (ImageRef, Vec<String>)> = BTreeMap::new();
        for (name, digest) in named {
            if name.reference().digest().is_some_and(|pinned| pinned != digest) {
                return Err(self.bad(format!(
                    "it calls {digest} by the name {name}: a name with a digest means that digest and nothing else"
                )));
            }
            by_name.entry(name.canonical()).or_insert_with(|| (name, Vec::new())).1.push(digest);
        }
        let (mut found, mut skipped, mut refused) = (Vec::with_capacity(by_name.len()), Vec::new(), None);
        for (own, digests) in by_name.into_values() {
            match self.layout(&own, &digests, name == Some(&own)).await {
                Ok(layout) => found.push(Found { name: own, layout }),
                Err(error @ RuntimeError::WrongPlatform { .. }) => {
                    skipped.push((own.canonical(), error.to_string()));
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok((found, skipped)),
        }
    }

    /// Gives `name` to the one image, or to the one that has none. An image without a name is an error, unless others
    /// have some, as with the entries for other platforms in an index.
    fn call(&self, listed: Listed, name: Option<&ImageRef>) -> Result<Vec<(ImageRef, String)>, RuntimeError> {
        let mut named = Vec::new();
        let mut unnamed = BTreeSet::new();
        for (own, digest) in listed {
            match own {
                Some(own) => named.push((own, digest)),
                None => _ = unnamed.insert(digest),
            }
        }
        let Some(name) = name else {
            return match unnamed.len() {
                1.. if named.is_empty() => Err(self.bad(
                    "it does not say what its image is called: say it with 'ingle image load FILE --name NAME:TAG'",
                )),
                _ => Ok(named),
            };
        };
        if unnamed.is_empty() {
            unnamed = named.drain(..).map(|(_, digest)| digest).collect();
        }
        named.extend(unnamed.into_iter().map(|digest| (name.clone(), digest)));
        Ok(named)
    }

    /// Returns the first of `digests` that is for this machine; the only one, if the name is `given`.
    async fn layout(&self, name: &ImageRef, digests: &[String], given: bool) -> Result<Layout, RuntimeError> {
        let (mut found, mut refused, mut is_missing) = (None, None, false);
        for digest in digests {
            match Layout::read(name.as_str(), digest, self).await {
                Ok(Some(_)) if found.is_some() => {
                    return Err(self.bad("it has several images that the name could be given to"));
                }
                Ok(Some(layout)) => {
                    self.check_layers(&layout)?;
                    found = Some(layout);
                    if !given {
                        break;
                    }
                }
                // Perhaps one for another machine, which some leave out.
                Ok(None) => is_missing = true,
                Err(error @ RuntimeError::WrongPlatform { .. }) => refused = Some(error),
                Err(RuntimeError::BadImage { reason, .. }) => {
                    return Err(self.bad(format!("image {name}: {reason}")));
                }
                Err(error) => return Err(error),
            }
        }
        match (found, refused) {
            (Some(layout), _) => Ok(layout),
            (None, Some(refused)) if !is_missing => Err(refused),
            _ => Err(self.bad(format!("parts of image {name} are missing"))),
        }
    }

    fn check_layers(&self, layout: &Layout) -> Result<(), RuntimeError> {
        for layer in &layout.manifest.layers {
            match self.place(&layer.digest) {
                None => return Err(self.bad(format!("layer {} is missing", layer.digest))),
                Some(place) if place.size != layer.size => {
                    return Err(self.bad(format!(
                        "layer {} has {} bytes, its manifest says {}",
                        layer.digest, place.size, layer.size
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The entries of an OCI layout's index.
    fn names_in_index(&self, index: &[u8]) -> Result<Listed, RuntimeError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Index {
            manifests: Vec<Descriptor>,
        }
        let index: Index = json::from_slice(index)
            .map_err(|error| self.bad(format!("its index.json is not one: {error}")))?;
        let mut listed = Vec::new();
        for entry in index.manifests.into_iter().filter(Descriptor::is_image) {
            let name = NAMES.iter().find_map(|key| full_name(entry.annotations.get(*key)?));
            listed.push((name, entry.digest));
        }
        Ok(listed)
    }

    /// The images that `docker save` lists in manifest.json. It has no manifests, so they are made up
    /// here: what names a layer is then the digest of the tar file that lies in the archive.
    async fn docker_images(&mut self, list: &[u8]) -> Result<Listed, RuntimeError> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Item {
            config: String,
            repo_tags: Vec<String>,
            layers: Vec<String>,
        }
        let items: Vec<Item> =
            json::first(list).map_err(|error| self.bad(format!("its manifest.json is not one: {error}")))?;
        if items.len() > MAX_IMAGES {
            return Err(self.too_many());
        }
        let mut named = Vec::new();
        for item in items {
            let config = self
                .file(&item.config)
                .await?
                .ok_or_else(|| self.bad(format!("its config {} is missing", item.config)))?;
            let parsed = ConfigFile::parse(&config, item.layers.len()).map_err(|reason| self.bad(reason))?;
            let mut layers = Vec::with_capacity(item.layers.len());
            for (path, diff_id) in item.layers.iter().zip(parsed.diff_ids()) {
                layers.push(self.docker_layer(path, diff_id).await?);
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: OCI_MANIFEST.into(),
                config: Descriptor::of(OCI_CONFIG, &config),
                layers,
            };
            let text = serde_json::to_vec(&manifest)
                .map_err(|error| RuntimeError::failed("writing a manifest", error))?;
            let digest = Descriptor::of(OCI_MANIFEST, &text).digest;
            self.made.insert(manifest.config.digest, config);
            self.made.insert(digest.clone(), text.into());
            let tags = item.repo_tags;
            if tags.is_empty() {
                named.push((None, digest.clone()));
            }
            for tag in tags {
                let name = tag
                    .parse::<ImageRef>()
                    .map_err(|error| self.bad(format!("its name: {}", error.reason)))?;
                named.push((Some(name), digest.clone()));
            }
        }
        Ok(named)
    }

    async fn docker_layer(&mut self, path: &str, diff_id: &str) -> Result<Descriptor, RuntimeError> {
        let place =
            self.archive.find(path).ok_or_else(|| self.bad(format!("its layer {path} is missing")))?;
        let io = |error| archive_error(&self.shown, error);
        let start = self.archive.start(place).await.map_err(io)?;
        let (media_type, digest) = match compression(&start) {
            // containerd checks it when it writes the blob.
            None => (OCI_LAYER.to_owned(), diff_id.to_owned()),
            Some((kind @ ("gzip" | "zstd"), _)) => {
                let digest = match self.hashed.get(&place) {
                    Some(digest) => digest.clone(),
                    None => self.hash(place).await.map_err(io)?,
                };
                self.hashed.insert(place, digest.clone());
                (format!("{OCI_LAYER}+{kind}"), digest)
            }
            Some((kind, _)) => return Err(self.bad(format!("its layer {path} is compressed with {kind}"))),
        };
        self.placed.insert(digest.clone(), place);
        Ok(Descriptor { media_type, digest, size: place.size, platform: None, annotations: BTreeMap::new() })
    }

    async fn hash(&self, place: Place) -> Result<String, ArchiveError> {
        let mut hash = Sha256::new();
        let mut stream = self.archive.stream(place).await?;
        while let Some(part) = stream.next().await {
            hash.update(part?);
        }
        Ok(format!("sha256:{}", hex::encode(hash.finalize())))
    }

    fn place(&self, digest: &str) -> Option<Place> {
        self.placed.get(digest).copied().or_else(|| self.archive.find(&blob_path(digest)))
    }

    /// Copies a layer into the content store, if it is not there.
    async fn copy(&self, images: &Images, lease: &Lease, layer: &Descriptor) -> Result<(), RuntimeError> {
        let mut writer = match images.content.open(lease, layer, SOURCE).await? {
            Opened::Exists => return Ok(()),
            Opened::Write(writer) => writer,
        };
        let place = self
            .place(&layer.digest)
            .ok_or_else(|| self.bad(format!("layer {} is missing", layer.digest)))?;
        writer.restart();
        let copied = async {
            let mut stream =
                self.archive.stream(place).await.map_err(|error| archive_error(&self.shown, error))?;
            while let Some(part) = stream.next().await {
                let part = part.map_err(|error| archive_error(&self.shown, error.into()))?;
                writer.write(part).await?;
            }
            Ok(())
        }
        .await;
        match copied {
            Ok(()) => writer.commit().await.map_err(|error| self.commit_error(error)),
            Err(error) => {
                drop(writer);
                images.content.abort(SOURCE, &layer.digest).await;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Documents for Parts {
    async fn read(&self, wanted: &Wanted<'_>, limit: u64) -> Result<Option<Bytes>, RuntimeError> {
        if let Some(bytes) = self.made.get(wanted.digest) {
            return Ok(Some(bytes.clone()));
        }
        let path = blob_path(wanted.digest);
        self.archive.read(&path, limit).await.map_err(|error| archive_error(&self.shown, error))
    }
}

/// Where the OCI layout has a blob.
fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// An annotation that is a whole name; only a tag, as some tools write, is none.
fn full_name(text: &str) -> Option<ImageRef> {
    text.contains(['/', ':', '@']).then(|| text.parse().ok())?
}

fn archive_error(shown: &str, error: ArchiveError) -> RuntimeError {
    match error {
        ArchiveError::Malformed(reason) => RuntimeError::BadImage { image: shown.to_owned(), reason },
        ArchiveError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            RuntimeError::BadRequest(format!("there is no file {shown}"))
        }
        ArchiveError::Io(error) => RuntimeError::failed(format!("reading {shown}"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_alone_is_no_name() {
        assert_eq!(full_name("latest"), None);
        assert_eq!(
            full_name("hello:1").map(|name| name.canonical()).as_deref(),
            Some("docker.io/library/hello:1")
        );
        assert_eq!(
            full_name("ghcr.io/a/b").map(|name| name.canonical()).as_deref(),
            Some("ghcr.io/a/b:latest")
        );
        assert_eq!(full_name("Not A/Name"), None);
    }
}
