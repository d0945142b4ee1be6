//! `ingle calls`

use std::io::Write as _;

use reqwest::Method;

use model::wire::{Call, Try};

use super::Globals;
use super::output::{self, Form};

/// See calls that are made later, queued ones and those that have ended, and cancel them
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Calls {
    /// List calls, newest first
    List {
        /// Only those of this function
        #[arg(long, value_name = "NAME")]
        function: Option<String>,
        /// Only those that are queued, waiting, running, done, failed or cancelled
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        /// At most so many, 1 to 1000
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        form: Form,
    },
    /// Show a call
    Show {
        /// Its X-Call-Id
        id: String,
        #[command(flatten)]
        form: Form,
    },
    /// Print the answer of a call that was sent with X-Keep-Result
    Answer {
        /// Its X-Call-Id
        id: String,
    },
    /// Make a call no more, and break it off if it is being made
    Cancel {
        /// Its X-Call-Id
        id: String,
    },
}

impl Calls {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        match self {
            Self::List { function, status, limit, form } => {
                let limit = limit.to_string();
                let query = [
                    ("function", function.as_deref()),
                    ("namespace", globals.namespace()),
                    ("status", status.as_deref()),
                    ("limit", Some(limit.as_str())),
                ];
                let answer = client.get(&["calls"], &query).await?;
                let head = ["CALL", "FUNCTION", "STATUS", "CODE", "TRIES", "QUEUED", "TOOK"];
                form.table(&answer, head, row)?;
            }
            Self::Show { id, form } => form.print(&client.get(&["calls", &id], &[]).await?, show)?,
            Self::Answer { id } => {
                let path = ["calls", &id, "answer"];
                let mut answer = client.system(Method::GET, &path, &[]).stream_ok().await?;
                let mut out = std::io::stdout();
                while let Some(piece) = answer.chunk().await? {
                    out.write_all(&piece)?;
                }
                out.flush()?;
            }
            Self::Cancel { id } => {
                client.system(Method::DELETE, &["calls", &id], &[]).send().await?;
                output::line(format!("call {id} is cancelled"))?;
            }
        }
        Ok(())
    }
}

/// From the first attempt's beginning to the end.
fn took(call: &Call) -> Option<String> {
    let time = |text: &Option<String>| text.as_deref()?.parse::<jiff::Timestamp>().ok();
    let took = time(&call.ended_at)?.duration_since(time(&call.started_at)?);
    Some(format!("{} ms", took.as_millis()))
}

fn code(call: &Call) -> String {
    call.code.map_or_else(|| "-".to_owned(), |code| code.to_string())
}

fn row(call: Call) -> [String; 7] {
    [
        call.call_id.clone(),
        format!("{}.{}", call.name, call.namespace),
        call.status.clone(),
        code(&call),
        call.tries.to_string(),
        output::time(&call.queued_at),
        took(&call).unwrap_or_else(|| "-".to_owned()),
    ]
}

fn show(call: Call) -> anyhow::Result<()> {
    let time = |text: &Option<String>| text.as_deref().map(output::time).unwrap_or_default();
    let wait = call.wait_ms.map(|wait| format!("{wait} ms before its first try")).unwrap_or_default();
    let received =
        call.received.map(|size| format!("{} with {size} bytes", code(&call))).unwrap_or_else(|| code(&call));
    output::fields(&[
        ("Call id", call.call_id.clone()),
        ("Function", format!("{}.{}", call.name, call.namespace)),
        ("Status", call.status.clone()),
        ("Request", format!("{} {} with {} bytes", call.method, call.path, call.sent)),
        ("Queued", output::time(&call.queued_at)),
        ("Waited", wait),
        ("Started", time(&call.started_at)),
        ("Ended", time(&call.ended_at)),
        ("Took", took(&call).unwrap_or_default()),
        ("Tries", call.tries.to_string()),
        ("Start", call.start.clone().unwrap_or_default()),
        ("Answer", received),
        ("Reason", call.reason.clone().unwrap_or_default()),
        ("Answer kept until", time(&call.answer_until)),
    ])?;
    if call.attempts.is_empty() { Ok(()) } else { attempts(call.attempts) }
}

/// Prints attempts that failed.
pub(super) fn attempts(attempts: Vec<Try>) -> anyhow::Result<()> {
    let row = |one: Try| {
        let code = one.code.map_or_else(|| "-".to_owned(), |code| code.to_string());
        let reason = match one.repeats {
            0 => one.reason,
            count => format!("{} (as {count} before)", one.reason),
        };
        [output::time(&one.at), format!("{} ms", one.took_ms), code, reason]
    };
    let rows: Vec<_> = attempts.into_iter().map(row).collect();
    Ok(output::table(["TRIED", "TOOK", "CODE", "REASON"], &rows)?)
}
