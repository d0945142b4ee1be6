//! A process for each request: the body on its stdin, its stdout for an answer.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer::Answer;
use super::body::{Body, BodyError};
use super::call::Call;
use super::cgi;
use super::log::Lines;
use super::mode::Failure;
use super::process::{End, Process, Processes, from_process, to_process};
use super::server::Shared;
use super::settings::Mode;
use http1::RequestHead;

/// Bytes that are read of a process at once: what a pipe holds, mostly.
const PIECE: usize = 64 << 10;
/// Pieces of memory that are kept for the next request: what is given back to the system comes back page by page.
const KEPT: usize = 8;
/// How long a process may take to be gone after SIGKILL. One that the kernel cannot end is waited for by nobody.
const KILL: Duration = Duration::from_secs(1);

/// The modes that fork.
#[derive(Debug)]
pub(super) struct Fork {
    mode: Mode,
    processes: Processes,
    /// Nothing ends with a process here.
    _ended: oneshot::Sender<String>,
}

/// What a process writes, and where it goes.
struct Output<'o, 'a> {
    answer: &'o mut Answer<'a>,
    /// What is held back until the process has ended.
    whole: Option<Vec<u8>>,
    content_type: &'o [u8],
}

impl Output<'_, '_> {
    async fn take(&mut self, data: &[u8]) -> Result<(), Failure> {
        match &mut self.whole {
            Some(whole) => {
                whole.extend_from_slice(data);
                Ok(())
            }
            None => {
                if !self.answer.has_begun() {
                    self.answer.begin(200, "OK", None, &[("Content-Type", self.content_type)]);
                }
                let sent = self.answer.data(data).await;
                // A person may be watching it come.
                let sent = if sent.is_ok() { self.answer.flush().await } else { sent };
                sent.map_err(Failure::Client)
            }
        }
    }
}

impl Fork {
    pub(super) fn new(mode: Mode, processes: Processes, ended: oneshot::Sender<String>) -> Self {
        Self { mode, processes, _ended: ended }
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let settings = &call.shared.settings;
        let given = settings.content_type.as_deref().map(str::as_bytes);
        let content_type = match self.mode {
            Mode::Classic => given.or_else(|| call.header("content-type")).unwrap_or(b"text/plain"),
            _ => given.unwrap_or(b"application/octet-stream"),
        };
        let suffix = match call.header("x-call-id") {
            Some(id) if settings.log_call_id => format!(" [{}]", String::from_utf8_lossy(id)),
            _ => String::new(),
        };
        let Call { request, body, answer, shared, .. } = call;
        // What is not passed on as it comes is read whole first, so that nothing is started in vain.
        let input = match self.mode {
            Mode::Streaming => None,
            _ if settings.marshal_request => Some(marshal(request, &body.whole().await?)),
            _ => Some(body.whole().await?),
        };
        shared.log.say("Forking fprocess.");
        let (mut process, mut pipes) = self.start(request, shared).await?;
        let whole = input.is_some().then(Vec::new);
        let mut output = Output { answer, whole, content_type };
        let limit = settings.exec_timeout.unwrap_or(Duration::MAX);
        let feeding = feed(pipes.stdin, input, body);
        let mut lines = Lines::new(settings.log_buffer_size);
        let say = |line: &[u8]| shared.log.line("stderr", line, &suffix);
        let errors = |bytes: &[u8]| lines.take(bytes, say);
        let (out, err) = (&mut pipes.stdout, &mut pipes.stderr);
        let carried = timeout(limit, carry(&mut process, feeding, (out, err), &mut output, errors)).await;
        if !matches!(carried, Ok(Ok(_))) {
            process.kill();
            let _ = timeout(KILL, process.wait()).await;
        }
        // What it said last is what people look for.
        drain(&pipes.stderr, |bytes| lines.take(bytes, say));
        lines.end(say);
        let end = carried.map_err(|_| self.timed_out())??;
        let whole = output.whole.take();
        if !end.is_success() {
            if settings.write_debug
                && let Some(whole) = &whole
            {
                shared.log.line("stdout", whole, "");
            }
            return Err(Failure::Ended(end.to_string()));
        }
        let took = answer.took();
        if let Some(whole) = whole {
            let headers = [("Content-Type", content_type), ("X-Duration-Seconds", took.as_bytes())];
            answer.begin(200, "OK", Some(whole.len() as u64), &headers);
            answer.data(&whole).await.map_err(Failure::Client)?;
        } else if !answer.has_begun() {
            answer.begin(200, "OK", Some(0), &[("Content-Type", content_type)]);
        }
        answer.end().await.map_err(Failure::Client)?;
        shared.log.say(&format!("Wrote {} Bytes - Duration: {took}s", answer.sent));
        Ok(())
    }

    fn timed_out(&self) -> Failure {
        match self.mode {
            Mode::Classic => {
                Failure::Timeout { text: "Killed process.", status: StatusCode::REQUEST_TIMEOUT }
            }
            _ => Failure::Timeout {
                text: "the process was killed: it did not end within exec_timeout",
                status: StatusCode::GATEWAY_TIMEOUT,
            },
        }
    }

