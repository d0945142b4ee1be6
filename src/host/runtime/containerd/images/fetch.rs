//! One layer from the registry into the content store: streamed, checked, resumed.
//!
//! Invariants
//! - A layer is never held in memory, and what has arrived is never asked for again, unless it turns out to be wrong.
//! - A registry that is slow, or that is waited for, keeps nobody waiting but those who pull from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::content_store::{CommitError, Content, Opened, Writer};
use super::error::{Failure, Fault};
use super::lease::Lease;
use super::locks::Locks;
use super::manifest::Descriptor;
use super::registry::Registry;
use super::session::Transfer;
use crate::runtime::{Progress, RuntimeError};
use model::config;
use model::sync::lock;

/// Attempts in a row that brought nothing.
const BARREN_ATTEMPTS: u32 = 5;
/// Barren attempts that ask for the missing part of a layer. Later ones ask for all of it.
const BARREN_ATTEMPTS_AT_A_PART: u32 = 3;
/// Attempts in all, for a connection that breaks every few bytes.
const ATTEMPTS: u32 = 100;
/// The time over which it is measured how fast a layer comes.
const STRETCH: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fetches layers.
#[derive(Debug)]
pub(super) struct Fetcher {
    content: Content,
    /// Layers that come in from one registry at the same time.
    parallel: usize,
    /// By registry.
    slots: Mutex<HashMap<String, Weak<Semaphore>>>,
    /// By registry and digest: two images that share a layer fetch it once.
    locks: Locks,
    /// Bytes a second that a registry must send.
    least_rate: u64,
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
    pub(super) fn new(content: Content, settings: &config::Images) -> Self {
        Self {
            content,
            parallel: settings.parallel_layers.max(1),
            slots: Mutex::default(),
            locks: Locks::default(),
            least_rate: settings.least_rate,
        }
    }

    /// Waits until nobody else brings this layer in from `source`.
    pub(super) async fn alone(&self, source: &str, digest: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.locks.lock(&format!("{source} {digest}")).await
    }

    /// Returns the slots of a registry; they last as long as somebody has them.
    fn slots(&self, registry: &str) -> Arc<Semaphore> {
        let mut slots = lock(&self.slots);
        slots.retain(|_, slots| slots.strong_count() > 0);
        match slots.get(registry).and_then(Weak::upgrade) {
            Some(found) => found,
            None => {
                let made = Arc::new(Semaphore::new(self.parallel));
                slots.insert(registry.to_owned(), Arc::downgrade(&made));
                made
            }
        }
    }

    /// Brings a layer in, if it is not here, and counts its bytes as they come.
    pub(super) async fn fetch(
        &self,
        registry: &Registry,
        lease: &Lease,
        layer: &Descriptor,
        progress: &Progress,
    ) -> Result<(), RuntimeError> {
        let _alone = self.alone(registry.name(), &layer.digest).await;
        let slots = self.slots(registry.name());
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
            // Given back while nothing is asked for.
            let slot = slots.acquire().await.expect("the semaphore is never closed");
            let outcome = self.attempt(registry, lease, layer, &mut counted, begin).await;
            drop(slot);
            let (fault, progressed) = match outcome {
                Ok(()) => {
                    progress.note(None);
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
            progress.note(Some(format!("{}: {fault}", registry.name())));
            tracing::warn!(
                registry = registry.name(), layer = layer.digest, %fault, ?wait, attempt,
                "trying again to fetch a layer"
            );
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
        let mut writer =
            match self.content.open(lease, layer, registry.name()).await.map_err(Interrupted::Ours)? {
                Opened::Exists => return Ok(()),
                Opened::Write(writer) => writer,
            };
        if writer.offset() > layer.size || begin == Begin::Start {
            writer.restart();
        }
        counted.set(writer.offset());
        let outcome = receive(&mut writer, registry, layer, counted, self.least_rate).await;
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
                    self.content.abort(registry.name(), &layer.digest).await;
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
    least_rate: u64,
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
    let mut pace = Pace::start(least_rate, writer.offset());
    loop {
        let progressed = writer.offset() > start;
        let fault = |fault| Interrupted::Fault { fault, progressed };
        let part = match tokio::time::timeout_at(pace.end, response.chunk()).await {
            Ok(part) => part,
            Err(_) => {
                // Such an attempt counts for one that brought nothing, or it would have no end.
                let slow = |fault| Interrupted::Fault { fault, progressed: false };
                pace.check(writer.offset()).map_err(slow)?;
                continue;
            }
        };
        let part = part.map_err(|error| fault(Fault::from_request(&error)))?;
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

/// Whether a layer comes as fast as it must, one stretch of time after the other.
struct Pace {
    /// Bytes that must come in one stretch.
    least: u64,
    /// Bytes that were there when it began.
    start: u64,
    end: Instant,
}

impl Pace {
    fn start(least_rate: u64, start: u64) -> Self {
        Self { least: least_rate.saturating_mul(STRETCH.as_secs()), start, end: Instant::now() + STRETCH }
    }

    /// Begins the next stretch, unless too little came in the one that has ended.
    fn check(&mut self, now: u64) -> Result<(), Fault> {
        let came = now.saturating_sub(self.start);
        if came < self.least {
            let seconds = STRETCH.as_secs();
            return Err(Fault::busy(format!("it sent only {came} bytes in {seconds} s")));
        }
        (self.start, self.end) = (now, Instant::now() + STRETCH);
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_layer_must_come_at_the_least_rate_in_every_stretch() {
        let mut pace = Pace::start(10, 500);
        let first = pace.end;
        assert!(pace.check(1099).is_err(), "one byte too few");
        tokio::time::advance(STRETCH).await;
        pace.check(1100).expect("fast enough");
        assert_eq!(pace.end, first + STRETCH);
        let fault = pace.check(1103).expect_err("what came before does not count");
        assert_eq!(fault, Fault::busy("it sent only 3 bytes in 60 s"));
        // Without a least rate nothing is too slow.
        Pace::start(0, 0).check(0).expect("no limit");
    }
}
