//! containerd's image store: names, and what they point to.
//!
//! A record is what keeps an image from being collected, so it is written last. When a name moves on
//! to another digest, the one before keeps a record of its own: what still runs from it, or must be
//! started again because an update failed, is then still here. Nothing here knows what is in use, so
//! nothing here removes a record that it was not asked to.

use std::sync::Arc;
use std::time::SystemTime;

use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types::Descriptor as Target;
use jiff::Timestamp;
use prost_types::FieldMask;
use tokio::sync::Mutex;

use super::super::client::Client;
use super::manifest::Descriptor;
use crate::runtime::RuntimeError;
use model::function::ImageRef;

/// On a record that was kept when its name moved on: the name.
const SUPERSEDED: &str = "ingle/superseded";
/// On a record: when its name got the image that it points to.
const RECORDED_AT: &str = "ingle/recorded-at";
/// On a record that nobody uses: since when.
const UNUSED_SINCE: &str = "ingle/unused-since";

/// What happens to a name that points to another image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// It points to the new one from now on.
    Moves,
    /// It stays: the new one is in truth an older one, still in use.
    Stays,
}

/// The image store.
#[derive(Debug, Clone)]
pub(super) struct Records {
    client: Client,
    /// Held while a record is changed: a name must not move on to another image while it is removed.
    changing: Arc<Mutex<()>>,
}

impl Records {
    pub(super) fn new(client: Client) -> Self {
        Self { client, changing: Arc::default() }
    }

    fn service(&self) -> ImagesClient<tonic::transport::Channel> {
        ImagesClient::new(self.client.channel())
    }

    /// The digest that a name points to here.
    pub(super) async fn digest(&self, name: &str) -> Result<Option<String>, RuntimeError> {
        Ok(self.get(name).await?.and_then(|record| record.target).map(|target| target.digest))
    }

    async fn get(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        let request = self.client.request(GetImageRequest { name: name.to_owned() });
        let answer = self.service().get(request).await;
        let found = self.client.found(answer, format_args!("looking for image {name}"))?;
        Ok(found.and_then(|answer| answer.image))
    }

    /// All records.
    pub(super) async fn list(&self) -> Result<Vec<Image>, RuntimeError> {
        let answer = self.service().list(self.client.request(ListImagesRequest::default())).await;
        let failed = |status| self.client.error("listing the images", status);
        Ok(answer.map_err(failed)?.into_inner().images)
    }

    /// Whether the records are as [`Self::put`] would leave them.
    pub(super) async fn keeps(
        &self,
        image: &ImageRef,
        digest: &str,
        naming: Naming,
    ) -> Result<bool, RuntimeError> {
        if self.digest(&image.canonical()).await?.as_deref() == Some(digest) {
            return Ok(true);
        }
        let kept = self.digest(&name_by_digest(image, digest)).await?;
        Ok(naming == Naming::Stays && kept.as_deref() == Some(digest))
    }

    /// Records an image. If its name points to another one and stays there, the image gets a record
    /// by its digest. A name with a digest is given to nothing else, and taken from whatever else has it.
    pub(super) async fn put(
        &self,
        image: &ImageRef,
        target: &Descriptor,
        naming: Naming,
    ) -> Result<(), RuntimeError> {
        let pinned = image.reference().digest();
        if let Some(pinned) = pinned.filter(|pinned| *pinned != target.digest) {
            let reason = format!("it has the digest {}, and {pinned} is wanted", target.digest);
            return Err(RuntimeError::BadImage { image: image.to_string(), reason });
        }
        let _alone = self.changing.lock().await;
        let name = image.canonical();
        let earlier = match self.get(&name).await?.and_then(|record| record.target) {
            None => return self.write(record(name, target)).await,
            Some(earlier) if earlier.digest == target.digest => return Ok(()),
            Some(earlier) => earlier,
        };
        if naming == Naming::Moves || pinned.is_some() {
            self.keep(image, &name, earlier).await?;
            self.write(record(name.clone(), target)).await?;
        } else {
            self.keep(image, &name, target_of(target)).await?;
        }
        Ok(())
    }

