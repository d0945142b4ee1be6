//! What is counted and known of calls that are made later.

use super::exposition::Kind::{Counter, Gauge};
use super::exposition::Text;
use calls::queue::{Counts, Queue};
use model::function::CALLBACKS;

/// Writes the families of the queue.
pub(super) fn write(text: &mut Text, queue: &Queue) {
    let (summary, queues) = (queue.summary(), queue.queues());
    let calls = queues.iter().filter(|queue| *queue.name != *CALLBACKS);
    let pending: usize = calls.map(|queue| queue.counts.ready + queue.counts.waiting).sum();
    text.one("queue_worker_messages_submitted_total", Counter, "Calls that were queued.", summary.accepted);
    text.one(
        "queue_worker_messages_processed_total",
        Counter,
        "Queued calls that ended: answered, given up, or cancelled.",
        summary.made + summary.given_up + summary.cancelled,
    );
    text.one("queue_worker_pending_messages", Gauge, "Queued calls that are not being made.", pending);
    text.one(
        "ingle_queue_retries_total",
        Counter,
        "Tries of queued calls and of callbacks that failed, and were followed by another.",
        summary.retried,
    );
    text.one("ingle_queue_given_up_total", Counter, "Queued calls that were given up.", summary.given_up);
    text.one(
        "ingle_queue_callbacks_total",
        Counter,
        "Callbacks that their receivers have taken.",
        summary.told,
    );
    text.one(
        "ingle_queue_callbacks_given_up_total",
        Counter,
        "Callbacks that were given up.",
        summary.untold,
    );
    text.one(
        "ingle_queue_dead_calls",
        Gauge,
        "Calls and callbacks that were given up and are kept.",
        queue.dead_count(),
    );
    text.one(
        "ingle_queue_dead_bytes",
        Gauge,
        "Bytes that those send that were given up and are kept.",
        queue.dead_size(),
    );
    text.one(
        "ingle_queue_oldest_call_seconds",
        Gauge,
        "Age of the queued call that was queued first.",
        queue.oldest().as_secs_f64(),
    );
    text.family("ingle_queue_calls", Gauge, "Queued calls, by queue and by what they wait for.");
    for queue in &queues {
        let Counts { ready, waiting, running } = queue.counts;
        for (state, count) in [("ready", ready), ("waiting", waiting), ("running", running)] {
            text.sample("ingle_queue_calls", &[("queue_name", &*queue.name), ("state", state)], count);
        }
    }
    text.family("ingle_queue_paused", Gauge, "Whether no call of a queue is made.");
    for queue in &queues {
        text.sample("ingle_queue_paused", &[("queue_name", &*queue.name)], u8::from(queue.paused));
    }
}
