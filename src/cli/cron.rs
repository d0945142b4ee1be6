//! `ingle cron`

use reqwest::Method;

use model::function::FunctionName;
use model::wire::{CronAccepted, CronRun, CronStatus};

use super::Globals;
use super::output::{self, Form};

/// See which functions are called by a schedule, and call one now
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Cron {
    /// List the functions that are called by a schedule, with their last and next run
    List(Form),
    /// Call a function now as its schedule would; the call goes through the queue
    Run {
        /// The function's name
        name: FunctionName,
    },
}

impl Cron {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let query = [("namespace", globals.namespace())];
        match self {
            Self::List(form) => {
                let head = ["FUNCTION", "SCHEDULE", "TIME ZONE", "LAST RUN", "OUTCOME", "NEXT RUN"];
                form.table(&client.get(&["cron"], &query).await?, head, row)?;
            }
            Self::Run { name } => {
                let answer = client.system(Method::POST, &["cron", name.as_str()], &query).send().await?;
                let CronAccepted { call_id } = answer.json()?;
                output::line(format!("{name} is called: call {call_id} is queued"))?;
            }
        }
        Ok(())
    }
}

fn row(timer: CronStatus) -> [String; 6] {
    let last = timer.last_run.as_ref().map(|run| output::time(&run.at));
    let outcome = timer.last_run.as_ref().map(outcome);
    [
        format!("{}.{}", timer.name, timer.namespace),
        timer.schedule,
        timer.time_zones.join(", "),
        last.unwrap_or_default(),
        outcome.unwrap_or_default(),
        timer.problem.map_or_else(
            || timer.next_run.as_deref().map(output::time).unwrap_or_default(),
            |why| format!("none: {why}"),
        ),
    ]
}

fn outcome(run: &CronRun) -> String {
    if run.tried == 0 {
        run.outcome.clone()
    } else {
        format!("{}, tries that failed: {}", run.outcome, run.tried)
    }
}

/// What describe shows of a timer.
pub(super) fn fields(timer: &CronStatus) -> [(&'static str, String); 5] {
    let policy = format!("when one runs: {}; when missed: {}", timer.overlap, timer.missed);
    let jitter = if timer.jitter_seconds > 0 {
        format!("; up to {} s late", timer.jitter_seconds)
    } else {
        String::new()
    };
    let last = timer.last_run.as_ref().map(|run| {
        let due =
            run.due.as_ref().map_or_else(|| "by hand".to_owned(), |due| format!("due {}", output::time(due)));
        format!("{}, {due}, {}, call {}", output::time(&run.at), outcome(run), run.call_id)
    });
    let next = timer.next_run.as_deref().map(output::time);
    let waiting = if timer.waiting > 0 { format!(", {} wait", timer.waiting) } else { String::new() };
    let left_out = timer
        .left_out
        .as_ref()
        .map(|left_out| format!("due {}: {}", output::time(&left_out.due), left_out.reason));
    [
        ("Schedule", format!("{} ({}; {policy}{jitter})", timer.schedule, timer.time_zones.join(", "))),
        ("Last run", last.unwrap_or_default()),
        ("Next run", next.map(|next| next + &waiting).unwrap_or_default()),
        ("Left out", left_out.unwrap_or_default()),
        ("Not called", timer.problem.clone().unwrap_or_default()),
    ]
}