    /// Gives `target`, an image of `name` that the name does not point to, a record of its own.
    async fn keep(&self, image: &ImageRef, name: &str, target: Target) -> Result<(), RuntimeError> {
        let kept = name_by_digest(image, &target.digest);
        let labels = [(SUPERSEDED.to_owned(), name.to_owned())].into();
        let image = Image { name: kept, labels, target: Some(target), ..Image::default() };
        let answer = self.service().create(self.client.request(request_of(image))).await;
        // It may be there because somebody pulled it by digest, or it was superseded before.
        self.client.made(answer, format_args!("keeping the earlier image of {name}")).map(drop)
    }

    /// Removes a record, if it points to this digest; says whether it did.
    pub(super) async fn remove(&self, name: &str, digest: &str) -> Result<bool, RuntimeError> {
        let _alone = self.changing.lock().await;
        if self.digest(name).await?.as_deref() != Some(digest) {
            return Ok(false);
        }
        let request = DeleteImageRequest { name: name.to_owned(), ..DeleteImageRequest::default() };
        let answer = self.service().delete(self.client.request(request)).await;
        Ok(self.client.found(answer, format_args!("removing image {name}"))?.is_some())
    }

    /// Notes since when nobody uses the image of a record; `None` takes the note away.
    pub(super) async fn mark(&self, name: &str, unused_since: Option<Timestamp>) -> Result<(), RuntimeError> {
        // An empty label is one that is not there.
        let value = unused_since.map(|time| time.to_string()).unwrap_or_default();
        let labels = [(UNUSED_SINCE.to_owned(), value)].into();
        // The mask leaves it as it is, but containerd 2.1 falls over a request without one.
        let Some(target) = self.get(name).await?.and_then(|record| record.target) else { return Ok(()) };
        let request = UpdateImageRequest {
            image: Some(Image { name: name.to_owned(), labels, target: Some(target), ..Image::default() }),
            update_mask: Some(FieldMask { paths: vec![format!("labels.{UNUSED_SINCE}")] }),
            ..UpdateImageRequest::default()
        };
        let answer = self.service().update(self.client.request(request)).await;
        // One that is not there was removed meanwhile.
        self.client.found(answer, format_args!("marking image {name}")).map(drop)
    }

    /// Creates the record or overwrites it.
    async fn write(&self, image: Image) -> Result<(), RuntimeError> {
        let name = image.name.clone();
        let answer = self.service().create(self.client.request(request_of(image.clone()))).await;
        if self.client.made(answer, format_args!("recording image {name}"))?.is_some() {
            return Ok(());
        }
        let request = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask { paths: vec!["target".into(), "labels".into()] }),
            ..UpdateImageRequest::default()
        };
        let answer = self.service().update(self.client.request(request)).await;
        answer.map(drop).map_err(|status| self.client.error(format!("recording image {name}"), status))
    }
}

/// What is noted on a record.
#[derive(Debug)]
pub(super) struct Notes {
    /// The name that the image had before another one got it.
    pub(super) superseded: Option<String>,
    /// Since when nobody uses it.
    pub(super) unused_since: Option<Timestamp>,
    /// When the name got its image.
    pub(super) recorded_at: Timestamp,
}

impl Notes {
    pub(super) fn of(record: &Image) -> Self {
        let label = |key| record.labels.get(key);
        let time = |key| label(key).and_then(|time| time.parse().ok());
        // containerd's own time of an update is that of the last note.
        let created = record.created_at.unwrap_or_default();
        let created = || Timestamp::new(created.seconds, created.nanos).unwrap_or_default();
        Self {
            superseded: label(SUPERSEDED).cloned(),
            unused_since: time(UNUSED_SINCE),
            recorded_at: time(RECORDED_AT).unwrap_or_else(created),
        }
    }
}

/// The name of an image that its tag does not point to.
fn name_by_digest(image: &ImageRef, digest: &str) -> String {
    format!("{}/{}@{digest}", image.reference().registry(), image.reference().repository())
}

fn target_of(descriptor: &Descriptor) -> Target {
    Target {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        ..Target::default()
    }
}

fn record(name: String, target: &Descriptor) -> Image {
    let now = Some(SystemTime::now().into());
    let labels = [(RECORDED_AT.to_owned(), Timestamp::now().to_string())].into();
    let target = Some(target_of(target));
    Image { name, target, labels, created_at: now, updated_at: now }
}

fn request_of(image: Image) -> CreateImageRequest {
    CreateImageRequest { image: Some(image), ..CreateImageRequest::default() }
}
