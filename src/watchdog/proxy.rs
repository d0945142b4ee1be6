//! `http`: one process, which is a server; requests are passed on to it.

use std::cell::RefCell;
use std::os::fd::AsRawFd as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::answer::Answer;
use super::body::Body;
use super::call::Call;
use super::child::{Child, Ending};
use super::failure::Failure;
use super::settings::{Settings, Upstream};
use super::shared::Shared;
use super::spool::Spooled;
use super::upstream::{self, Incoming, push, returned};
use http1::{Framing, Header, RequestHead, ResponseHead, end_chunks, method, push_chunk, slots};
use quantity::parse_duration;

/// Connections that are kept for the next request.
const KEPT: usize = 256;
/// The pauses between two attempts to reach a process that does not listen yet.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// How long the process may take to say whether it is ready.
const READY: Duration = Duration::from_secs(5);

/// The process, and connections to it.
#[derive(Debug)]
pub(super) struct Proxy {
    /// Absent for a server that somebody else has started.
    child: RefCell<Option<Child>>,
    upstream: Upstream,
    idle: RefCell<Vec<TcpStream>>,
    ended: Ending,
}

impl Proxy {
    /// Starts the process.
    pub(super) fn start(shared: &Arc<Shared>, ended: Ending) -> Result<Self, String> {
        let settings = &shared.settings;
        let child = match settings.command.is_empty() {
            true => None,
            false => Some(Child::start(shared, ended.clone(), |_| Ok(()))?),
        };
        let (child, upstream) = (RefCell::new(child), settings.upstream.clone());
        Ok(Self { child, upstream, idle: RefCell::default(), ended })
    }

    /// Ends the process, and starts it anew. A server that somebody else has started is left alone.
    pub(super) async fn restart(&self, shared: &Arc<Shared>) -> Result<(), Failure> {
        if shared.settings.command.is_empty() {
            return Ok(());
        }
        self.stop().await;
        let child = Child::start(shared, self.ended.clone(), |_| Ok(())).map_err(Failure::Upstream)?;
        *self.child.borrow_mut() = Some(child);
        Ok(())
    }

    /// Sends JSON, in parts, to a path, and reads the whole response: its status and its body.
    pub(super) async fn post(&self, path: &str, body: &[&[u8]]) -> Result<(u16, Vec<u8>), Failure> {
        let mut stream = self.connect().await?;
        let request = format!(
            "POST {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.upstream.path,
            self.upstream.address,
            body.iter().map(|part| part.len()).sum::<usize>()
        );
        let (from, mut to) = stream.split();
        let sending = async {
            for part in [request.as_bytes()].iter().chain(body) {
                if to.write_all(part).await.is_err() {
                    return;
                }
            }
        };
        let mut incoming = Incoming::new(from);
        let answering = async {
            let closed = || Failure::Upstream("the process closed the connection without an answer".into());
            let head = incoming.head(false).await?.ok_or_else(closed)?;
            let mut slots = slots();
            let code =
                ResponseHead::parse(&head, &mut slots, false).ok().flatten().map(|(head, _)| head.code);
            Ok((code.ok_or_else(closed)?, incoming.whole().await?))
        };
        tokio::join!(sending, answering).1
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let limit = limit(&call);
        let Call { request, body, answer, shared, alarm } = call;
        let work = pin!(self.exchange(request, body, answer, shared));
        let late = Failure::late("the process did not answer within exec_timeout");
        match limit {
            Some(limit) => alarm.within(Instant::now() + limit, work).await.unwrap_or(Err(late)),
            None => work.await,
        }
    }

