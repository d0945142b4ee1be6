//! What is counted and known of functions that are called by a schedule.

use jiff::Timestamp;

use super::exposition::{Kind, Text};
use calls::triggers::cron::{Cron, TimerStatus};

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
    let mut times = |name: &str, help, time: fn(&TimerStatus) -> Option<Timestamp>| {
        text.family(name, Kind::Gauge, help);
        for (timer, time) in timers.iter().filter_map(|timer| Some((timer, time(timer)?))) {
            text.sample(name, &[("function_name", &*timer.label)], time.as_second());
        }
    };
    times(
        "ingle_cron_next_run_timestamp_seconds",
        "When a function is called next by its schedule.",
        |timer| timer.next,
    );
    times(
        "ingle_cron_last_run_timestamp_seconds",
        "When a run of a function was accepted last, by its schedule or by hand.",
        |timer| timer.last.as_ref().map(|last| last.at),
    );
}
