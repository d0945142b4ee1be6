//! What keeps containerd's garbage collector away while an image is coming in.
//!
//! Invariant: from the first byte of an image to its record, everything that belongs to it is held by
//! one lease. One that nobody releases, as after `kill -9`, stays for the next attempt, until the image's turn
//! comes in `discard_broken_pulls`: it must not depend on the clock, which is set during the first pulls of a
//! machine that has no clock of its own.

use std::time::Duration;

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tonic::Request;

use super::super::client::Client;
use crate::runtime::RuntimeError;

/// Marks our leases; the value is the digest that the lease is for.
pub(super) const LABEL: &str = "ingle/image";
/// containerd removes a lease at this time.
const EXPIRES: &str = "containerd.io/gc.expire";

/// A lease in containerd.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    client: Client,
    id: String,
}

impl Lease {
    /// Takes the lease of this name for what is made of `digest`; the one that is there, if an attempt was broken off.
    pub(super) async fn open(client: &Client, name: &str, digest: &str) -> Result<Self, RuntimeError> {
        let id = name.to_owned();
        let labels = [(LABEL.to_owned(), digest.to_owned())].into();
        let request = CreateRequest { id: id.clone(), labels };
        let answer = LeasesClient::new(client.channel()).create(client.request(request)).await;
        client.made(answer, "taking a lease")?;
        Ok(Self { client: client.clone(), id })
    }

    /// The name of the lease for an image that comes from `source`, a registry or an archive.
    pub(super) fn name(source: &str, digest: &str) -> String {
        let source = hex::encode(&Sha256::digest(source)[..4]);
        format!("ingle-image-{source}-{}", digest.trim_start_matches("sha256:"))
    }

    /// The name of this one.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// A lease for nothing.
    pub(super) async fn empty(client: &Client) -> Result<Self, RuntimeError> {
        let id = format!("ingle-sweep-{}", uuid::Uuid::new_v4());
        let hour = Timestamp::now().as_second().saturating_add(60 * 60);
        let expires = Timestamp::from_second(hour).unwrap_or(Timestamp::MAX);
        let labels = [(EXPIRES.to_owned(), expires.to_string())].into();
        let request = client.request(CreateRequest { id: id.clone(), labels });
        let made = LeasesClient::new(client.channel()).create(request).await;
        made.map_err(|status| client.error("taking a lease", status))?;
        Ok(Self { client: client.clone(), id })
    }

    /// All leases of images, with the digests that they are for.
    pub(super) async fn all(client: &Client) -> Result<Vec<(Self, String)>, RuntimeError> {
        let request = client.request(ListRequest { filters: vec![format!("labels.{LABEL:?}")] });
        let listed = LeasesClient::new(client.channel()).list(request).await;
        let leases = listed.map_err(|status| client.error("listing leases", status))?.into_inner().leases;
        let lease = |id| Self { client: client.clone(), id };
        Ok(leases.into_iter().filter_map(|mut l| Some((lease(l.id), l.labels.remove(LABEL)?))).collect())
    }

    /// A request whose effects this lease holds.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        self.stamp(self.client.request(message))
    }

    /// The same for what takes as long as the image is large.
    pub(super) fn unbounded<T>(&self, message: T) -> Request<T> {
        self.stamp(self.client.unbounded(message))
    }

    fn stamp<T>(&self, mut request: Request<T>) -> Request<T> {
        let id = self.id.parse().expect("made of letters, digits and dashes");
        request.metadata_mut().insert("containerd-lease", id);
        request
    }

    /// Holds a blob, whether it is there yet or not. Holding comes before looking, so that what was
    /// seen is not collected a moment later.
    pub(super) async fn hold_blob(&self, digest: &str) -> Result<(), RuntimeError> {
        self.hold("content".into(), digest).await
    }

    /// Holds a snapshot and with it those below.
    pub(super) async fn hold_snapshot(&self, snapshotter: &str, name: &str) -> Result<(), RuntimeError> {
        self.hold(format!("snapshots/{snapshotter}"), name).await
    }

    async fn hold(&self, kind: String, id: &str) -> Result<(), RuntimeError> {
        let resource = Resource { id: id.to_owned(), r#type: kind };
        let request = AddResourceRequest { id: self.id.clone(), resource: Some(resource) };
        let answer =
            LeasesClient::new(self.client.channel()).add_resource(self.client.request(request)).await;
        self.client.made(answer, format_args!("holding {id}")).map(drop)
    }

    /// Lets go of it all: what nothing refers to will be collected.
    pub(super) async fn release(self) -> Result<(), RuntimeError> {
        self.delete(false).await
    }

    /// Lets go, and returns when what nothing refers to has been collected.
    pub(super) async fn discard(self) -> Result<(), RuntimeError> {
        self.delete(true).await
    }

    async fn delete(self, sync: bool) -> Result<(), RuntimeError> {
        let mut request = self.client.request(DeleteRequest { id: self.id, sync });
        // A collection takes the time it takes to remove what was unpacked.
        request.set_timeout(Duration::from_secs(120));
        let answer = LeasesClient::new(self.client.channel()).delete(request).await;
        self.client.found(answer, "releasing a lease").map(drop)
    }
}
