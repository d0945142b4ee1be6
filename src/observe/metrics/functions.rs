//! What is counted and known of each function.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::exposition::{Kind, Text};
use directory::Entry;
use directory::{CodeCounts, OTHER, StatsSnapshot};
use host::logs::Logs;

/// A function with its counts, read once, so that all families tell of the same moment.
struct Reading<'a> {
    entry: &'a Entry,
    counts: StatsSnapshot,
}

/// Writes the families of all functions.
pub(super) fn write(text: &mut Text, entries: &[Arc<Entry>], logs: &Logs) {
    let readings: Vec<_> =
        entries.iter().map(|entry| Reading { entry, counts: entry.stats.snapshot() }).collect();

    text.family("gateway_function_invocation_total", Kind::Counter, "Calls that ended, by status code.");
    by_code(&readings, |labels, counts| {
        text.sample("gateway_function_invocation_total", labels, counts.count());
    });
    text.family("gateway_functions_seconds", Kind::Histogram, "How long calls took.");
    by_code(&readings, |labels, counts| text.histogram("gateway_functions_seconds", labels, counts));

    let mut family = |name: &str, kind, help, value: &dyn Fn(&Reading<'_>) -> u64| {
        text.family(name, kind, help);
        for reading in &readings {
            text.sample(name, &[("function_name", &*reading.entry.label)], value(reading));
        }
    };
    family("gateway_function_invocation_started", Kind::Counter, "Calls that began.", &|reading| {
        reading.counts.started
    });
    family(
        "gateway_invocation_function_invocation_inflight",
        Kind::Gauge,
        "Calls that began and have not ended.",
        &|reading| reading.entry.stats.in_flight(),
    );
    family("gateway_service_count", Kind::Gauge, "Replicas asked for.", &|reading| {
        reading.entry.peek().desired.into()
    });
    family("gateway_service_ready_count", Kind::Gauge, "Replicas that can serve.", &|reading| {
        reading.entry.peek().endpoints.len() as u64
    });
    family("gateway_service_min", Kind::Gauge, "Replicas at least.", &|reading| {
        reading.entry.peek().spec.scale.min.into()
    });
    family("ingle_calls_waiting", Kind::Gauge, "Calls that wait for a replica.", &|reading| {
        reading.entry.waiting.load(Relaxed) as u64
    });
    family(
        "ingle_replica_restarts",
        Kind::Gauge,
        "Starts of a replica after its first, since the last deploy.",
        &|reading| reading.entry.peek().restarts.into(),
    );
    family(
        "ingle_oom_kills_total",
        Kind::Counter,
        "Processes of replicas that the kernel killed because they ran out of memory.",
        &|reading| reading.entry.peek().oom_kills,
    );
    family(
        "ingle_output_lines_dropped_total",
        Kind::Counter,
        "Lines of output that were dropped because a replica exceeded its rate.",
        &|reading| logs.dropped(&reading.entry.key),
    );
}

fn by_code(readings: &[Reading<'_>], mut write: impl FnMut(&[(&str, &str)], &CodeCounts)) {
    for reading in readings {
        for (code, counts) in &reading.counts.codes {
            let code = if *code == OTHER { "other".to_owned() } else { code.to_string() };
            write(&[("function_name", &*reading.entry.label), ("code", &code)], counts);
        }
    }
}
