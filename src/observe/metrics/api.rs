//! Counts of requests to the API.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use http::{Method, StatusCode};

use super::exposition::{Kind, Text};
use directory::{BOUNDS, CodeCounts};
use http1::method;
use model::sync::lock;

/// Requests to the API by code, method and path. Not for calls of functions: it takes a lock.
#[derive(Debug, Default)]
pub struct ApiStats {
    counts: Mutex<BTreeMap<Labels, CodeCounts>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    path: Box<str>,
    method: &'static str,
    code: u16,
}

impl ApiStats {
    /// A request has been answered. `path` is the route's pattern, never the path as sent.
    pub fn finished(&self, method: &Method, path: &str, status: StatusCode, time: Duration) {
        let labels =
            Labels { path: path.into(), method: method::label(method.as_str()), code: status.as_u16() };
        let bucket = BOUNDS.iter().position(|bound| time.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        let mut counts = lock(&self.counts);
        let counts = counts
            .entry(labels)
            .or_insert_with(|| CodeCounts { buckets: vec![0; BOUNDS.len() + 1], nanos: 0 });
        counts.buckets[bucket] += 1;
        counts.nanos += u64::try_from(time.as_nanos()).unwrap_or(0);
    }

    pub(super) fn write(&self, text: &mut Text) {
        let counts = lock(&self.counts).clone();
        text.family("http_requests_total", Kind::Counter, "Requests to the API.");
        for (labels, counts) in &counts {
            labels.with(|labels| text.sample("http_requests_total", labels, counts.count()));
        }
        text.family("http_request_duration_seconds", Kind::Histogram, "Time until the API's answer began.");
        for (labels, counts) in &counts {
            labels.with(|labels| text.histogram("http_request_duration_seconds", labels, counts));
        }
    }
}

impl Labels {
    fn with(&self, write: impl FnOnce(&[(&str, &str)])) {
        write(&[("code", &self.code.to_string()), ("method", self.method), ("path", &self.path)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_made_up_methods_are_not_repeated() {
        let stats = ApiStats::default();
        for method in ["GET", "GET", "BREW"] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            stats.finished(&method, "/system/info", StatusCode::OK, Duration::from_millis(20));
        }
        let mut text = Text::default();
        stats.write(&mut text);
        let text = text.finish();
        for line in [
            "http_requests_total{code=\"200\",method=\"GET\",path=\"/system/info\"} 2",
            "http_requests_total{code=\"200\",method=\"other\",path=\"/system/info\"} 1",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"GET\",path=\"/system/info\",le=\"0.01\"} 0",
            "http_request_duration_seconds_bucket{code=\"200\",method=\"GET\",path=\"/system/info\",le=\"0.025\"} 2",
            "http_request_duration_seconds_sum{code=\"200\",method=\"GET\",path=\"/system/info\"} 0.04",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }
}
