//! `ingle queue`

use reqwest::Method;

use model::wire::{DeadCall, DeadCount, QueueChange, QueueStatus};

use super::Globals;
use super::client::Client;
use super::error::CliError;
use super::output::{self, Form};

/// See, pause and resume queues of calls that are made later, and the calls that were given up
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Queue {
    /// List the queues, and how many calls each has
    List(Form),
    /// Make no more calls of a queue; they are accepted and kept
    Pause {
        /// Its name
        name: String,
    },
    /// Make the calls of a queue again
    Resume {
        /// Its name
        name: String,
    },
    /// List calls and callbacks that were given up, newest first
    Dead {
        /// Only those of this function
        #[arg(long, value_name = "NAME")]
        function: Option<String>,
        /// At most so many, 1 to 1000
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        form: Form,
    },
    /// Show a call that was given up, with all its tries
    Show {
        /// Its number, as 'ingle queue dead' lists it
        #[arg(value_parser = number)]
        number: u64,
        #[command(flatten)]
        form: Form,
    },
    /// Queue calls that were given up once more
    Replay(Chosen),
    /// Throw calls away that were given up
    Purge(Chosen),
}

/// Which of the calls that were given up.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["number", "all"]))]
pub(crate) struct Chosen {
    /// Its number, as 'ingle queue dead' lists it
    #[arg(value_parser = number)]
    number: Option<u64>,
    /// All of them, of all namespaces without -n
    #[arg(long)]
    all: bool,
    /// With --all: only those of this function
    #[arg(long, value_name = "NAME", requires = "all")]
    function: Option<String>,
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "calls that were given up have numbers, which 'ingle queue dead' lists".to_owned())
}

impl Queue {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        match self {
            Self::List(form) => {
                let answer = client.get(&["queues"], &[]).await?;
                form.table(&answer, ["NAME", "STATE", "READY", "WAITING", "RUNNING"], row)?;
            }
            Self::Pause { name } => pause(&client, &name, true).await?,
            Self::Resume { name } => pause(&client, &name, false).await?,
            Self::Dead { function, limit, form } => {
                let limit = limit.to_string();
                let query = [
                    ("function", function.as_deref()),
                    ("namespace", globals.namespace()),
                    ("limit", Some(limit.as_str())),
                ];
                let answer = client.get(&["dead"], &query).await?;
                form.table(&answer, ["NUMBER", "CALL", "FUNCTION", "QUEUED", "TRIES", "REASON"], dead_row)?;
            }
            Self::Show { number, form } => {
                form.print(&client.get(&["dead", &number.to_string()], &[]).await?, show)?;
            }
            Self::Replay(chosen) => {
                let (what, path) = chosen.path(Some("replay"));
                let count = send(&client, Method::POST, &path, &chosen, globals).await?;
                output::line(what.map_or_else(
                    || format!("{count} calls were queued again"),
                    |number| format!("call {number} was queued again"),
                ))?;
            }
            Self::Purge(chosen) => {
                let (what, path) = chosen.path(None);
                let count = send(&client, Method::DELETE, &path, &chosen, globals).await?;
                output::line(what.map_or_else(
                    || format!("{count} calls were thrown away"),
                    |number| format!("call {number} was thrown away"),
                ))?;
            }
        }
        Ok(())
    }
}

impl Chosen {
    /// The call, if it is one, and where it or all of them are.
    fn path(&self, then: Option<&str>) -> (Option<u64>, Vec<String>) {
        let number = self.number.map(|number| number.to_string());
        let path = std::iter::once("dead".to_owned()).chain(number).chain(then.map(str::to_owned));
        (self.number, path.collect())
    }
}

/// Does something to calls that were given up; to how many, where the answer says it.
async fn send(
    client: &Client,
    method: Method,
    path: &[String],
    chosen: &Chosen,
    globals: &Globals,
) -> anyhow::Result<usize> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let function = chosen.function.as_deref();
    let query: &[_] =
        if chosen.all { &[("function", function), ("namespace", globals.namespace())] } else { &[] };
    let answer = client.system(method, &path, query).send().await?;
    if chosen.number.is_some() {
        return Ok(1);
    }
    Ok(answer.json::<DeadCount>()?.count)
}

async fn pause(client: &Client, name: &str, paused: bool) -> anyhow::Result<()> {
    if name.is_empty() {
        return Err(CliError::usage("give the name of a queue, as 'ingle queue list' shows it").into());
    }
    client.system(Method::PUT, &["queues", name], &[]).json(&QueueChange { paused }).send().await?;
    let text = if paused { "is paused: calls are accepted and kept" } else { "goes on" };
    Ok(output::line(format!("queue {name} {text}"))?)
}

fn row(queue: QueueStatus) -> [String; 5] {
    let state = if queue.paused { "paused" } else { "active" };
    let [ready, waiting, running] =
        [queue.ready, queue.waiting, queue.running].map(|count| count.to_string());
    [queue.name, state.into(), ready, waiting, running]
}

fn dead_row(call: DeadCall) -> [String; 6] {
    let reason = call.tries.last().map_or_else(String::new, |last| last.reason.clone());
    let reason = if call.answered.is_some() { format!("callback: {reason}") } else { reason };
    [
        call.number.to_string(),
        call.call_id,
        format!("{}.{}", call.name, call.namespace),
        output::time(&call.queued_at),
        call.tried.to_string(),
        reason,
    ]
}

fn show(call: DeadCall) -> anyhow::Result<()> {
    let what = match call.answered {
        Some(status) => ("Callback", format!("of an answer {status} with {} bytes", call.size)),
        None => ("Request", format!("{} {} with {} bytes", call.method, call.path, call.size)),
    };
    let mut fields = vec![
        ("Number", call.number.to_string()),
        ("Function", format!("{}.{}", call.name, call.namespace)),
        ("Call id", call.call_id),
        what,
    ];
    fields.extend(call.callback_url.map(|url| ("Callback to", url)));
    fields.push(("Queued", output::time(&call.queued_at)));
    output::fields(&fields)?;
    let rows: Vec<_> = call
        .tries
        .into_iter()
        .map(|one| {
            let code = one.code.map_or_else(|| "-".to_owned(), |code| code.to_string());
            let reason = match one.repeats {
                0 => one.reason,
                count => format!("{} (as {count} before)", one.reason),
            };
            [output::time(&one.at), format!("{} ms", one.took_ms), code, reason]
        })
        .collect();
    Ok(output::table(["TRIED", "TOOK", "CODE", "REASON"], &rows)?)
}
