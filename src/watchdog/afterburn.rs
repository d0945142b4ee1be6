//! `afterburn`: one process, which reads requests from its stdin and writes answers to its stdout, one after the
//! other, as HTTP/1.1 with a `Content-Length`. What takes long to start, as a JVM does, starts once.
//!
//! Nothing in an answer says which request it is of, so it must not be possible that bytes are left over: what one
//! caller has caused would be read as a part of the next one's request or answer. The process is held to an order,
//! and ended when it does not keep to it:
//!
//! ```text
//! before a request       nothing is on its stdout, and nothing is left on its stdin
//! the request            all of it but the last byte is read before there is a byte on stdout: nobody can answer a
//!                        request that has not ended, so what comes before is of an earlier one, and whoever reads
//!                        on has written all of the last answer
//! its body               is there when the head was read, not before: a process that reads ahead would have it, too,
//!                        whether it wants it or not, and take it for its next request
//! its last byte          is there once the pipe of stdout holds a plug, which is removed when that byte was read: a
//!                        process that answers earlier blocks on the write, and is ended after `exec_timeout`
//! after the answer       nothing more is on stdout, and nothing is left on stdin
//! ```

use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use super::call::Call;
use super::child::{Child, Ending};
use super::failure::Failure;
use super::plug::Plug;
use super::process::from_process;
use super::settings::FOREVER;
use super::shared::Shared;
use super::spool::Spooled;
use super::stdin::Stdin;
use super::upstream::{self, Incoming, returned};
use http1::{RequestHead, ResponseHead, slots};

const GONE: &str = "the process was ended, after a request that it did not answer as it should";
const UNASKED: &str = "the process wrote to its stdout before it had read the request: print to stderr, and give as \
                       Content-Length the bytes of an answer, not its characters; the process is ended";
const LONGER: &str = "the process wrote more than an answer: print to stderr, not to stdout, and give as \
                      Content-Length the bytes of an answer, not its characters; the process is ended";
const UNREAD: &str = "the process wrote to its stdout before it had read the body of the request: read as many bytes as \
                      its Content-Length says, also when they are not needed, and print to stderr; the process is \
                      ended";

const UNREAD_IN_TIME: &str = "the process did not read the request to its end within exec_timeout: read as many bytes of \
                              the body as its Content-Length says, also when they are not needed, before there is an \
                              answer; the process is ended";

/// The process and its two pipes.
#[derive(Debug)]
pub(super) struct Afterburn {
    child: Child,
    /// Held by the request that is being answered. Nothing is left when one went wrong: what the process would
    /// answer next could not be told apart any more.
    pipes: Mutex<Option<Pipes>>,
}

#[derive(Debug)]
struct Pipes {
    stdin: Stdin,
    stdout: Incoming<pipe::Receiver>,
}

/// The process, at a request. Dropped before that was answered whole, it ends the process: also when the request is
/// given up elsewhere, in the middle of it.
struct Turn<'a> {
    pipes: MutexGuard<'a, Option<Pipes>>,
    child: &'a Child,
    answered: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pipes.take();
            self.child.leave();
        }
    }
}

impl Afterburn {
    pub(super) fn start(shared: &Arc<Shared>, ended: Ending) -> Result<Self, String> {
        let mut pipes = None;
        let child = Child::start(shared, ended, |given| {
            let (stdin, theirs) = Stdin::new()?;
            given.stdin = Some(theirs);
            let (stdout, theirs) = from_process()?;
            given.stdout = Some(theirs);
            pipes = Some(Pipes { stdin, stdout: Incoming::new(stdout) });
            Ok(())
        })?;
        Ok(Self { child, pipes: Mutex::new(pipes) })
    }

    pub(super) async fn serve(&self, call: Call<'_, '_>) -> Result<(), Failure> {
        let Call { request, body, answer, shared, .. } = call;
        // Read whole first: a client that is slow holds up nobody else.
        let whole = shared.spool.read(body).await?;
        // One limit covers the wait behind other requests and the answer.
        let deadline = Instant::now() + shared.settings.exec_timeout.unwrap_or(FOREVER);
        let late = |_| Failure::late("the process did not answer within exec_timeout");
        let pipes = timeout_at(deadline, self.pipes.lock()).await.map_err(late)?;
        let mut turn = Turn { pipes, child: &self.child, answered: false };
        let pipes = turn.pipes.as_mut().ok_or_else(|| Failure::Upstream(GONE.into()))?;
        let read = timeout_at(deadline, pipes.hand_over(request, whole)).await;
        read.map_err(|_| Failure::late(UNREAD_IN_TIME))??;
        let (head, content) = timeout_at(deadline, pipes.answer()).await.map_err(late)??;
        // The next request need not wait for this client.
        turn.answered = true;
        drop(turn);
        let mut slots = slots();
        let Ok(Some((head, _))) = ResponseHead::parse(&head, &mut slots, false) else {
            return Err(Failure::Upstream("the process's answer cannot be read".into()));
        };
        let took = answer.took();
        let mut headers: Vec<(&str, &[u8])> =
            returned(&head).map(|header| (header.name, header.value)).collect();
        headers.push(("X-Duration-Seconds", took.as_bytes()));
        answer.whole(head.code, head.reason, &headers, &content).await.map_err(Failure::Client)
    }

