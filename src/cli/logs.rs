//! `ingle logs`

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};
use jiff::Timestamp;
use reqwest::{Method, Response};

use model::function::{FunctionName, parse_duration};
use model::wire::LogLine;

use super::Globals;
use super::error::CliError;
use super::terminal::coloured;

/// The daemon cuts lines long before this.
const MAX_LINE: usize = 16 << 20;
/// How long a log that is not followed may stay silent.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// Show what a function wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// The function's name
    name: FunctionName,
    /// Only the last lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    /// Only what is newer: a duration such as 5m, or a time such as 2025-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Go on with what it writes from now on, until Ctrl-C
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only one replica's lines
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Print the API's JSON, an object for each line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
enum Since {
    Ago(Duration),
    At(Timestamp),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = parse_duration(text) {
        return Ok(Since::Ago(time));
    }
    text.parse()
        .map(Since::At)
        .map_err(|_| "write a duration such as 5m, or a time such as 2025-01-31T12:00:00Z".into())
}

impl Since {
    /// The point in time, as the API reads it: RFC 3339, UTC.
    fn text(self, now: Timestamp) -> String {
        match self {
            // What is longer ago than computers are is everything.
            Self::Ago(time) => {
                now.checked_sub(time).unwrap_or(Timestamp::MIN).max(Timestamp::UNIX_EPOCH).to_string()
            }
            Self::At(time) => time.to_string(),
        }
    }
}

impl Logs {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let tail = self.tail.map(|lines| lines.to_string());
        let since = self.since.map(|since| since.text(Timestamp::now()));
        let query = [
            ("name", Some(self.name.as_str())),
            ("namespace", globals.namespace()),
            ("tail", tail.as_deref()),
            ("since", since.as_deref()),
            ("follow", Some(if self.follow { "true" } else { "false" })),
            ("instance", self.instance.as_deref()),
        ];
        let mut response = client.system(Method::GET, &["logs"], &query).stream_ok().await?;
        let mut lines = Lines::default();
        while let Some(part) = self.next(&mut response).await? {
            lines.add(&part)?;
            self.print(&mut lines)?;
        }
        // A last line may lack its end.
        lines.add(b"\n")?;
        self.print(&mut lines)
    }

    async fn next(&self, response: &mut Response) -> anyhow::Result<Option<bytes::Bytes>> {
        let part = if self.follow {
            response.chunk().await
        } else {
            let part = tokio::time::timeout(SILENT_FOR, response.chunk()).await;
            part.map_err(|_| CliError::Failed(format!("the log stopped for {SILENT_FOR:?} before its end")))?
        };
        part.context("the log broke off")
    }

    fn print(&self, lines: &mut Lines) -> anyhow::Result<()> {
        let terminal = io::stdout().is_terminal();
        let mut out = io::stdout().lock();
        while let Some(line) = lines.take() {
            if self.json {
                out.write_all(&line)?;
                out.write_all(b"\n")?;
                continue;
            }
            let line: LogLine =
                serde_json::from_slice(&line).context("a line of the log is not what the API sends")?;
            let text = if terminal { coloured(&line.text).into() } else { Cow::Borrowed(&*line.text) };
            writeln!(out, "{} {} {text}", line.timestamp, line.instance)?;
        }
        Ok(out.flush()?)
    }
}

/// Puts lines together from the parts that come over the network.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
}

impl Lines {
    fn add(&mut self, part: &[u8]) -> anyhow::Result<()> {
        self.buffer.extend_from_slice(part);
        if self.buffer.len() > MAX_LINE && !self.buffer.contains(&b'\n') {
            return Err(CliError::Failed(format!("a line of the log has more than {MAX_LINE} bytes")).into());
        }
        Ok(())
    }

    /// The next whole line that is not empty, without its end.
    fn take(&mut self) -> Option<BytesMut> {
        loop {
            let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_and_bounded() {
        let mut lines = Lines::default();
        lines.add(b"on").expect("short");
        assert_eq!(lines.take(), None);
        lines.add(b"e\n\ntwo\nth").expect("short");
        assert_eq!(lines.take().as_deref(), Some(&b"one"[..]));
        assert_eq!(lines.take().as_deref(), Some(&b"two"[..]));
        assert_eq!(lines.take(), None);
        assert!(lines.add(&vec![b'x'; MAX_LINE]).is_err());
    }

    #[test]
    fn since_is_a_duration_or_a_time() {
        let now: Timestamp = "2025-01-31T12:00:00Z".parse().expect("a time");
        let text = |text: &str| since(text).expect(text).text(now);
        assert_eq!(text("5m"), "2025-01-31T11:55:00Z");
        assert_eq!(text("2025-01-31T12:00:00+02:00"), "2025-01-31T10:00:00Z");
        // A machine without a clock believes that it is 1970.
        let start = Timestamp::UNIX_EPOCH;
        assert_eq!(since("5m").expect("a duration").text(start), "1970-01-01T00:00:00Z");
        assert!(since("yesterday").is_err());
        assert!(since("5000000h").is_err());
    }
}
