//! `ingle list`

use model::wire::FunctionStatus;

use super::Globals;
use super::output::{self, Form};

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
        let answer = client.get(&["functions"], &[("namespace", globals.namespace())]).await?;
        let form = Form { json: self.json };
        if self.verbose {
            let head =
                ["NAME", "PHASE", "REPLICAS", "CALLS", "IMAGE", "DIGEST", "REVISION", "RESTARTS", "CREATED"];
            return form.table(&answer, head, |function| verbose_row(&function));
        }
        form.table(&answer, ["NAME", "PHASE", "REPLICAS", "CALLS"], |function| row(&function))
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
