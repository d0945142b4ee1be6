//! One layer from the registry into the content store: streamed, checked, resumed.
//!
//! Invariant: a layer is never held in memory, and what has arrived is never asked for again, unless
//! it turns out to be wrong.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::content_store::{CommitError, Content, Opened, Writer};
use super::error::{Failure, Fault};
use super::lease::Lease;
use super::locks::Locks;
use super::manifest::Descriptor;
use super::registry::Registry;
use super::session::Transfer;
use crate::runtime::{Progress, RuntimeError};

/// Attempts in a row that brought nothing.
const BARREN_ATTEMPTS: u32 = 5;
/// Those of them that ask for what is missing of a layer. The rest asks for all of it.
const BARREN_ATTEMPTS_AT_A_PART: u32 = 3;
/// Attempts in all, for a connection that breaks every few bytes.
const ATTEMPTS: u32 = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fetches layers.
#[derive(Debug)]
pub(super) struct Fetcher {
    content: Content,
    /// How many layers come in at the same time, of all images together.
    slots: Semaphore,
    /// By digest: two images that share a layer fetch it once.
    locks: Locks,
}

/// The byte that an attempt begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    WhereItEnded,
    Start,
}

/// Why an attempt did not bring the whole layer.
enum Interrupted {
    /// The registry, or the way to it. `progressed` if some bytes came.
    Fault {
        fault: Fault,
        progressed: bool,
    },
    Ours(RuntimeError),
}

impl Fetcher {
    pub(super) fn new(content: Content, parallel: usize) -> Self {
        Self { content, slots: Semaphore::new(parallel.max(1)), locks: Locks::default() }
    }

    /// Waits until nobody else brings this layer in.
    pub(super) async fn alone(&self, digest: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.locks.lock(digest).await
    }

    /// Brings a layer in, if it is not here, and counts its bytes as they come.
    pub(super) async fn fetch(
        &self,
        registry: &Registry,
        lease: &Lease,
        layer: &Descriptor,
        progress: &Progress,
    ) -> Result<(), RuntimeError> {
        let _alone = self.alone(&layer.digest).await;
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        lease.hold_blob(&layer.digest).await?;
        if self.content.has(&layer.digest).await? {
            progress.add(layer.size);
            return Ok(());
        }
        let mut counted = Counted { progress, bytes: 0 };
        let (mut barren, mut pause, mut restarted) = (0, FIRST_PAUSE, false);
        for attempt in 1.. {
            // A host that fails at every part may give the whole.
            let begin = if barren < BARREN_ATTEMPTS_AT_A_PART { Begin::WhereItEnded } else { Begin::Start };
            let (fault, progressed) = match self.attempt(registry, lease, layer, &mut counted, begin).await {
                Ok(()) => {
                    counted.set(layer.size);
                    return Ok(());
                }
                Err(Interrupted::Ours(error)) => return Err(error),
                Err(Interrupted::Fault { fault, progressed }) => (fault, progressed),
            };
            (barren, pause) = if progressed { (0, FIRST_PAUSE) } else { (barren + 1, pause) };
            let again = match &fault {
                // What was there from before may be the bad part: once more from the first byte.
                Fault::Mismatch(_) => !std::mem::replace(&mut restarted, true),
                _ => barren < BARREN_ATTEMPTS && attempt < ATTEMPTS,
            };
            let Some(wait) = fault.wait(pause).filter(|_| again) else {
                counted.set(0);
                return Err(registry.error(fault));
            };
            tracing::debug!(layer = layer.digest, ?fault, ?wait, attempt, "trying again to fetch a layer");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        unreachable!("the attempts have an end")
    }

    async fn attempt(
        &self,
        registry: &Registry,
        lease: &Lease,
        layer: &Descriptor,
        counted: &mut Counted<'_>,
        begin: Begin,
    ) -> Result<(), Interrupted> {
        let mut writer = match self.content.open(lease, layer).await.map_err(Interrupted::Ours)? {
            Opened::Exists => return Ok(()),
            Opened::Write(writer) => writer,
        };
        if writer.offset() > layer.size || begin == Begin::Start {
            writer.restart();
        }
        counted.set(writer.offset());
        let outcome = receive(&mut writer, registry, layer, counted).await;
        match outcome {
            Ok(()) => match writer.commit().await {
                Ok(()) => Ok(()),
                Err(CommitError::Mismatch(reason)) => {
                    Err(Interrupted::Fault { fault: Fault::Mismatch(reason), progressed: false })
                }
                Err(CommitError::Other(error)) => Err(Interrupted::Ours(error)),
            },
            Err(interrupted) => {
                drop(writer);
                if let Interrupted::Fault { fault: Fault::Mismatch(_), .. } = interrupted {
                    self.content.abort(&layer.digest).await;
                }
                Err(interrupted)
            }
        }
    }
}

/// Writes what is missing.
async fn receive(
    writer: &mut Writer,
    registry: &Registry,
    layer: &Descriptor,
    counted: &mut Counted<'_>,
) -> Result<(), Interrupted> {
    if writer.offset() == layer.size {
        return Ok(());
    }
    let transfer = registry.layer(layer, writer.offset()).await.map_err(|error| match error {
        Failure::Fault(fault) => Interrupted::Fault { fault, progressed: false },
        Failure::Ours(error) => Interrupted::Ours(error),
    })?;
    let Transfer { start, mut response } = transfer;
    if start == 0 {
        writer.restart();
        counted.set(0);
    }
    loop {
        let progressed = writer.offset() > start;
        let fault = |fault| Interrupted::Fault { fault, progressed };
        let part = response.chunk().await.map_err(|error| fault(Fault::from_request(&error)))?;
        let Some(part) = part else { break };
        if writer.offset() + part.len() as u64 > layer.size {
            return Err(fault(Fault::Mismatch(format!(
                "layer {} has more than the {} bytes that its manifest says",
                layer.digest, layer.size
            ))));
        }
        writer.write(part).await.map_err(Interrupted::Ours)?;
        counted.set(writer.offset());
    }
    if writer.offset() < layer.size {
        let fault = Fault::busy(format!("it sent {} of {} bytes", writer.offset(), layer.size));
        return Err(Interrupted::Fault { fault, progressed: writer.offset() > start });
    }
    Ok(())
}

/// How much of a layer is in the progress of its image.
struct Counted<'a> {
    progress: &'a Progress,
    bytes: u64,
}

impl Counted<'_> {
    fn set(&mut self, bytes: u64) {
        if bytes >= self.bytes {
            self.progress.add(bytes - self.bytes);
        } else {
            self.progress.subtract(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}
