//! Keeps what looks after functions going: what panics is begun anew, after a pause that grows.
//!
//! Meanwhile the function's last view stays published: what serves can be called. A command ends the
//! pause, so that a function whose owner panics again and again can be updated or removed.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::owner::Owner;
use host::runtime::{ContainerState, Runtime};
use model::function::ReplicaId;

/// The least pause before something of the whole daemon's is begun anew.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs an owner until its function is gone or the daemon stops.
pub(super) async fn run(mut owner: Box<Owner>, runtime: &dyn Runtime) {
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        // The state that a panic leaves is not gone on with: the next owner begins with what is stored.
        let Err(panic) = AssertUnwindSafe(owner.run()).catch_unwind().await else { return };
        let reason = words(&*panic).to_owned();
        drop(panic);
        tracing::error!(
            function = %owner.entry().key, reason,
            "an error of the daemon: what looks after this function panicked; beginning anew"
        );
        backoff.failed(began.elapsed().max(Duration::from_nanos(1)), Instant::now());
        let first = owner.pause(backoff.until(Instant::now())).await;
        let running = running(runtime).await;
        *owner = (*owner).recover(running.as_deref(), first);
    }
}

/// Runs something that has no end but the daemon's.
pub(super) async fn keep<F: Future<Output = ()>>(
    what: &'static str,
    stop: CancellationToken,
    mut work: impl FnMut() -> F,
) {
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let ended = AssertUnwindSafe(work()).catch_unwind().await;
        if stop.is_cancelled() {
            return;
        }
        let reason = ended.err().map_or_else(|| "it ended".to_owned(), |panic| words(&*panic).to_owned());
        tracing::error!(reason, "an error of the daemon: {what} stopped; beginning anew");
        // Never at once: what it found was there when it began, and is there still.
        backoff.failed(began.elapsed(), Instant::now());
        let until = backoff.until(Instant::now()).unwrap_or_else(|| Instant::now() + PAUSE);
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The replicas that run, as far as that can be told now. When it cannot, the listing that follows once
/// containerd is back finds those that do not.
async fn running(runtime: &dyn Runtime) -> Option<Vec<ReplicaId>> {
    let containers = runtime.containers().await.ok()?.into_iter();
    let runs = |state| matches!(state, ContainerState::Running { .. } | ContainerState::Paused);
    Some(containers.filter(|container| runs(container.state)).map(|container| container.id).collect())
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no reason")
}