    async fn exchange(
        &self,
        request: &RequestHead<'_, '_>,
        body: &mut Body<'_>,
        answer: &mut Answer<'_>,
        shared: &Shared,
    ) -> Result<(), Failure> {
        let buffers = shared.settings.buffer_body && request.framing != Framing::None;
        let mut whole = if buffers { Some(shared.spool.read(body).await?) } else { None };
        let framing = whole.as_ref().map_or(request.framing, |whole| Framing::Length(whole.length()));
        let request_head = head(request, &self.upstream.path, framing);
        loop {
            let (mut stream, kept) = match self.take() {
                Some(stream) => (stream, true),
                None => (self.connect().await?, false),
            };
            let (from, mut to) = stream.split();
            let mut incoming = Incoming::new(from);
            let mut sent = false;
            let mut sending = Box::pin(send(&mut to, &request_head, whole.as_mut(), framing, body));
            let found = loop {
                tokio::select! {
                    biased;
                    found = incoming.head(request.method == "HEAD") => break found?,
                    done = &mut sending, if !sent => {
                        sent = true;
                        done?;
                    }
                }
            };
            let Some(found) = found else {
                // It was closed just when it was used: nobody has seen the request.
                if kept && framing == Framing::None && matches!(request.method, "GET" | "HEAD") {
                    continue;
                }
                return Err(Failure::Upstream("the process closed the connection without an answer".into()));
            };
            let mut slots = slots();
            let parsed = ResponseHead::parse(&found, &mut slots, request.method == "HEAD");
            let Ok(Some((head, _))) = parsed else {
                return Err(Failure::Upstream("the process's answer cannot be read".into()));
            };
            if head.code == 101 && !request.upgrade {
                return Err(Failure::Upstream(
                    "the process changes the protocol without being asked to".into(),
                ));
            }
            begin(&head, answer);
            if head.code == 101 {
                drop(sending);
                return tunnel(&mut incoming, &mut to, body, answer).await;
            }
            let mut given = 0;
            loop {
                let next = tokio::select! {
                    biased;
                    next = incoming.next(given) => next?,
                    done = &mut sending, if !sent => {
                        sent = true;
                        given = 0;
                        done?;
                        continue;
                    }
                };
                let Some(length) = next else { break };
                answer.data(incoming.data(length)).await.map_err(Failure::Client)?;
                given = length;
                if !incoming.has_more(given) {
                    answer.flush().await.map_err(Failure::Client)?;
                }
            }
            answer.end().await.map_err(Failure::Client)?;
            drop(sending);
            if sent && head.persists() && incoming.is_clean() {
                self.keep(stream);
            }
            return Ok(());
        }
    }

    /// A connection that is open still.
    fn take(&self) -> Option<TcpStream> {
        loop {
            let stream = self.idle.borrow_mut().pop()?;
            // One that was closed, or on which something came unasked, is not used.
            let looked = recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
            if looked == Err(Errno::EAGAIN) {
                return Some(stream);
            }
        }
    }

    fn keep(&self, stream: TcpStream) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < KEPT {
            idle.push(stream);
        }
    }

    /// A new connection. A process that does not listen yet is waited for.
    async fn connect(&self) -> Result<TcpStream, Failure> {
        let (mut pause, longest) = PAUSES;
        loop {
            match TcpStream::connect(self.upstream.address).await {
                Ok(stream) => {
                    // Small requests must not wait for more.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                Err(error) => {
                    let address = self.upstream.address;
                    return Err(Failure::Upstream(format!(
                        "the process is not reached at {address}: {error}"
                    )));
                }
            }
        }
    }

    /// Whether the process listens, and says that it is ready where it can be asked.
    pub(super) async fn is_ready(&self, settings: &Settings) -> bool {
        let asked = async {
            let mut stream = TcpStream::connect(self.upstream.address).await.ok()?;
            let Some(path) = &settings.ready_path else { return Some(true) };
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.upstream.address
            );
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut incoming = Incoming::new(stream);
            let head = incoming.head(false).await.ok()??;
            let mut slots = slots();
            let (head, _) = ResponseHead::parse(&head, &mut slots, false).ok()??;
            Some((200..300).contains(&head.code))
        };
        matches!(timeout(READY, asked).await, Ok(Some(true)))
    }

    pub(super) async fn stop(&self) {
        self.idle.borrow_mut().clear();
        let child = self.child.borrow_mut().take();
        if let Some(child) = child {
            child.stop().await;
        }
    }
}

