//! `ingle rollback`

use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use model::function::{FunctionName, parse_duration};
use model::wire;

use super::error::CliError;
use super::rollout::{self, Submitted};
use super::{Globals, deploy, output};

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
    /// Return as soon as the daemon has accepted it
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until it answers
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    wait_timeout: Duration,
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
            return Err(CliError::Failed(format!(
                "{} does not say which revision it made: is --gateway right?",
                client.gateway()
            ))
            .into());
        };
        let url = client.gateway().function(name, globals.namespace());
        if self.no_wait {
            return Ok(output::line(format!("{name} was accepted as revision {revision}: {url}"))?);
        }
        let submitted = Submitted { name: name.to_owned(), namespace: globals.namespace.clone(), revision };
        let status = rollout::until_ready(&client, &submitted, Instant::now() + self.wait_timeout).await?;
        Ok(output::line(format!("{name} is {}: {url}", deploy::in_words(&status)))?)
    }
}