    /// Whether a request would be answered now, perhaps after others.
    pub(super) fn is_ready(&self) -> bool {
        self.pipes.try_lock().map_or(true, |pipes| pipes.is_some())
    }

    pub(super) async fn stop(&self) {
        self.child.stop().await;
    }
}

impl Pipes {
    /// Writes a request, and returns when the process has read all of it.
    async fn hand_over(
        &mut self,
        request: &RequestHead<'_, '_>,
        mut body: Spooled<'_>,
    ) -> Result<(), Failure> {
        // Some processes leave the body out of an answer to HEAD and others do not, but all send its length,
        // so the end of such an answer is unknown. The end of an answer to GET is known, and the body is left
        // out here.
        let method = if request.method == "HEAD" { "GET" } else { request.method };
        let mut head = Vec::new();
        upstream::write_head(method, request, "", &mut head);
        upstream::push(&mut head, "Content-Length", body.length().to_string().as_bytes());
        head.extend_from_slice(b"\r\n");
        if !self.stdout.is_silent() {
            return Err(self.unasked(UNASKED).await);
        }
        let mut left = body.length();
        let (mut last, mistake) = if left == 0 { (head.pop(), UNASKED) } else { (None, UNREAD) };
        self.give(&head, UNASKED, mistake).await?;
        while let Some(mut piece) = body.next().await? {
            left -= piece.len() as u64;
            if left == 0
                && let Some((byte, rest)) = piece.split_last()
            {
                (last, piece) = (Some(*byte), rest);
            }
            self.give(piece, UNREAD, UNREAD).await?;
        }
        let Some(plug) = Plug::put(self.stdout.from()).map_err(unplugged)? else {
            return Err(self.unasked(mistake).await);
        };
        self.stdin.write(last.as_slice()).await.map_err(closed)?;
        self.stdin.taken().await.map_err(closed)?;
        plug.take(self.stdout.from()).map_err(unplugged)
    }

    /// Reads an answer: the bytes of its head, and its body.
    async fn answer(&mut self) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let Self { stdin, stdout } = self;
        let head = stdout.head(false).await?;
        let head = head.ok_or_else(|| Failure::Upstream("the process closed its output".into()))?;
        let content = stdout.whole().await?;
        if stdin.unread().map_err(closed)? > 0 {
            return Err(Failure::Upstream(UNREAD.into()));
        }
        if !stdout.is_silent() {
            return Err(Failure::Upstream(LONGER.into()));
        }
        Ok((head, content))
    }

    /// Writes a part of a request that is not its end, and returns when it was read. The process has nothing to say
    /// before it has read the rest; if it does, `before` is what that means while it has not read this part, and `after`
    /// when it has.
    async fn give(&mut self, part: &[u8], before: &str, after: &str) -> Result<(), Failure> {
        let Self { stdin, stdout } = self;
        let taken = async {
            stdin.write(part).await?;
            stdin.taken().await
        };
        let taken = tokio::select! {
            biased;
            () = stdout.something() => None,
            taken = taken => Some(taken),
        };
        match taken {
            Some(Err(error)) => Err(closed(error)),
            // What it wrote before it read on is in the pipe by now, seen by this thread or not.
            Some(Ok(())) if stdout.is_silent() => Ok(()),
            _ => {
                let has_read = self.stdin.unread().is_ok_and(|count| count == 0);
                Err(self.unasked(if has_read { after } else { before }).await)
            }
        }
    }

    /// Says what is on stdout while nothing should be: the end of it, or something that `mistake` explains.
    async fn unasked(&mut self, mistake: &str) -> Failure {
        self.stdout.something().await;
        let text = if self.stdout.is_clean() { "the process closed its output" } else { mistake };
        Failure::Upstream(text.into())
    }
}

fn unplugged(error: std::io::Error) -> Failure {
    Failure::Upstream(format!("the process's stdout cannot be blocked while it reads the request: {error}"))
}

fn closed(_: std::io::Error) -> Failure {
    Failure::Upstream("the process closed its input".into())
}
