//! A client that follows: a bounded queue between the reader and one slow or fast connection.
//!
//! Invariant: putting a line in never waits. A client that does not keep up misses lines, and is told
//! how many in the place where they are missing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use model::sync::lock;
use model::wire::LogLine;

/// Bytes that may wait for one client.
const QUEUE: usize = 256 * 1024;
/// What a waiting line costs on top of its text.
const OVERHEAD: usize = 256;

/// What comes out of a queue.
#[derive(Debug)]
pub(super) enum Followed {
    /// A line.
    Line(Arc<LogLine>),
    /// The client was too slow for this many lines.
    Skipped(u64),
}

/// The queue of one client.
#[derive(Debug, Default)]
pub(super) struct Follower {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Arc<LogLine>>,
    bytes: usize,
    skipped: u64,
    ended: bool,
}

impl Follower {
    /// Puts a line in, or counts it as skipped. The line is only made when there is room.
    pub(super) fn put(&self, text: usize, line: impl FnOnce() -> Arc<LogLine>) {
        let mut queue = lock(&self.queue);
        // Once a line was skipped, what is queued goes out first: order is kept.
        // One line always fits, so that every gap follows a line that wakes the client.
        if queue.skipped > 0 || (!queue.lines.is_empty() && queue.bytes + text + OVERHEAD > QUEUE) {
            queue.skipped += 1;
            return;
        }
        queue.bytes += text + OVERHEAD;
        queue.lines.push_back(line());
        drop(queue);
        self.changed.notify_one();
    }

    /// There will be no more lines.
    pub(super) fn end(&self) {
        lock(&self.queue).ended = true;
        self.changed.notify_one();
    }

    /// The next line; waits for it. `None` at the end.
    pub(super) async fn next(&self) -> Option<Followed> {
        loop {
            if let Some(followed) = self.take()? {
                return Some(followed);
            }
            self.changed.notified().await;
        }
    }

    /// What there is now; the outer `None` at the end.
    #[expect(clippy::option_option, reason = "nothing now is not nothing ever")]
    fn take(&self) -> Option<Option<Followed>> {
        let mut queue = lock(&self.queue);
        if let Some(line) = queue.lines.pop_front() {
            queue.bytes -= line.text.len() + OVERHEAD;
            return Some(Some(Followed::Line(line)));
        }
        // An idle queue holds no memory.
        queue.lines = VecDeque::new();
        match std::mem::take(&mut queue.skipped) {
            0 if queue.ended => None,
            0 => Some(None),
            skipped => Some(Some(Followed::Skipped(skipped))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(follower: &Follower, text: &str) {
        follower.put(text.len(), || {
            let text = text.to_owned();
            Arc::new(LogLine { text, ..LogLine::default() })
        });
    }

    async fn texts(follower: &Follower, n: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..n {
            match follower.next().await {
                Some(Followed::Line(line)) => texts.push(line.text.clone()),
                Some(Followed::Skipped(n)) => texts.push(format!("skipped {n}")),
                None => texts.push("end".to_owned()),
            }
        }
        texts
    }

    #[tokio::test]
    async fn a_slow_client_is_told_how_much_it_missed_and_where() {
        let follower = Follower::default();
        let half = "x".repeat(QUEUE / 2 - OVERHEAD);
        for text in [half.as_str(), &half, "missed", "missed"] {
            put(&follower, text);
        }
        assert_eq!(texts(&follower, 2).await, [half.as_str(), &half]);
        // There is room again, but what was missed comes first.
        put(&follower, "missed");
        assert_eq!(texts(&follower, 1).await, ["skipped 3"]);
        put(&follower, "new");
        follower.end();
        assert_eq!(texts(&follower, 2).await, ["new", "end"]);
    }

    #[tokio::test]
    async fn a_line_that_is_larger_than_the_queue_comes_too() {
        let follower = Follower::default();
        let large = "x".repeat(2 * QUEUE);
        put(&follower, &large);
        put(&follower, "missed");
        assert_eq!(texts(&follower, 2).await, [large.as_str(), "skipped 1"]);
    }

    #[tokio::test]
    async fn a_waiting_client_is_woken() {
        let follower = Arc::new(Follower::default());
        let waiting = tokio::spawn({
            let follower = follower.clone();
            async move { texts(&follower, 2).await }
        });
        tokio::task::yield_now().await;
        put(&follower, "one");
        follower.end();
        assert_eq!(waiting.await.expect("no panic"), ["one", "end"]);
    }
}
