//! The containers of the fake runtime: small HTTP servers in this process, on the replica's own
//! address and port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use model::function::ImageRef;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The port of the server behind a watchdog.
pub(crate) const BEHIND: u16 = 5000;

/// What a container does, told by its image: the last part of the name, and the tag where it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Any other name. Answers every request; see [`answer`]. Leaves on SIGTERM when no request is
    /// in flight.
    Serves,
    /// `slow`: begins to listen after 300 ms.
    Slow,
    /// `never-ready`: runs and never listens.
    NeverReady,
    /// `unhealthy`: listens, and answers 503 to everything below `/_/`.
    Unhealthy,
    /// `deaf`: serves, and ignores SIGTERM.
    Deaf,
    /// `fleeting:N`: answers a request, and leaves with code 3 after N microseconds.
    Fleeting(u32),
    /// `early:N`: a watchdog that says at once that it is ready, and answers 500 to every request until the server
    /// behind it listens, on [`BEHIND`], after N milliseconds; without a number, never.
    Early(Option<u32>),
    /// `exits:N`: leaves at once with code N; 1 when the tag is no number.
    Exits(u32),
}

impl Manner {
    pub(super) fn of(image: &ImageRef) -> Self {
        let reference = image.reference();
        let number = reference.tag().and_then(|tag| tag.parse().ok());
        match reference.repository().rsplit('/').next().unwrap_or_default() {
            "slow" => Self::Slow,
            "never-ready" => Self::NeverReady,
            "unhealthy" => Self::Unhealthy,
            "deaf" => Self::Deaf,
            "fleeting" => Self::Fleeting(number.unwrap_or(0)),
            "early" => Self::Early(number),
            "exits" => Self::Exits(number.unwrap_or(1)),
            _ => Self::Serves,
        }
    }
}

/// What was sent to a container, the strongest so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    None,
    Term,
    Kill,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) code: u32,
    /// The kernel ended it for want of memory.
    pub(super) out_of_memory: bool,
}

impl End {
    const fn code(code: u32) -> Self {
        Self { code, out_of_memory: false }
    }
}

/// The life of a container, from its start to its end. `title` is repeated in every answer.
pub(super) async fn live(
    manner: Manner,
    address: SocketAddr,
    title: String,
    mut signals: watch::Receiver<Signal>,
) -> End {
    let mut killed = signals.clone();
    tokio::select! {
        biased;
        _ = killed.wait_for(|signal| *signal == Signal::Kill) => End::code(128 + 9),
        end = behave(manner, address, title, &mut signals) => end,
    }
}

async fn behave(
    manner: Manner,
    address: SocketAddr,
    title: String,
    signals: &mut watch::Receiver<Signal>,
) -> End {
    match manner {
        Manner::Exits(code) => return End::code(code),
        Manner::NeverReady => {
            let _ = signals.wait_for(|signal| *signal >= Signal::Term).await;
            return End::code(0);
        }
        Manner::Slow => tokio::time::sleep(Duration::from_millis(300)).await,
        Manner::Serves | Manner::Unhealthy | Manner::Deaf | Manner::Fleeting(_) | Manner::Early(_) => {}
    }
    let behind = Behind { address: SocketAddr::new(address.ip(), BEHIND), listener: Arc::default() };
    if let Manner::Early(Some(millis)) = manner {
        behind.listen_after(millis);
    }
    let Ok(listener) = TcpListener::bind(address).await else { return End::code(98) };
    let (end, mut ends) = mpsc::unbounded_channel();
    let title: Arc<str> = title.into();
    let mut connections = JoinSet::new();
    let mut leave = signals.clone();
    loop {
        tokio::select! {
            end = ends.recv() => return end.unwrap_or(End::code(1)),
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (title, end, behind) = (title.clone(), end.clone(), behind.clone());
                let service = service_fn(move |request| {
                    answer(manner, title.clone(), end.clone(), behind.clone(), request)
                });
                let serve = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let mut leaving = signals.clone();
                connections.spawn(async move {
                    let mut serve = std::pin::pin!(serve);
                    tokio::select! {
                        _ = serve.as_mut() => return,
                        _ = leaving.wait_for(|signal| *signal >= Signal::Term && manner != Manner::Deaf) => {}
                    }
                    serve.as_mut().graceful_shutdown();
                    let _ = serve.await;
                });
            }
            _ = leave.wait_for(|signal| *signal >= Signal::Term && manner != Manner::Deaf) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    End::code(0)
}

/// The server behind a watchdog: it listens, or it does not.
#[derive(Debug, Clone)]
struct Behind {
    address: SocketAddr,
    listener: Arc<Mutex<Option<TcpListener>>>,
}

impl Behind {
    fn is_there(&self) -> bool {
        self.listener.lock().expect("no panic").is_some()
    }

    /// Closes it, and opens it after so many milliseconds.
    fn listen_after(&self, millis: u32) {
        let Self { address, listener } = self.clone();
        drop(listener.lock().expect("no panic").take());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(millis.into())).await;
            let opened = TcpListener::bind(address).await.expect("nobody else has this address");
            *listener.lock().expect("no panic") = Some(opened);
        });
    }
}

/// `/again/N` closes the server behind a watchdog for N milliseconds; `/crash` and `/crash/N` end the container with code 1 or N, `/oom` as the kernel would, both
/// without an answer; `/sleep/N` answers after N milliseconds; all else at once. The answer is the
/// title, the method and the path on a line, and then the body that was sent.
async fn answer(
    manner: Manner,
    title: Arc<str>,
    end: mpsc::UnboundedSender<End>,
    behind: Behind,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let number = |prefix| path.strip_prefix(prefix).and_then(|rest: &str| rest.parse::<u32>().ok());
    if path == "/oom" {
        let _ = end.send(End { code: 128 + 9, out_of_memory: true });
        std::future::pending::<()>().await;
    }
    if path.starts_with("/crash") {
        let _ = end.send(End::code(number("/crash/").unwrap_or(1)));
        std::future::pending::<()>().await;
    }
    if let Some(millis) = number("/sleep/") {
        tokio::time::sleep(Duration::from_millis(millis.into())).await;
    }
    let is_alone = matches!(manner, Manner::Early(_)) && !path.starts_with("/_/") && !behind.is_there();
    if let Some(millis) = number("/again/") {
        behind.listen_after(millis);
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut body = format!("{title} {} {target}\n", request.method()).into_bytes();
    let unhealthy = manner == Manner::Unhealthy && path.starts_with("/_/");
    if let Ok(sent) = request.into_body().collect().await {
        body.extend_from_slice(&sent.to_bytes());
    }
    if let Manner::Fleeting(micros) = manner {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(micros.into())).await;
            let _ = end.send(End::code(3));
        });
    }
    let mut response = Response::new(Full::new(Bytes::from(body)));
    if unhealthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    if is_alone {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
}
