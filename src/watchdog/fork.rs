//! A process for each request: the body on its stdin, its stdout for an answer.

use std::io::{self, Write as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Sender;
use tokio::time::{Instant, sleep, timeout};

use super::answer::Answer;
use super::body::Body;
use super::call::Call;
use super::cgi;
use super::child::Ending;
use super::failure::Failure;
use super::log::Lines;
use super::process::{End, Process};
use super::settings::{Mode, Settings};
use super::shared::Shared;
use super::source::{Piece, Source};
use super::spawn::{Given, Program};
use super::spool::Spooled;
use http1::RequestHead;

/// Bytes that an empty pipe takes at once, however little its user may have: a page.
const SMALL: usize = 4096;
/// How long nobody looks at what a process writes. Small commands have ended by then, and are answered at once, with a
/// length; of the others everything is passed on as it comes. Nobody who watches it come notices the difference.
const PATIENCE: Duration = Duration::from_millis(5);
/// How long a process may take to be gone after SIGKILL. One that the kernel cannot end is waited for by nobody.
const KILL: Duration = Duration::from_secs(1);

/// The modes that fork.
#[derive(Debug)]
pub(super) struct Fork {
    mode: Mode,
    program: Arc<Program>,
    /// Nothing ends with a process here.
    _ended: Ending,
}

impl Fork {
    pub(super) fn new(settings: &Settings, ended: Ending) -> Result<Self, String> {
        let program = Program::new(&settings.command).map_err(|error| settings.cannot_start(&error))?;
        Ok(Self { mode: settings.mode, program, _ended: ended })
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
        let Call { request, body, answer, shared, alarm, .. } = call;
        // What is not passed on as it comes is read whole first, so that nothing is started in vain.
        let streams = self.mode == Mode::Streaming;
        let whole = if streams { None } else { Some(shared.spool.read(body).await?) };
        shared.log.say("Forking fprocess.");
        let marshalled = (!streams && settings.marshal_request).then(|| marshalled_head(request));
        let input = match &whole {
            Some(_) if marshalled.is_some() => None,
            Some(whole) => whole.small(SMALL),
            None => body.arrived(SMALL),
        };
        let (mut process, mut pipes) = self.start(request, input, shared)?;
        let mut output = Output { answer, held: Vec::new(), streams, content_type };
        let stdin = pipes.stdin.take();
        let input = match whole {
            None => Input::Streamed(body),
            Some(whole) => Input::Whole(whole, marshalled),
        };
        let feeding = stdin.map(|stdin| feed(stdin, input));
        let mut lines = Lines::new(settings.log_buffer_size);
        let say = |line: &[u8]| shared.log.line("stderr", line, &suffix);
        let errors = |bytes: &[u8]| lines.take(bytes, say);
        let carried = {
            let carrying = pin!(carry(&mut process, feeding, &mut pipes, &mut output, errors));
            match settings.exec_timeout {
                Some(limit) => alarm.within(Instant::now() + limit, carrying).await,
                None => Some(carrying.await),
            }
        };
        if !matches!(carried, Some(Ok(_))) {
            process.kill();
            let _ = timeout(KILL, process.wait()).await;
        }
        // What it said last is what people look for.
        let (mut piece, mut left) = (Piece::take(), pipes.stderr.left());
        while let Some(count) = left.next(&mut piece) {
            lines.take(piece.first(count), say);
        }
        lines.end(say);
        let end = carried.ok_or_else(|| self.timed_out())??;
        if !end.is_success() {
            if output.answer.has_begun() {
                // It will be cut off, but not before what was written last.
                let held = std::mem::take(&mut output.held);
                output.pass(&held).await?;
            } else if settings.write_debug && !output.held.is_empty() {
                shared.log.line("stdout", &output.held, "");
            }
            // The first watchdog appends the output: the reason is in it, and nothing else shows it.
            let output = if self.mode == Mode::Classic { output.held } else { Vec::new() };
            return Err(Failure::Ended(end.to_string(), output));
        }
        output.end().await.map_err(Failure::Client)?;
        shared.log.say(&format!("Wrote {} Bytes - Duration: {}s", answer.sent, answer.took()));
        Ok(())
    }

    fn timed_out(&self) -> Failure {
        match self.mode {
            Mode::Classic => {
                Failure::Timeout { text: "Killed process.", status: StatusCode::REQUEST_TIMEOUT }
            }
            _ => Failure::late("the process was killed: it did not end within exec_timeout"),
        }
    }

    /// Starts the process, and gives it all of its `input`, if that is known and small.
    fn start(
        &self,
        request: &RequestHead<'_, '_>,
        input: Option<&[u8]>,
        shared: &Shared,
    ) -> Result<(Process, Pipes), Failure> {
        let settings = &shared.settings;
        let variables = if settings.cgi_headers { cgi::variables(request) } else { Vec::new() };
        let (theirs, mut stdin) = io::pipe().map_err(Failure::Start)?;
        // Before it starts: it need not wait for it, and nobody needs to be told when it can take more.
        let rest = match input {
            Some(input) => {
                stdin.write_all(input).map_err(Failure::Start)?;
                None
            }
            None => Some(Sender::from_owned_fd(stdin.into()).map_err(Failure::Start)?),
        };
        let mut given = Given { variables, stdin: Some(theirs.into()), ..Given::default() };
        let (stdout, theirs) = Source::new().map_err(Failure::Start)?;
        let stderr = if self.mode == Mode::Classic && settings.combine_output {
            // One pipe for both, so that what is written stays in its order.
            given.stderr = Some(theirs.try_clone().map_err(Failure::Start)?);
            Source::Closed
        } else if settings.prefix_logs || settings.log_call_id {
            let (stderr, theirs) = Source::new().map_err(Failure::Start)?;
            given.stderr = Some(theirs);
            stderr
        } else {
            // As it is: there is nothing to add.
            Source::Closed
        };
        given.stdout = Some(theirs);
        let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let process = Process::start(&self.program, &given);
        let process = process.map_err(|error| Failure::start(error, &given, too_large))?;
        Ok((process, Pipes { stdin: rest, stdout, stderr }))
    }
}

/// Our ends of a process's pipes.
struct Pipes {
    /// None when it has got all.
    stdin: Option<Sender>,
    stdout: Source,
    stderr: Source,
}

/// What a process writes, on its way to the client.
struct Output<'o, 'a> {
    answer: &'o mut Answer<'a>,
    /// What was not passed on yet.
    held: Vec<u8>,
    /// Everything is passed on as it comes, and not only when the process has ended.
    streams: bool,
    content_type: &'o [u8],
}

impl Output<'_, '_> {
    /// Passes on what is held, and `data`.
    async fn pass(&mut self, data: &[u8]) -> Result<(), Failure> {
        if !self.streams {
            self.held.extend_from_slice(data);
            return Ok(());
        }
        if !self.answer.has_begun() {
            self.answer.begin(200, "OK", None, &[("Content-Type", self.content_type)]);
        }
        let sent = self.answer.data(data).await;
        // A person may be watching it come.
        let sent = if sent.is_ok() { self.answer.flush().await } else { sent };
        sent.map_err(Failure::Client)
    }

    /// Ends the answer of a process that has ended well.
    async fn end(&mut self) -> io::Result<()> {
        if !self.answer.has_begun() {
            let took = self.answer.took();
            let headers = [("Content-Type", self.content_type), ("X-Duration-Seconds", took.as_bytes())];
            let headers = if self.streams { &headers[..1] } else { &headers };
            self.answer.begin(200, "OK", Some(self.held.len() as u64), headers);
        }
        self.answer.data(&self.held).await?;
        self.answer.end().await
    }
}

/// Carries bytes both ways until the process ends: `feeding` to it, what comes out to `output` and `errors`. What is
/// left in the pipe of its errors stays there.
async fn carry(
    process: &mut Process,
    feeding: Option<impl Future<Output = Result<(), Failure>>>,
    pipes: &mut Pipes,
    output: &mut Output<'_, '_>,
    mut errors: impl FnMut(&[u8]),
) -> Result<End, Failure> {
    let (mut piece, mut error_piece) = (Piece::take(), Piece::take());
    let mut fed = feeding.is_none();
    let mut feeding = pin!(async {
        match feeding {
            Some(feeding) => feeding.await,
            None => Ok(()),
        }
    });
    let mut waiting = pin!(sleep(PATIENCE));
    let mut patient = true;
    let end = loop {
        tokio::select! {
            biased;
            // First: one that it leaves behind may always have something to say.
            end = process.wait() => break end,
            () = &mut waiting, if patient => patient = false,
            read = pipes.stdout.read(&mut piece), if !patient && pipes.stdout.is_open() => {
                match read.map_err(Failure::Start)? {
                    0 => {}
                    count => output.pass(piece.first(count)).await?,
                }
            }
            read = pipes.stderr.read(&mut error_piece), if !patient && pipes.stderr.is_open() => {
                errors(error_piece.first(read.map_err(Failure::Start)?));
            }
            done = &mut feeding, if !fed => {
                fed = true;
                done?;
            }
        }
    };
    // What it wrote before it ended is in the pipe.
    let mut left = pipes.stdout.left();
    while let Some(count) = left.next(&mut piece) {
        output.held.extend_from_slice(piece.first(count));
    }
    Ok(end)
}

/// The stdin of a process.
enum Input<'i, 'a, 's> {
    /// The body, as it arrives.
    Streamed(&'i mut Body<'a>),
    /// The buffered body. With a prefix, the body is sent in base64, after the prefix and before [`MARSHALLED_END`].
    Whole(Spooled<'s>, Option<Vec<u8>>),
}

/// Gives the process its input, and then its end. One that does not want it all is no failure.
async fn feed(mut stdin: Sender, input: Input<'_, '_, '_>) -> Result<(), Failure> {
    // An error means that the process no longer reads its stdin.
    match input {
        Input::Streamed(body) => {
            while let Some(piece) = body.next().await? {
                if stdin.write_all(piece).await.is_err() {
                    break;
                }
            }
        }
        Input::Whole(mut whole, None) => {
            while let Some(piece) = whole.next().await? {
                if stdin.write_all(piece).await.is_err() {
                    break;
                }
            }
        }
        Input::Whole(mut whole, Some(mut text)) => {
            while let Some(piece) = whole.next().await? {
                text.extend_from_slice(STANDARD.encode(piece).as_bytes());
                if stdin.write_all(&text).await.is_err() {
                    return Ok(());
                }
                text.clear();
            }
            text.extend_from_slice(MARSHALLED_END);
            let _ = stdin.write_all(&text).await;
        }
    }
    Ok(())
}

/// The end of [`marshalled_head`], after the body.
const MARSHALLED_END: &[u8] = b"\"}}";

/// Returns the headers as JSON, up to the body, in the form of `marshal_request`.
fn marshalled_head(request: &RequestHead<'_, '_>) -> Vec<u8> {
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
    format!("{{\"header\":{},\"body\":{{\"raw\":\"", serde_json::Value::Object(headers)).into_bytes()
}
