//! Listens, counts requests, and leaves when it is told to.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connection;
use super::log::Log;
use super::metrics::{self, Metrics};
use super::mode::Service;
use super::process::Processes;
use super::settings::Settings;

/// Connections that may wait to be taken.
const BACKLOG: u32 = 1024;
/// The file that says that requests are taken.
const LOCK: &str = "/tmp/.lock";
/// The pause after a connection could not be taken, as when there are no free files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Threads beside the one that does all the rest, while there is work for them.
const ASIDE: usize = 4;
/// Bytes of stack that each of them has.
const ASIDE_STACK: usize = 256 << 10;
/// How long those have to learn of it who waited for a process that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) service: Service,
    pub(super) log: Rc<Log>,
    pub(super) metrics: RefCell<Metrics>,
    gate: Gate,
}

/// Counts requests, and knows whether more are taken.
#[derive(Debug, Default)]
struct Gate {
    in_flight: Cell<usize>,
    /// Health is denied, and the end is near.
    draining: Cell<bool>,
    /// Told when the last one has ended.
    idle: Notify,
    /// Connections that wait for a request are to end.
    closing: CancellationToken,
}

/// One request, counted while it lives.
#[derive(Debug)]
pub(super) struct Ticket(Rc<Shared>);

impl Shared {
    /// Counts a request; `None` when there are as many as may be.
    pub(super) fn admit(self: &Rc<Self>) -> Option<Ticket> {
        let count = self.gate.in_flight.get();
        if self.settings.max_inflight.is_some_and(|limit| count >= limit) {
            return None;
        }
        self.gate.in_flight.set(count + 1);
        Some(Ticket(self.clone()))
    }

    /// Whether as many requests are under way as may be.
    pub(super) fn is_full(&self) -> bool {
        self.settings.max_inflight.is_some_and(|limit| self.gate.in_flight.get() >= limit)
    }

    /// Requests under way.
    pub(super) fn in_flight(&self) -> usize {
        self.gate.in_flight.get()
    }

    /// Whether it was told to leave.
    pub(super) fn is_draining(&self) -> bool {
        self.gate.draining.get()
    }

    /// Cancelled when connections that carry no request are to end.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.gate.closing
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        let count = gate.in_flight.get() - 1;
        gate.in_flight.set(count);
        if count == 0 {
            gate.idle.notify_waiters();
        }
    }
}

/// Runs until it is told to leave, or cannot go on.
pub(super) fn run(settings: Settings) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // What may hold a thread up, and is short: starting processes, reading files.
    builder.enable_all().max_blocking_threads(ASIDE).thread_stack_size(ASIDE_STACK);
    // The end of a process is for the thread that waits for it: the others would only be disturbed.
    builder.on_thread_start(|| {
        let _ = SigSet::from(Signal::SIGCHLD).thread_block();
    });
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fwatchdog: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (log, last_line) = match Log::start(settings.prefix_logs) {
        Ok(started) => started,
        Err(error) => {
            eprintln!("fwatchdog: the log: {error}");
            return ExitCode::FAILURE;
        }
    };
    let tasks = LocalSet::new();
    let ended = tasks.block_on(&runtime, serve(settings, Rc::new(log)));
    // With them goes the last that could say anything.
    drop(tasks);
    drop(runtime);
    last_line.wait();
    ended.unwrap_or_else(|reason| {
        eprintln!("fwatchdog: {reason}");
        ExitCode::FAILURE
    })
}

async fn serve(settings: Settings, log: Rc<Log>) -> Result<ExitCode, String> {
    let processes = Processes::start().map_err(|error| format!("waiting for processes: {error}"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| format!("SIGTERM: {error}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| format!("SIGINT: {error}"))?;
    // The ports before the process: when one is taken, nothing is begun.
    let (port, metrics_port) = (settings.port, settings.metrics_port);
    let listener = listen(port)?;
    let for_metrics = listen(metrics_port);
    let (service, mut ended) = Service::start(&settings, &processes, &log)?;
    let shared = Rc::new(Shared {
        settings,
        service,
        log: log.clone(),
        metrics: RefCell::default(),
        gate: Gate::default(),
    });
    match for_metrics {
        Ok(listener) => drop(tokio::task::spawn_local(metrics::serve(listener, shared.clone()))),
        // A function can do without them.
        Err(reason) => log.say(&format!("no metrics: {reason}")),
    }
    let lock = Lock::new(&shared);
    log.say(&format!("listening on port {port}, mode {:?}", shared.settings.mode));
    let stop = CancellationToken::new();
    let accepting = tokio::task::spawn_local(accept(listener, shared.clone(), stop.clone()));
    let code = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        end = &mut ended => Some(end),
    };
    if let Some(end) = code {
        // It took what it was at with it; a new container is better than one without its process.
        let how = end.unwrap_or_else(|_| "it was told to".into());
        log.say(&format!("the process has ended ({how}), and so does the watchdog"));
        drop(lock);
        stop.cancel();
        shared.gate.draining.set(true);
        shared.gate.closing.cancel();
        // Those who wait for it are told.
        let _ = timeout(LAST_WORDS, idle(&shared)).await;
        return Ok(ExitCode::FAILURE);
    }
    drop(lock);
    shared.gate.draining.set(true);
    let settings = &shared.settings;
    log.say(&format!("told to leave; {} requests are under way", shared.in_flight()));
    // Whoever asks for health has the time to see it before requests are refused.
    let _ = timeout(settings.healthcheck_interval, idle(&shared)).await;
    stop.cancel();
    shared.gate.closing.cancel();
    if timeout(settings.write_timeout, idle(&shared)).await.is_err() {
        log.say(&format!("{} requests did not end within write_timeout", shared.in_flight()));
    }
    let _ = accepting.await;
    shared.service.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Returns when no request is under way.
async fn idle(shared: &Shared) {
    loop {
        let idle = shared.gate.idle.notified();
        if shared.in_flight() == 0 {
            return;
        }
        idle.await;
    }
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

async fn accept(listener: TcpListener, shared: Rc<Shared>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => spawn(stream, &shared),
            Err(error) => {
                shared.log.say(&format!("a connection could not be accepted: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn spawn(stream: TcpStream, shared: &Rc<Shared>) {
    // Small answers must not wait for more.
    let _ = stream.set_nodelay(true);
    tokio::task::spawn_local(connection::serve(stream, shared.clone()));
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
