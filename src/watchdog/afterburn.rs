//! `afterburn`: one process, which reads requests from its stdin and writes answers to its stdout, one after the
//! other, as HTTP/1.1 with a `Content-Length`. What takes long to start, as a JVM does, starts once.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use super::call::Call;
use super::companion::Companion;
use super::mode::Failure;
use super::process::{from_process, to_process};
use super::server::Shared;
use super::upstream::{self, Incoming, returned};
use http1::{RequestHead, ResponseHead, slots};

/// The process and its two pipes.
#[derive(Debug)]
pub(super) struct Afterburn {
    companion: Companion,
    /// Held by the request that is being answered. Nothing is left when one went wrong: what the process would
    /// answer next could not be told apart any more.
    pipes: Mutex<Option<Pipes>>,
}

#[derive(Debug)]
struct Pipes {
    stdin: pipe::Sender,
    stdout: Incoming<pipe::Receiver>,
}

impl Afterburn {
    pub(super) fn start(shared: &Arc<Shared>, ended: oneshot::Sender<String>) -> Result<Self, String> {
        let mut pipes = None;
        let companion = Companion::start(shared, ended, |given| {
            let (stdin, theirs) = to_process()?;
            given.stdin = Some(theirs);
            let (stdout, theirs) = from_process()?;
            given.stdout = Some(theirs);
            pipes = Some(Pipes { stdin, stdout: Incoming::new(stdout) });
            Ok(())
        })?;
        Ok(Self { companion, pipes: Mutex::new(pipes) })
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let Call { request, body, answer, shared, .. } = call;
        // Read whole first: a client that is slow holds up nobody else.
        let whole = body.whole().await?;
        let late = |_| Failure::Timeout {
            text: "the process did not answer within exec_timeout",
            status: StatusCode::GATEWAY_TIMEOUT,
        };
        let limit = shared.settings.exec_timeout.unwrap_or(Duration::MAX);
        let mut held = timeout(limit, self.pipes.lock()).await.map_err(late)?;
        let gone =
            || Failure::Upstream("the process was ended, after a request that it did not answer".into());
        let mut pipes = held.take().ok_or_else(gone)?;
        let asked = async { ask(&mut pipes, request, &whole).await };
        let (head, content) = match timeout(limit, asked).await {
            Ok(Ok(answered)) => answered,
            failed => {
                // It is at a request that nobody waits for any more: a new process is the way out.
                self.companion.stop().await;
                return Err(match failed {
                    Ok(Err(failure)) => failure,
                    Ok(Ok(_)) => gone(),
                    Err(elapsed) => late(elapsed),
                });
            }
        };
        // The next request need not wait for this client.
        *held = Some(pipes);
        drop(held);
        let mut slots = slots();
        let Ok(Some((head, _))) = ResponseHead::parse(&head, &mut slots, false) else {
            return Err(Failure::Upstream("the process's answer cannot be read".into()));
        };
        let took = answer.took();
        let mut headers: Vec<(&str, &[u8])> =
            returned(&head).map(|header| (header.name, header.value)).collect();
        headers.push(("X-Duration-Seconds", took.as_bytes()));
        answer.begin(head.code, head.reason, Some(content.len() as u64), &headers);
        answer.data(&content).await.map_err(Failure::Client)?;
        answer.end().await.map_err(Failure::Client)
    }

    pub(super) async fn stop(&self) {
        self.companion.stop().await;
    }
}

/// Sends a request and reads its answer: the bytes of its head, and its body.
async fn ask(
    pipes: &mut Pipes,
    request: &RequestHead<'_, '_>,
    body: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let mut out = upstream::head(request, "");
    upstream::push(&mut out, "Content-Length", body.len().to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    let Pipes { stdin, stdout } = pipes;
    // Both at once: it may answer before it has read all.
    let sending = async {
        let _ = stdin.write_all(&out).await;
    };
    let answering = async {
        let head = stdout.head(false).await?;
        let head = head.ok_or_else(|| Failure::Upstream("the process closed its output".into()))?;
        Ok((head, stdout.whole().await?))
    };
    let ((), answered) = tokio::join!(sending, answering);
    answered
}