/// How long the process has: what the settings say, or less if the caller does.
fn limit(call: &Call<'_, '_>) -> Option<Duration> {
    let asked =
        call.header("x-timeout").and_then(|text| parse_duration(std::str::from_utf8(text).ok()?).ok());
    match (call.shared.settings.exec_timeout, asked) {
        (Some(settings), Some(asked)) => Some(settings.min(asked)),
        (settings, asked) => asked.or(settings),
    }
}

/// The head for the process.
fn head(request: &RequestHead<'_, '_>, prefix: &str, framing: Framing) -> Vec<u8> {
    let mut out = upstream::head(request.method, request, prefix);
    method::push_length(request.method, framing, &mut out);
    if request.upgrade
        && let Some(protocol) = request.header(Header::Upgrade)
    {
        push(&mut out, "Connection", b"Upgrade");
        push(&mut out, "Upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Sends head and body. A process that does not read all of it may have answered before.
async fn send(
    mut to: impl AsyncWrite + Unpin,
    head: &[u8],
    whole: Option<&mut Spooled<'_>>,
    framing: Framing,
    body: &mut Body<'_>,
) -> Result<(), Failure> {
    if to.write_all(head).await.is_err() {
        return Ok(());
    }
    if let Some(whole) = whole {
        while let Some(piece) = whole.next().await? {
            if to.write_all(piece).await.is_err() {
                break;
            }
        }
        return Ok(());
    }
    let mut chunk = Vec::new();
    while let Some(piece) = body.next().await? {
        let piece = if framing == Framing::Chunked {
            chunk.clear();
            push_chunk(&mut chunk, piece);
            &chunk
        } else {
            piece
        };
        if to.write_all(piece).await.is_err() {
            return Ok(());
        }
    }
    if framing == Framing::Chunked {
        chunk.clear();
        end_chunks(&mut chunk);
        let _ = to.write_all(&chunk).await;
    }
    Ok(())
}

/// Makes the head of the answer from that of the process.
fn begin(head: &ResponseHead<'_, '_>, answer: &mut Answer<'_>) {
    let took = answer.took();
    let mut headers: Vec<(&str, &[u8])> = returned(head).map(|header| (header.name, header.value)).collect();
    if head.code == 101 {
        let upgrade = head.headers.iter().find(|header| Header::of(header.name) == Header::Upgrade);
        headers.extend(upgrade.map(|header| ("Upgrade", header.value)));
        headers.push(("Connection", b"Upgrade"));
        answer.switch(&headers);
        return;
    }
    headers.push(("X-Duration-Seconds", took.as_bytes()));
    let length = match head.framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
        // There is no body, but one may be spoken of: HEAD asks for nothing else.
        Framing::None => {
            let header = head.headers.iter().find(|header| Header::of(header.name) == Header::ContentLength);
            header.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok())
        }
    };
    answer.begin(head.code, head.reason, length, &headers);
}

/// Passes bytes on in both directions until one side has said all.
async fn tunnel(
    incoming: &mut Incoming<impl AsyncRead + Unpin>,
    to: &mut (impl AsyncWrite + Unpin),
    body: &mut Body<'_>,
    answer: &mut Answer<'_>,
) -> Result<(), Failure> {
    answer.flush().await.map_err(Failure::Client)?;
    body.open();
    let there = async {
        // Its end is the client's.
        while let Ok(Some(piece)) = body.next().await {
            if to.write_all(piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let back = async {
        let mut given = 0;
        while let Some(length) = incoming.next(given).await? {
            answer.data(incoming.data(length)).await.map_err(Failure::Client)?;
            answer.flush().await.map_err(Failure::Client)?;
            given = length;
        }
        answer.shutdown().await.map_err(Failure::Client)
    };
    tokio::join!(there, back).1
}
