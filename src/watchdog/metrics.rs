//! Counts of requests, for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use http1::method;

/// The upper ends of the histogram's buckets, in seconds: those that Prometheus's own clients have.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// What a request is counted as whose client has left before there was an answer: nginx's word for it.
const CLIENT_GONE: u16 = 499;

/// Requests by method and status.
#[derive(Debug, Default)]
pub(super) struct Metrics(BTreeMap<(&'static str, u16), Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

impl Metrics {
    /// Counts a request, by the status of its answer; 0 if there was none.
    pub(super) fn finished(&mut self, method: &str, status: u16, took: Duration) {
        let status = if status == 0 { CLIENT_GONE } else { status };
        let counts = self.0.entry((method::label(method), status)).or_default();
        let seconds = took.as_secs_f64();
        for (bucket, end) in counts.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= end);
        }
        counts.count += 1;
        counts.seconds += seconds;
    }

    /// As Prometheus reads it.
    pub(super) fn text(&self, in_flight: usize) -> String {
        let mut out = String::new();
        self.write(&mut out, in_flight).expect("a string takes all text");
        out
    }

    fn write(&self, out: &mut String, in_flight: usize) -> std::fmt::Result {
        let name = "http_requests_total";
        writeln!(out, "# HELP {name} Requests that were answered.\n# TYPE {name} counter")?;
        for ((method, code), counts) in &self.0 {
            writeln!(out, "{name}{{code=\"{code}\",method=\"{method}\"}} {}", counts.count)?;
        }
        let name = "http_request_duration_seconds";
        writeln!(out, "# HELP {name} Time from head to end of the answer.\n# TYPE {name} histogram")?;
        for ((method, code), counts) in &self.0 {
            let labels = format!("code=\"{code}\",method=\"{method}\"");
            for (bucket, end) in counts.buckets.iter().zip(BUCKETS) {
                writeln!(out, "{name}_bucket{{{labels},le=\"{end}\"}} {bucket}")?;
            }
            writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", counts.count)?;
            writeln!(out, "{name}_sum{{{labels}}} {}", counts.seconds)?;
            writeln!(out, "{name}_count{{{labels}}} {}", counts.count)?;
        }
        let name = "http_requests_in_flight";
        writeln!(out, "# HELP {name} Requests that are being answered.\n# TYPE {name} gauge")?;
        writeln!(out, "{name} {in_flight}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_method_status_and_time() {
        let mut metrics = Metrics::default();
        metrics.finished("GET", 200, Duration::from_millis(7));
        metrics.finished("GET", 200, Duration::from_secs(20));
        metrics.finished("BREW", 500, Duration::ZERO);
        metrics.finished("GET", 0, Duration::ZERO);
        let text = metrics.text(3);
        for line in [
            "http_requests_total{code=\"200\",method=\"GET\"} 2",
            "http_requests_total{code=\"500\",method=\"other\"} 1",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"GET\",le=\"0.005\"} 0",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"GET\",le=\"0.01\"} 1",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"GET\",le=\"10\"} 1",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"GET\",le=\"+Inf\"} 2",
            "http_request_duration_seconds_sum{code=\"200\",method=\"GET\"} 20.007",
            "http_requests_total{code=\"499\",method=\"GET\"} 1",
            "http_requests_in_flight 3",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
