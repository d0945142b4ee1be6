//! `ingle queue`

use reqwest::Method;

use model::wire::{DeadCall, DeadCount, QueueChange, QueueStatus, Replayed};

use super::Globals;
use super::calls::attempts;
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
    /// Show a call that was given up, with all its attempts
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
                chosen.change(&client, globals, Method::POST, Some("replay"), "queued again").await?;
            }
            Self::Purge(chosen) => {
                chosen.change(&client, globals, Method::DELETE, None, "thrown away").await?;
            }
        }
        Ok(())
    }
}

impl Chosen {
    /// Does something to these calls, at the path with `then` at its end, and says that it is `done`.
    async fn change(
        &self,
        client: &Client,
        globals: &Globals,
        method: Method,
        then: Option<&str>,
        done: &str,
    ) -> anyhow::Result<()> {
        let number = self.number.map(|number| number.to_string());
        let path: Vec<&str> = std::iter::once("dead").chain(number.as_deref()).chain(then).collect();
        let all: &[_] = &[("function", self.function.as_deref()), ("namespace", globals.namespace())];
        let answer = client.system(method, &path, if self.all { all } else { &[] }).send().await?;
        let changed = match number {
            Some(number) => format!("call {number} was"),
            None => format!("{} calls were", answer.json::<DeadCount>()?.count),
        };
        // An older gateway does not say it.
        let replayed = then.and_then(|_| answer.json::<Replayed>().ok());
        let id = replayed.map(|replayed| format!(": ingle calls show {}", replayed.call_id));
        Ok(output::line(format!("{changed} {done}{}", id.unwrap_or_default()))?)
    }
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
    attempts(call.tries)
}
