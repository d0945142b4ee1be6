//! Processes that others have left. As process 1 of a container, this one is their parent now, and must reap them.

use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// The pause after each look. The signal comes for every process that ends, of which nearly all belong to event loops.
const GATHER: Duration = Duration::from_millis(100);

/// Holds back the signal that tells of ends, on this thread and all that it will start.
pub(super) fn hold_back() {
    let _ = SigSet::from(Signal::SIGCHLD).thread_block();
}

/// Begins to reap. To be called on the first thread of the process, to which the kernel leaves them, and which may start
/// none itself: what is waited for here are the children of this thread alone.
pub(super) fn reap() -> io::Result<()> {
    let mut ends = signal(SignalKind::child())?;
    let told = SigSet::from(Signal::SIGCHLD);
    tokio::task::spawn_local(async move {
        loop {
            let all = WaitPidFlag::WNOHANG | WaitPidFlag::__WNOTHREAD;
            while waitpid(None, Some(all)).is_ok_and(|status| status != WaitStatus::StillAlive) {}
            sleep(GATHER).await;
            let _ = told.thread_unblock();
            let more = ends.recv().await;
            let _ = told.thread_block();
            if more.is_none() {
                return;
            }
        }
    });
    Ok(())
}
