//! Decorators around a runtime and a network: a test is told of every call, and may make it fail before it is
//! carried out, or after, as when the answer was lost. They keep the contracts of what they stand before.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use host::network::{Attachment, Network, NetworkError};
use host::runtime::{
    ContainerRecord, ContainerRequest, Disk, Footprint, Image, ImageRecord, LayerRequest, Loaded, Progress,
    ResolvedImage, Runtime, RuntimeError, RuntimeEvent, Stored, Usage,
};
use model::function::{ImageRef, PullPolicy, ReplicaId};
use tokio::sync::broadcast;

/// A call that makes, changes or removes something of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Pull,
    Attach,
    Prepare,
    Create,
    Start,
    Stop,
    Remove,
    Detach,
}

/// The moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    /// It has succeeded.
    After,
}

/// What is told of calls.
pub(crate) trait Tap: fmt::Debug + Send + Sync + 'static {
    /// Whether the call goes on; a pull is of no replica.
    fn allows(&self, call: Call, moment: Moment, id: Option<&ReplicaId>) -> bool;
}

/// A runtime or a network with a tap before it.
#[derive(Debug)]
pub(crate) struct Tapped<T: ?Sized> {
    tap: Arc<dyn Tap>,
    inner: Arc<T>,
}

impl<T: ?Sized> Tapped<T> {
    pub(crate) fn new(inner: Arc<T>, tap: Arc<dyn Tap>) -> Arc<Self> {
        Arc::new(Self { tap, inner })
    }
}

fn said(call: Call, moment: Moment) -> String {
    format!("the test wants {call:?} to fail: {moment:?}")
}

impl Tapped<dyn Runtime> {
    fn pass(&self, call: Call, moment: Moment, id: Option<&ReplicaId>) -> Result<(), RuntimeError> {
        if self.tap.allows(call, moment, id) {
            return Ok(());
        }
        Err(RuntimeError::failed(format!("{call:?}"), said(call, moment)))
    }

    async fn through<R>(
        &self,
        call: Call,
        id: Option<&ReplicaId>,
        work: impl Future<Output = Result<R, RuntimeError>>,
    ) -> Result<R, RuntimeError> {
        self.pass(call, Moment::Before, id)?;
        let result = work.await?;
        self.pass(call, Moment::After, id)?;
        Ok(result)
    }
}

#[async_trait]
impl Runtime for Tapped<dyn Runtime> {
    async fn version(&self) -> Result<String, RuntimeError> {
        self.inner.version().await
    }

    async fn resolve(&self, image: &ImageRef, policy: PullPolicy) -> Result<ResolvedImage, RuntimeError> {
        self.inner.resolve(image, policy).await
    }

    async fn pull(
        &self,
        image: &ResolvedImage,
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<Arc<Image>, RuntimeError> {
        self.through(Call::Pull, None, self.inner.pull(image, policy, progress)).await
    }

    async fn load(&self, archive: PathBuf, name: Option<&ImageRef>) -> Result<Loaded, RuntimeError> {
        self.inner.load(archive, name).await
    }

    async fn images(&self) -> Result<Vec<ImageRecord>, RuntimeError> {
        self.inner.images().await
    }

    async fn mark_image(
        &self,
        name: &str,
        unused_since: Option<jiff::Timestamp>,
    ) -> Result<(), RuntimeError> {
        self.inner.mark_image(name, unused_since).await
    }

    async fn remove_image(&self, name: &str, digest: &str) -> Result<bool, RuntimeError> {
        self.inner.remove_image(name, digest).await
    }

    async fn discard_broken_pulls(&self, used: &BTreeSet<String>) -> Result<usize, RuntimeError> {
        self.inner.discard_broken_pulls(used).await
    }

    async fn sweep(&self) -> Result<(), RuntimeError> {
        self.inner.sweep().await
    }

    async fn disk(&self) -> Result<Option<Disk>, RuntimeError> {
        self.inner.disk().await
    }

    async fn room_for(&self, image: &ResolvedImage) -> Result<u64, RuntimeError> {
        self.inner.room_for(image).await
    }

    async fn stored(&self, used: &BTreeSet<String>) -> Result<Stored, RuntimeError> {
        self.inner.stored(used).await
    }

    async fn prepare(&self, request: &LayerRequest) -> Result<(), RuntimeError> {
        self.through(Call::Prepare, Some(&request.id), self.inner.prepare(request)).await
    }

    async fn create(&self, request: &ContainerRequest) -> Result<(), RuntimeError> {
        self.through(Call::Create, Some(&request.id), self.inner.create(request)).await
    }

    async fn start(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        self.through(Call::Start, Some(id), self.inner.start(id)).await
    }

    async fn stop(&self, id: &ReplicaId, grace: Duration) -> Result<(), RuntimeError> {
        self.through(Call::Stop, Some(id), self.inner.stop(id, grace)).await
    }

    async fn remove(&self, id: &ReplicaId) -> Result<(), RuntimeError> {
        self.through(Call::Remove, Some(id), self.inner.remove(id)).await
    }

    async fn containers(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        self.inner.containers().await
    }

    async fn record(&self, id: &ReplicaId) -> Result<Option<Vec<u8>>, RuntimeError> {
        self.inner.record(id).await
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events()
    }

    async fn usage(&self, id: &ReplicaId) -> Result<Usage, RuntimeError> {
        self.inner.usage(id).await
    }

    async fn footprint(&self, id: &ReplicaId) -> Result<Footprint, RuntimeError> {
        self.inner.footprint(id).await
    }

    async fn oom_kills(&self, id: &ReplicaId) -> Result<u64, RuntimeError> {
        self.inner.oom_kills(id).await
    }
}

impl Tapped<dyn Network> {
    fn pass(&self, call: Call, moment: Moment, id: &ReplicaId) -> Result<(), NetworkError> {
        if self.tap.allows(call, moment, Some(id)) {
            return Ok(());
        }
        Err(NetworkError::failed(format!("{call:?}"), said(call, moment)))
    }
}

#[async_trait]
impl Network for Tapped<dyn Network> {
    async fn ensure(&self) -> Result<(), NetworkError> {
        self.inner.ensure().await
    }

    async fn attach(&self, id: &ReplicaId) -> Result<Attachment, NetworkError> {
        self.pass(Call::Attach, Moment::Before, id)?;
        let attachment = self.inner.attach(id).await?;
        self.pass(Call::Attach, Moment::After, id)?;
        Ok(attachment)
    }

    async fn detach(&self, id: &ReplicaId) -> Result<(), NetworkError> {
        self.pass(Call::Detach, Moment::Before, id)?;
        self.inner.detach(id).await?;
        self.pass(Call::Detach, Moment::After, id)
    }

    async fn adopt(&self, id: &ReplicaId, address: IpAddr) -> Result<Option<Attachment>, NetworkError> {
        self.inner.adopt(id, address).await
    }

    async fn accepts(&self, id: &ReplicaId, port: u16) -> Result<bool, NetworkError> {
        self.inner.accepts(id, port).await
    }

    async fn attached(&self) -> Result<Vec<ReplicaId>, NetworkError> {
        self.inner.attached().await
    }

    fn gateway(&self) -> IpAddr {
        self.inner.gateway()
    }
}

/// Lets every call through.
#[derive(Debug)]
pub(crate) struct Open;

impl Tap for Open {
    fn allows(&self, _: Call, _: Moment, _: Option<&ReplicaId>) -> bool {
        true
    }
}