    async fn start(
        &self,
        request: &RequestHead<'_, '_>,
        shared: &Shared,
    ) -> Result<(Process, Pipes), Failure> {
        let settings = &shared.settings;
        let mut command = Command::new(&settings.command[0]);
        command.args(&settings.command[1..]);
        if settings.cgi_headers {
            command.envs(cgi::variables(request));
        }
        let (stdin, theirs) = to_process().map_err(Failure::Start)?;
        command.stdin(theirs);
        let (stdout, theirs) = from_process().map_err(Failure::Start)?;
        let stderr = if self.mode == Mode::Classic && settings.combine_output {
            // One pipe for both, so that what is written stays in its order.
            command.stderr(theirs.try_clone().map_err(Failure::Start)?);
            None
        } else if settings.prefix_logs || settings.log_call_id {
            let (stderr, theirs) = from_process().map_err(Failure::Start)?;
            command.stderr(theirs);
            Some(stderr)
        } else {
            // As it is: there is nothing to add.
            command.stderr(Stdio::inherit());
            None
        };
        command.stdout(theirs);
        // Alone, it would only wait for the other thread.
        let process = if shared.in_flight() > 1 {
            self.processes.spawn_aside(command).await
        } else {
            self.processes.spawn(&mut command)
        };
        Ok((process.map_err(Failure::Start)?, Pipes { stdin, stdout, stderr }))
    }
}

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Memory to read into.
struct Piece(Box<[u8]>);

impl Piece {
    fn take() -> Self {
        Self(FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; PIECE].into()))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(std::mem::take(&mut self.0));
            }
        });
    }
}

struct Pipes {
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: Option<pipe::Receiver>,
}

/// Carries bytes both ways until the process ends: `feeding` to it, what comes out to `output` and `errors`.
async fn carry(
    process: &mut Process,
    feeding: impl Future<Output = Result<(), BodyError>>,
    (stdout, stderr): (&mut pipe::Receiver, &mut Option<pipe::Receiver>),
    output: &mut Output<'_, '_>,
    mut errors: impl FnMut(&[u8]),
) -> Result<End, Failure> {
    let mut feeding = std::pin::pin!(feeding);
    let (mut fed, mut open) = (false, true);
    let (mut piece, mut error_piece) = (Piece::take(), Piece::take());
    let end = loop {
        tokio::select! {
            biased;
            // First: one that it leaves behind may always have something to say.
            end = process.wait() => break end,
            count = stdout.read(&mut piece.0), if open => match count {
                Ok(count) if count > 0 => output.take(&piece.0[..count]).await?,
                _ => open = false,
            },
            count = read(stderr, &mut error_piece.0), if stderr.is_some() => match count {
                Ok(count) if count > 0 => errors(&error_piece.0[..count]),
                _ => *stderr = None,
            },
            done = &mut feeding, if !fed => {
                fed = true;
                done?;
            }
        }
    };
    // What it wrote before it ended is in the pipes. Others that it started may hold them open for ever, and write
    // for ever: no more is read than a pipe holds.
    let mut left = if open { capacity(stdout) } else { 0 };
    while left > 0
        && let Some(count) = read_now(stdout, &mut piece.0[..left.min(PIECE)])
    {
        output.take(&piece.0[..count]).await?;
        left -= count;
    }
    Ok(end)
}

/// Takes what is in a pipe now, and nothing that is written meanwhile beyond what it holds.
fn drain(pipe: &Option<pipe::Receiver>, mut take: impl FnMut(&[u8])) {
    let Some(pipe) = pipe else { return };
    let mut piece = Piece::take();
    let mut left = capacity(pipe);
    while left > 0
        && let Some(count) = read_now(pipe, &mut piece.0[..left.min(PIECE)])
    {
        take(&piece.0[..count]);
        left -= count;
    }
}

/// Bytes that a pipe can hold: whoever writes to it may have asked for more than usual.
fn capacity(pipe: &pipe::Receiver) -> usize {
    fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| size.try_into().ok()).unwrap_or(PIECE)
}

async fn read(from: &mut Option<pipe::Receiver>, piece: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(pipe) => pipe.read(piece).await,
        None => std::future::pending().await,
    }
}

/// What can be read at once, whatever the runtime knows of it yet.
fn read_now(pipe: &pipe::Receiver, piece: &mut [u8]) -> Option<usize> {
    loop {
        match nix::unistd::read(pipe.as_fd(), piece) {
            Ok(0) => return None,
            Ok(count) => return Some(count),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Gives the process its input, and then its end. One that does not want it all is no failure.
async fn feed(mut stdin: pipe::Sender, input: Option<Vec<u8>>, body: &mut Body<'_>) -> Result<(), BodyError> {
    if let Some(input) = input {
        let _ = stdin.write_all(&input).await;
        return Ok(());
    }
    while let Some(piece) = body.next().await? {
        if stdin.write_all(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Headers and body as JSON: the form that `marshal_request` has always had.
fn marshal(request: &RequestHead<'_, '_>, body: &[u8]) -> Vec<u8> {
    let mut headers = serde_json::Map::new();
    for header in request.headers {
        let value = String::from_utf8_lossy(header.value).into_owned();
        let all = headers
            .entry(cgi::canonical(header.name))
            .or_insert_with(|| serde_json::Value::Array(Vec::new()));
        if let serde_json::Value::Array(all) = all {
            all.push(value.into());
        }
    }
    let request = serde_json::json!({ "header": headers, "body": { "raw": STANDARD.encode(body) } });
    request.to_string().into_bytes()
}
