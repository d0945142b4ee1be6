//! `ingle list`

use reqwest::Method;

use model::wire::FunctionStatus;

use super::{Globals, output};

/// List the functions of a namespace
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Show image, digest, revision, restarts and when it was deployed, too
    #[arg(long, short = 'v')]
    verbose: bool,
    /// Print the API's JSON
    #[arg(long, conflicts_with = "verbose")]
    json: bool,
}

impl List {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let answer =
            client.system(Method::GET, &["functions"], &[("namespace", globals.namespace())]).send().await?;
        if self.json {
            return Ok(output::json(&answer)?);
        }
        let functions: Vec<FunctionStatus> = answer.json()?;
        if self.verbose {
            let rows: Vec<_> = functions.into_iter().map(|f| verbose_row(&f)).collect();
            let head =
                ["NAME", "PHASE", "REPLICAS", "CALLS", "IMAGE", "DIGEST", "REVISION", "RESTARTS", "CREATED"];
            output::table(head, &rows)?;
        } else {
            let rows: Vec<_> = functions.into_iter().map(|f| row(&f)).collect();
            output::table(["NAME", "PHASE", "REPLICAS", "CALLS"], &rows)?;
        }
        Ok(())
    }
}

fn row(function: &FunctionStatus) -> [String; 4] {
    [
        function.name.clone(),
        match &function.update {
            Some(update) => format!("{} (update {})", phase(function), update.phase),
            None => phase(function).to_owned(),
        },
        format!("{}/{}", function.available_replicas, function.replicas),
        function.invocation_count.to_string(),
    ]
}

fn verbose_row(function: &FunctionStatus) -> [String; 9] {
    let [name, phase, replicas, calls] = row(function);
    let digest = function.image_digest.as_deref().map(output::short_digest).unwrap_or_default();
    [
        name,
        phase,
        replicas,
        calls,
        function.image.clone(),
        digest.to_owned(),
        function.revision.to_string(),
        function.restarts.to_string(),
        function.created_at.as_deref().map(output::time).unwrap_or_default(),
    ]
}

/// The phase; gateways that have none show at least whether a replica serves.
pub(super) fn phase(function: &FunctionStatus) -> &str {
    match (function.phase.as_str(), function.available_replicas) {
        ("", 0) => "not ready",
        ("", _) => "ready",
        (phase, _) => phase,
    }
}
