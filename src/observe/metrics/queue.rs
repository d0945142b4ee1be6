//! What is counted and known of calls that are made later.

use super::exposition::{Kind, Text};
use calls::queue::{Counts, Queue};
use model::function::CALLBACKS;

/// Writes the families of the queue.
pub(super) fn write(text: &mut Text, queue: &Queue) {
    let (summary, queues) = (queue.summary(), queue.queues());
    let calls = queues.iter().filter(|queue| *queue.name != *CALLBACKS);
    let pending: usize = calls.map(|queue| queue.counts.ready + queue.counts.waiting).sum();
    let mut one = |name: &str, kind, help, value: f64| {
        text.family(name, kind, help);
        text.sample(name, &[], value);
    };
    one(
        "queue_worker_messages_submitted_total",
        Kind::Counter,
        "Calls that were queued.",
        summary.accepted as f64,
    );
    one(
        "queue_worker_messages_processed_total",
        Kind::Counter,
        "Queued calls that ended: answered, given up, or cancelled.",
        (summary.made + summary.given_up + summary.cancelled) as f64,
    );
    one(
        "queue_worker_pending_messages",
        Kind::Gauge,
        "Queued calls that are not being made.",
        pending as f64,
    );
    one(
        "ingle_queue_retries_total",
        Kind::Counter,
        "Tries of queued calls and of callbacks that failed, and were followed by another.",
        summary.retried as f64,
    );
    one(
        "ingle_queue_given_up_total",
        Kind::Counter,
        "Queued calls that were given up.",
        summary.given_up as f64,
    );
    one(
        "ingle_queue_callbacks_total",
        Kind::Counter,
        "Callbacks that their receivers have taken.",
        summary.told as f64,
    );
    one(
        "ingle_queue_callbacks_given_up_total",
        Kind::Counter,
        "Callbacks that were given up.",
        summary.untold as f64,
    );
    one(
        "ingle_queue_dead_calls",
        Kind::Gauge,
        "Calls and callbacks that were given up and are kept.",
        queue.dead_count() as f64,
    );
    one(
        "ingle_queue_dead_bytes",
        Kind::Gauge,
        "Bytes that those send that were given up and are kept.",
        queue.dead_size() as f64,
    );
    one(
        "ingle_queue_oldest_call_seconds",
        Kind::Gauge,
        "Age of the queued call that was queued first.",
        queue.oldest().as_secs_f64(),
    );
    text.family("ingle_queue_calls", Kind::Gauge, "Queued calls, by queue and by what they wait for.");
    for queue in &queues {
        let Counts { ready, waiting, running } = queue.counts;
        for (state, count) in [("ready", ready), ("waiting", waiting), ("running", running)] {
            text.sample("ingle_queue_calls", &[("queue_name", &*queue.name), ("state", state)], count);
        }
    }
    text.family("ingle_queue_paused", Kind::Gauge, "Whether no call of a queue is made.");
    for queue in &queues {
        text.sample("ingle_queue_paused", &[("queue_name", &*queue.name)], u8::from(queue.paused));
    }
}
