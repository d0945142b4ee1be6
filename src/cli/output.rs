//! What commands print: tables, fields, JSON, and the line that shows progress.
//!
//! Results go to stdout, everything about the way there to stderr, so that a pipe holds results only.
//! Nothing here panics when the reader has gone: the error goes up, and `main` takes it for success.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::client::Answer;
use super::terminal::{plain, plain_line};

/// Prints a line of the result.
pub(crate) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    if io::stdout().is_terminal() {
        return writeln!(io::stdout(), "{}", plain(&text.to_string()));
    }
    writeln!(io::stdout(), "{text}")
}

/// Tells something beside the result.
pub(crate) fn note(text: impl std::fmt::Display) {
    // A note that nobody can read is no reason to stop.
    let _ = writeln!(io::stderr(), "{}", plain(&text.to_string()));
}

/// The form in which an answer is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Form {
    /// Print the API's JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Form {
    /// Prints an answer exactly as it came, or as `print` does it for people.
    pub(crate) fn print<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        print: impl FnOnce(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if !self.json {
            return print(answer.json()?);
        }
        let mut out = io::stdout().lock();
        out.write_all(&answer.body)?;
        if !answer.body.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Prints an answer exactly as it came, or as a table with a row for each of its parts.
    pub(crate) fn table<T: DeserializeOwned, const N: usize>(
        &self,
        answer: &Answer,
        head: [&str; N],
        row: impl Fn(T) -> [String; N],
    ) -> anyhow::Result<()> {
        self.print(answer, |parts: Vec<T>| Ok(table(head, &parts.into_iter().map(row).collect::<Vec<_>>())?))
    }
}

/// Prints rows under a head, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = head.map(width);
    for row in rows {
        for (width_so_far, cell) in widths.iter_mut().zip(row) {
            *width_so_far = (*width_so_far).max(width(cell));
        }
    }
    let mut text = String::new();
    push_row(&mut text, &widths, head.iter().copied());
    for row in rows {
        push_row(&mut text, &widths, row.iter().map(String::as_str));
    }
    io::stdout().write_all(text.as_bytes())
}

fn push_row<'a>(text: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let start = text.len();
    for (cell, full) in cells.zip(widths) {
        let cell = shown(cell);
        text.push_str(&cell);
        text.extend(std::iter::repeat_n(' ', full.saturating_sub(width(&cell)) + 2));
    }
    text.truncate(start + text[start..].trim_end().len());
    text.push('\n');
}

fn width(text: &str) -> usize {
    shown(text).chars().count()
}

/// An empty cell would be taken for a missing one, and a line break would break the table.
fn shown(cell: &str) -> String {
    if cell.is_empty() { "-".to_owned() } else { plain_line(cell) }
}

/// Prints names and values below each other; a value that is empty is left out, and a value of
/// several lines is indented.
pub(crate) fn fields(fields: &[(&str, String)]) -> io::Result<()> {
    let shown = || fields.iter().filter(|(_, value)| !value.is_empty());
    let widest = shown().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in shown() {
        for (index, line) in value.lines().enumerate() {
            // A function's output is among the values.
            let line = plain_line(line);
            let label = if index == 0 { format!("{name}:") } else { String::new() };
            text.push_str(&format!("{label:<0$}{line}\n", widest + 3));
        }
    }
    io::stdout().write_all(text.as_bytes())
}

/// A number of bytes for people, in steps of 1000 as registries and disks count.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A release, with the commit it was built from where that is known.
pub(crate) fn version(release: &str, commit: &str) -> String {
    if matches!(commit, "" | crate::UNKNOWN_COMMIT) {
        return release.to_owned();
    }
    format!("{release} ({commit})")
}

/// A time for people: to the second. One that is no RFC 3339 stays as it is.
pub(crate) fn time(text: &str) -> String {
    text.parse::<jiff::Timestamp>().map_or_else(|_| text.to_owned(), |time| format!("{time:.0}"))
}

/// The start of a digest, as Docker shows it.
pub(crate) fn short_digest(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// How often a line is printed where lines cannot be overwritten.
const PLAIN_EVERY: Duration = Duration::from_secs(2);
/// A progress line that is wider than the terminal could not be overwritten.
const PROGRESS_WIDTH: usize = 78;

/// How far something has come: one line that changes on a terminal, now and then a line elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    shown: String,
    at: Option<Instant>,
}

impl Progress {
    /// On stderr.
    pub(crate) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), shown: String::new(), at: None }
    }

    /// Shows `text`, unless it was the last that was shown.
    pub(crate) fn show(&mut self, text: &str) {
        let text = text.lines().next().unwrap_or_default();
        if text == self.shown {
            return;
        }
        if self.terminal {
            let cut: String = plain_line(text).chars().take(PROGRESS_WIDTH).collect();
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{cut}").and_then(|()| err.flush());
        } else {
            // Counters move all the time: a log wants every step, but not every number.
            let same_step = step(text) == step(&self.shown);
            if same_step && self.at.is_some_and(|at| at.elapsed() < PLAIN_EVERY) {
                return;
            }
            note(text);
        }
        text.clone_into(&mut self.shown);
        self.at = Some(Instant::now());
    }
}

impl Drop for Progress {
    /// Leaves an empty line on a terminal for what comes next.
    fn drop(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}

/// A progress text without its numbers.
fn step(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_and_have_no_trailing_space() {
        let mut text = String::new();
        for cells in [["a", "bb", ""], ["long\tname", "c", "x"]] {
            push_row(&mut text, &[9, 2, 1], cells.into_iter());
        }
        assert_eq!(text, "a          bb  -\nlong name  c   x\n");
    }

    #[test]
    fn bytes_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345_678, "12.3 MB"),
            (999_990_000, "1.0 GB"),
            (5_000_000_000_000, "5.0 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_version_has_its_commit_where_that_is_known() {
        assert_eq!(version("1.2.3", "0123456789ab"), "1.2.3 (0123456789ab)");
        assert_eq!(version("1.2.3", crate::UNKNOWN_COMMIT), "1.2.3");
        assert_eq!(version("1.2.3", ""), "1.2.3");
    }

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(time("2026-01-31T08:00:07.95704528Z"), "2026-01-31T08:00:07Z");
        assert_eq!(time("2026-01-31T08:00:00Z"), "2026-01-31T08:00:00Z");
        assert_eq!(time("some day"), "some day");
    }

    #[test]
    fn digests_are_cut_where_they_can_be() {
        assert_eq!(short_digest("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_digest("odd"), "odd");
    }

    #[test]
    fn numbers_do_not_make_a_new_step() {
        assert_eq!(step("env: pulling 1.2/63.0 MB"), step("env: pulling 40.1/63.0 MB"));
        assert_ne!(step("env: pulling 1.2/63.0 MB"), step("env: starting"));
    }
}
