//! `ingle rollback`

use anyhow::bail;
use reqwest::Method;

use model::function::FunctionName;
use model::wire;

use super::Globals;
use super::deploy::{self, Failures, Waiting};
use super::error::CliError;
use super::rollout::Submitted;

/// Go back to a revision that served before, and wait until it answers
///
/// It becomes a new revision, with the settings and the very image of the old one; no registry is asked what the
/// image's name means now. 'ingle describe' shows the revisions that are kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Rollback {
    /// The function's name
    name: FunctionName,
    /// The revision to go back to [default: the newest that served before this one]
    #[arg(long, value_name = "REVISION")]
    to: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Rollback {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let name = self.name.as_str();
        let answer = client
            .system(Method::POST, &["function", name, "rollback"], &[("namespace", globals.namespace())])
            .json(&wire::Rollback { revision: self.to, namespace: None })
            .send()
            .await?;
        let Some(revision) = deploy::revision(&answer) else {
            let gateway = client.gateway();
            let text = format!("{gateway} does not say which revision it made: is --gateway right?");
            bail!(CliError::Failed(text));
        };
        let submitted = Submitted { name: name.to_owned(), namespace: globals.namespace.clone(), revision };
        let accepted = format!("accepted as revision {revision}");
        self.waiting.follow(&client, &[submitted], &accepted, Failures::new(1)).await
    }
}
