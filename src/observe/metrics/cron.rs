//! What is counted and known of functions that are called by a schedule.

use super::exposition::{Kind, Text};
use calls::triggers::cron::Cron;

/// Writes the families of timers.
pub(super) fn write(text: &mut Text, cron: &Cron) {
    let timers = cron.timers();
    text.family(
        "ingle_cron_runs_total",
        Kind::Counter,
        "Runs of functions by their schedules, by what became of them.",
    );
    for timer in &timers {
        let counts = timer.counts;
        for (outcome, count) in
            [("accepted", counts.accepted), ("skipped", counts.skipped), ("missed", counts.missed)]
        {
            let labels = [("function_name", &*timer.label), ("outcome", outcome)];
            text.sample("ingle_cron_runs_total", &labels, count);
        }
    }
    text.family(
        "ingle_cron_next_run_timestamp_seconds",
        Kind::Gauge,
        "When a function is called next by its schedule.",
    );
    for timer in &timers {
        if let Some(next) = timer.next {
            let labels = [("function_name", &*timer.label)];
            text.sample("ingle_cron_next_run_timestamp_seconds", &labels, next.as_second());
        }
    }
    text.family(
        "ingle_cron_last_run_timestamp_seconds",
        Kind::Gauge,
        "When a run of a function was accepted last, by its schedule or by hand.",
    );
    for timer in &timers {
        if let Some(last) = &timer.last {
            let labels = [("function_name", &*timer.label)];
            text.sample("ingle_cron_last_run_timestamp_seconds", &labels, last.at.as_second());
        }
    }
}
