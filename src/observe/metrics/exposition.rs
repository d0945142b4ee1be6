//! The Prometheus text format: families of samples.

use std::fmt::{Display, Write};

use directory::{BOUNDS, CodeCounts};

/// A text being written.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// What a family's numbers are.
#[derive(Debug, Clone, Copy, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Text {
    /// Begins a family. All its samples follow before the next one begins.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A family of one number.
    pub(super) fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// One number.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', "\\n");
            self.push(format_args!("{before}{label}=\"{text}\""));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.push(format_args!(" {value}\n"));
    }

    /// One histogram: buckets, sum and count.
    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], counts: &CodeCounts) {
        let bucket = format!("{name}_bucket");
        let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut cumulative = 0;
        for (bound, count) in bounds.zip(&counts.buckets) {
            cumulative += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&bucket, &labels, cumulative);
        }
        self.sample(&format!("{name}_sum"), labels, seconds(counts.nanos));
        self.sample(&format!("{name}_count"), labels, cumulative);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes every write");
    }
}

/// Nanoseconds as Prometheus has times.
pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_with_their_labels_escaped() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "Things.");
        text.sample("a_total", &[], 3);
        text.sample("a_total", &[("x", "1"), ("y", "\\ \" \n")], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n\
             a_total{x=\"1\",y=\"\\\\ \\\" \\n\"} 0.5\n"
        );
    }

    #[test]
    fn a_histogram_is_cumulative() {
        let mut text = Text::default();
        let counts = CodeCounts { buckets: vec![2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4], nanos: 1_500_000_000 };
        text.histogram("t", &[("code", "200")], &counts);
        let text = text.finish();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 14);
        assert_eq!(lines[0], "t_bucket{code=\"200\",le=\"0.005\"} 2");
        assert_eq!(lines[1], "t_bucket{code=\"200\",le=\"0.01\"} 3");
        assert_eq!(lines[10], "t_bucket{code=\"200\",le=\"10\"} 3");
        assert_eq!(
            lines[11..],
            ["t_bucket{code=\"200\",le=\"+Inf\"} 7", "t_sum{code=\"200\"} 1.5", "t_count{code=\"200\"} 7"]
        );
    }
}
