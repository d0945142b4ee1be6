//! Which lines a client asks for, and the stream of them.
//!
//! Invariant: a stream reads from the disk only what its client has taken; a client that stops taking
//! costs a bounded queue and two open files.

use std::sync::Arc;
use std::vec;

use futures_util::{Stream, stream};
use tokio::task::spawn_blocking;

use super::follower::{Followed, Follower};
use super::history::{Filter, History};
use super::output::Output;
use super::record::{DAEMON, Time};
use model::sync::lock;
use model::wire::LogLine;

/// A question about a function's output.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// At most this many lines that are there already, the newest; all if `None`.
    pub tail: Option<usize>,
    /// Only lines from this moment on.
    pub since: Option<jiff::Timestamp>,
    /// Go on with lines as they are written.
    pub follow: bool,
    /// Only lines of this replica.
    pub instance: Option<String>,
}

/// The lines that `query` asks for. With `follow`, those from now on are collected at once, those
/// that are there already when the stream is first polled.
pub(super) fn lines(output: Arc<Output>, query: Query) -> impl Stream<Item = LogLine> + Send + use<> {
    let Query { tail, since, follow, instance } = query;
    let (until, follower) = if follow { output.follow() } else { (output.last_time(), None) };
    let refused = follow && follower.is_none();
    let filter = Filter { since: since.map(Time::of), until: None, instance };
    let answer = Answer {
        output,
        filter,
        follower,
        refused,
        step: Step::Start { tail, until },
        ready: Vec::new().into_iter(),
    };
    stream::unfold(answer, async |mut answer| Some((answer.next().await?, answer)))
}

/// A stream that is being answered.
#[derive(Debug)]
struct Answer {
    output: Arc<Output>,
    filter: Filter,
    follower: Option<Arc<Follower>>,
    /// The client wanted to follow and may not.
    refused: bool,
    step: Step,
    /// Lines that were read from the disk.
    ready: vec::IntoIter<LogLine>,
}

#[derive(Debug)]
enum Step {
    Start { tail: Option<usize>, until: Time },
    History(History),
    Follow,
}

impl Answer {
    async fn next(&mut self) -> Option<LogLine> {
        loop {
            if let Some(line) = self.ready.next() {
                return Some(line);
            }
            match std::mem::replace(&mut self.step, Step::Follow) {
                Step::Start { tail, until } => {
                    self.output.flush().await;
                    let output = self.output.clone();
                    let filter = Filter { until: Some((until, Time::latest())), ..self.filter.clone() };
                    let history = spawn_blocking(move || {
                        let segments = lock(output.files()).segments();
                        History::new(output.key().clone(), segments, filter, tail)
                    });
                    // It cannot panic; when the runtime ends, so does the stream.
                    self.step = Step::History(history.await.ok()?);
                }
                Step::History(mut history) => {
                    let (history, lines) = spawn_blocking(move || {
                        let lines = history.next();
                        (history, lines)
                    })
                    .await
                    .ok()?;
                    if let Some(lines) = lines {
                        self.ready = lines.into_iter();
                        self.step = Step::History(history);
                    }
                }
                Step::Follow => return self.followed().await,
            }
        }
    }

    async fn followed(&mut self) -> Option<LogLine> {
        if std::mem::take(&mut self.refused) {
            return Some(self.remark("[too many clients follow this function: try again later]".into()));
        }
        let follower = self.follower.clone()?;
        loop {
            let followed = tokio::select! {
                biased;
                followed = follower.next() => followed?,
                () = self.output.leaving().cancelled() => return None,
            };
            match followed {
                Followed::Skipped(lines) => {
                    return Some(
                        self.remark(format!("[lines skipped here: {lines}; this client is too slow]")),
                    );
                }
                Followed::Line(line) if self.wants(&line) => return Some(Arc::unwrap_or_clone(line)),
                Followed::Line(_) => {}
            }
        }
    }

    fn wants(&self, line: &LogLine) -> bool {
        let Filter { since, instance, .. } = &self.filter;
        since.as_ref().is_none_or(|since| line.timestamp.as_str() >= since.as_str())
            && instance.as_ref().is_none_or(|instance| line.instance == *instance)
    }

    fn remark(&self, text: String) -> LogLine {
        self.output.line(&self.output.last_time(), DAEMON, text)
    }
}
