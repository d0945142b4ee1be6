//! A process that lives as long as the watchdog does.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::log::Lines;
use super::process::{Process, from_process};
use super::shared::Shared;
use super::spawn::{Given, Program, nothing};

/// Told when a process ends that the function cannot do without: how.
pub(super) type Ended = mpsc::UnboundedReceiver<String>;
/// The other side of [`Ended`]. If all are dropped, the process was told to end.
pub(super) type Ending = mpsc::UnboundedSender<String>;

/// How long it may take to leave after SIGTERM.
const LEAVE: Duration = Duration::from_secs(5);
/// How long what it wrote may take to be logged after its end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Bytes of its output that are read at once.
const PIECE: usize = 16 << 10;

/// The process, to be told to leave.
#[derive(Debug)]
pub(super) struct Child {
    stop: CancellationToken,
    gone: CancellationToken,
}

impl Child {
    /// Starts the command of the settings with what `adjust` makes of what it is given; what it writes is logged. `ended` is told
    /// when it ends by itself, and how.
    pub(super) fn start(
        shared: &Arc<Shared>,
        ended: Ending,
        adjust: impl FnOnce(&mut Given) -> std::io::Result<()>,
    ) -> Result<Self, String> {
        let settings = &shared.settings;
        let failed = |error| settings.cannot_start(&error);
        let program = Program::new(&settings.command).map_err(failed)?;
        let mut given = Given { stdin: Some(nothing().map_err(failed)?), ..Given::default() };
        let mut followers = Vec::new();
        if settings.prefix_logs {
            let (stdout, theirs) = from_process().map_err(failed)?;
            given.stdout = Some(theirs);
            let (stderr, theirs) = from_process().map_err(failed)?;
            given.stderr = Some(theirs);
            for (source, pipe) in [("stdout", stdout), ("stderr", stderr)] {
                let following = follow(source, pipe, shared.clone());
                followers.push(tokio::task::spawn_local(following));
            }
        }
        adjust(&mut given).map_err(failed)?;
        shared.log.say("Forking fprocess.");
        let process = Process::start(&program, &given).map_err(failed)?;
        let child = Self { stop: CancellationToken::new(), gone: CancellationToken::new() };
        let (stop, gone) = (child.stop.clone(), child.gone.clone());
        tokio::task::spawn_local(watch(process, followers, ended, stop, gone));
        Ok(child)
    }

    /// Tells it to leave.
    pub(super) fn leave(&self) {
        self.stop.cancel();
    }

    /// Tells it to leave, and returns when it has.
    pub(super) async fn stop(&self) {
        self.leave();
        self.gone.cancelled().await;
    }
}

async fn watch(
    mut process: Process,
    followers: Vec<JoinHandle<()>>,
    ended: Ending,
    stop: CancellationToken,
    gone: CancellationToken,
) {
    let end = tokio::select! {
        end = process.wait() => Some(end),
        () = stop.cancelled() => {
            process.signal(Signal::SIGTERM);
            if timeout(LEAVE, process.wait()).await.is_err() {
                process.kill();
            }
            None
        }
    };
    // What it said last is what people look for. Others that it started may hold its pipes open for ever.
    let _ = timeout(LAST_WORDS, async {
        for follower in followers {
            let _ = follower.await;
        }
    })
    .await;
    if let Some(end) = end {
        let _ = ended.send(end.to_string());
    }
    gone.cancel();
}

/// Logs what comes out of a pipe, to its end.
async fn follow(source: &'static str, mut pipe: pipe::Receiver, shared: Arc<Shared>) {
    let mut lines = Lines::new(shared.settings.log_buffer_size);
    let mut piece = vec![0; PIECE];
    let say = |line: &[u8]| shared.log.line(source, line, "");
    while let Ok(count @ 1..) = pipe.read(&mut piece).await {
        lines.take(&piece[..count], say);
    }
    lines.end(say);
}
