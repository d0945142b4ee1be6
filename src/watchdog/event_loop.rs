//! A thread that serves connections, with all that their requests start.

use std::net::TcpStream;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::child::Ended;
use super::connection;
use super::mode::Service;
use super::settings::{Mode, Settings};
use super::shared::Shared;

/// The most that there are.
const MOST: usize = 8;
/// Threads beside each, while there are files to read.
const ASIDE: usize = 4;
/// Bytes of stack that each thread has.
const STACK: usize = 256 << 10;

/// How many there are to be. Whoever starts a process is held up until its program is loaded: where that is done for
/// each request, there are more of them than processors. All else one can do.
pub(super) fn count(settings: &Settings) -> usize {
    match settings.mode {
        Mode::Streaming | Mode::Serializing | Mode::Classic => {
            let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
            (2 * processors).min(MOST)
        }
        Mode::Http | Mode::Static | Mode::Afterburn | Mode::OpenWhisk => 1,
    }
}

/// The thread, as others see it. Dropped, it ends as soon as it can.
#[derive(Debug)]
pub(super) struct EventLoop {
    connections: UnboundedSender<TcpStream>,
    /// Connections that it has.
    open: Arc<AtomicUsize>,
    gone: oneshot::Receiver<()>,
}

impl EventLoop {
    /// Starts it, and with it what the mode needs to have running.
    pub(super) async fn start(shared: &Arc<Shared>) -> Result<(Self, Ended), String> {
        let (connections, given) = unbounded_channel();
        let (started, start) = oneshot::channel();
        let (leaves, gone) = oneshot::channel::<()>();
        let open = Arc::<AtomicUsize>::default();
        let (work_open, work_shared) = (open.clone(), shared.clone());
        let work = move || {
            match runtime() {
                Ok(runtime) => {
                    LocalSet::new().block_on(&runtime, serve(given, started, &work_open, &work_shared));
                }
                Err(error) => drop(started.send(Err(error.to_string()))),
            }
            drop((work_shared, leaves));
        };
        let thread = std::thread::Builder::new().name("loop".into()).stack_size(STACK).spawn(work);
        thread.map_err(|error| format!("an event loop could not be started: {error}"))?;
        let ended = start.await.unwrap_or_else(|_| Err("an event loop has ended".into()))?;
        Ok((Self { connections, open, gone }, ended))
    }

    /// Connections that it has.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Gives it a connection.
    pub(super) fn serve(&self, stream: TcpStream) {
        self.open.fetch_add(1, Ordering::Relaxed);
        // It ends when we do.
        let _ = self.connections.send(stream);
    }

    /// Ends it, with all connections and processes that it has. Returns when they are gone.
    pub(super) async fn stop(self) {
        drop(self.connections);
        let _ = self.gone.await;
    }
}

fn runtime() -> std::io::Result<Runtime> {
    // What may hold a thread up, and is short: reading files.
    Builder::new_current_thread().enable_all().max_blocking_threads(ASIDE).thread_stack_size(STACK).build()
}

/// Serves connections until no more are given, and then ends what was started.
async fn serve(
    mut connections: UnboundedReceiver<TcpStream>,
    started: oneshot::Sender<Result<Ended, String>>,
    open: &Arc<AtomicUsize>,
    shared: &Arc<Shared>,
) {
    let service = match Service::start(shared) {
        Ok((service, ended)) => {
            let _ = started.send(Ok(ended));
            Rc::new(service)
        }
        Err(reason) => return drop(started.send(Err(reason))),
    };
    while let Some(stream) = connections.recv().await {
        let (service, shared, open) = (service.clone(), shared.clone(), Open(open.clone()));
        spawn_local(async move {
            let _open = open;
            match net::TcpStream::from_std(stream) {
                Ok(stream) => connection::serve(stream, &shared, &service).await,
                Err(error) => shared.log.say(&format!("a connection could not be watched: {error}")),
            }
        });
    }
    service.stop().await;
}

/// A connection, counted while it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
