//! `ingle remove`

use reqwest::Method;

use model::wire::Deletion;

use super::client::Client;
use super::deploy::Failures;
use super::stack::StackArgs;
use super::{Globals, output};

/// Remove functions, or all functions of a stack file
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The functions' names
    #[arg(value_name = "NAME", required_unless_present = "file", conflicts_with = "file")]
    names: Vec<String>,
    #[command(flatten)]
    stack: StackArgs,
}

impl Remove {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let (deletions, gateway) = match self.stack.load().await? {
            Some(stack) => {
                stack.notes.iter().for_each(output::note);
                let functions = stack.functions.into_iter().map(|f| (f.service, f.namespace)).collect();
                (functions, stack.gateway)
            }
            None => (self.names.into_iter().map(|name| (name, None)).collect::<Vec<_>>(), None),
        };
        let client = Client::open(globals.gateway.as_deref(), gateway.as_deref())?;
        let mut failures = Failures::new(deletions.len());
        for (function_name, namespace) in deletions {
            let namespace = globals.namespace.clone().or(namespace);
            let deletion = Deletion { function_name, namespace };
            match client.system(Method::DELETE, &["functions"], &[]).json(&deletion).send().await {
                Ok(_) => output::line(format!("{} was removed", deletion.function_name))?,
                Err(error) => failures.add(error.into())?,
            }
        }
        failures.result()
    }
}
