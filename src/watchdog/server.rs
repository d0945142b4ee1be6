//! Listens, counts requests, and leaves when it is told to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::event_loop::{self, EventLoop};
use super::log::Log;
use super::settings::Settings;
use super::shared::Shared;
use super::{metrics_server, process, reaper};

/// Connections that may wait to be taken.
const BACKLOG: u32 = 1024;
/// The file that says that requests are taken.
const LOCK: &str = "/tmp/.lock";
/// The pause after a connection could not be taken, as when there are no free files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long those have to learn of it who waited for a process that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs until it is told to leave, or cannot go on.
pub(super) fn run(settings: Settings) -> ExitCode {
    // Before there are other threads.
    reaper::hold_back();
    let started = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| Ok((runtime, Log::start(settings.prefix_logs)?)));
    let (runtime, (log, last_line)) = match started {
        Ok(started) => started,
        Err(error) => {
            eprintln!("fwatchdog: {error}");
            return ExitCode::FAILURE;
        }
    };
    let tasks = LocalSet::new();
    let ended = tasks.block_on(&runtime, serve(settings, log));
    // With them goes the last that could say anything.
    drop(tasks);
    drop(runtime);
    last_line.wait();
    ended.unwrap_or_else(|reason| {
        eprintln!("fwatchdog: {reason}");
        ExitCode::FAILURE
    })
}

async fn serve(settings: Settings, log: Log) -> Result<ExitCode, String> {
    process::can_be_told().map_err(|error| {
        format!("the kernel does not tell of the end of a process ({error}): Linux 5.3 or a later one does")
    })?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| format!("SIGTERM: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| format!("SIGINT: {error}"))?;
    // The ports before the process: when one is taken, nothing is begun.
    let (port, metrics_port) = (settings.port, settings.metrics_port);
    let listener = listen(port)?;
    let for_metrics = listen(metrics_port);
    let shared = Shared::new(settings, log);
    let settings = &shared.settings;
    let (first, mut ended) = EventLoop::start(&shared).await?;
    let mut loops = vec![first];
    // Of several, each has only processes that it can do without.
    for _ in 1..event_loop::count(settings) {
        loops.push(EventLoop::start(&shared).await?.0);
    }
    reaper::reap().map_err(|error| format!("waiting for processes: {error}"))?;
    let log = &shared.log;
    match for_metrics {
        Ok(listener) => drop(tokio::task::spawn_local(metrics_server::serve(listener, shared.clone()))),
        // A function can do without them.
        Err(reason) => log.say(&format!("no metrics: {reason}")),
    }
    let lock = Lock::new(&shared);
    log.say(&format!("listening on port {port}, mode {:?}", settings.mode));
    let stop = CancellationToken::new();
    let accepting = tokio::task::spawn_local(accept(listener, loops, shared.clone(), stop.clone()));
    let code = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        end = ended.recv() => Some(end),
    };
    drop(lock);
    shared.drain();
    let code = if let Some(end) = code {
        // It took what it was at with it; a new container is better than one without its process.
        let how = end.unwrap_or_else(|| "it was told to".into());
        log.say(&format!("the process has ended ({how}), and so does the watchdog"));
        stop.cancel();
        shared.close();
        // Those who wait for it are told.
        let _ = timeout(LAST_WORDS, shared.idle()).await;
        ExitCode::FAILURE
    } else {
        log.say(&format!("told to leave; {} requests are under way", shared.in_flight()));
        // Whoever asks for health has the time to see it before requests are refused.
        let _ = timeout(settings.healthcheck_interval, shared.idle()).await;
        stop.cancel();
        shared.close();
        if timeout(settings.write_timeout, shared.idle()).await.is_err() {
            log.say(&format!("{} requests did not end within write_timeout", shared.in_flight()));
        }
        ExitCode::SUCCESS
    };
    if let Ok(loops) = accepting.await {
        for event_loop in loops {
            event_loop.stop().await;
        }
    }
    Ok(code)
}

/// Over both versions of IP where there are both.
fn listen(port: u16) -> Result<TcpListener, String> {
    let bound = |socket: std::io::Result<TcpSocket>, address: SocketAddr| -> std::io::Result<TcpListener> {
        let socket = socket?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound(TcpSocket::new_v6(), (Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_| bound(TcpSocket::new_v4(), (Ipv4Addr::UNSPECIFIED, port).into()))
        .map_err(|error| {
            format!("listening on port {port}: {error}; the variables port and metrics_port set others")
        })
}

/// Gives each connection to the event loop that has the fewest; returns them when it is to stop.
async fn accept(
    listener: TcpListener,
    loops: Vec<EventLoop>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> Vec<EventLoop> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return loops,
        };
        // Not watched by this thread any more.
        match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => {
                // Small answers must not wait for more.
                let _ = stream.set_nodelay(true);
                if let Some(chosen) = loops.iter().min_by_key(|event_loop| event_loop.open()) {
                    chosen.serve(stream);
                }
            }
            Err(error) => {
                shared.log.say(&format!("a connection could not be accepted: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The file that says that requests are taken, for health checks that look at it.
struct Lock(bool);

impl Lock {
    fn new(shared: &Shared) -> Self {
        if shared.settings.suppress_lock {
            return Self(false);
        }
        match std::fs::write(LOCK, "") {
            Ok(()) => Self(true),
            Err(error) => {
                // As on a read-only root: the HTTP check does not need it.
                shared.log.say(&format!("no lock file {LOCK}: {error}"));
                Self(false)
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.0 {
            let _ = std::fs::remove_file(LOCK);
        }
    }
}
