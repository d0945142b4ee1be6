//! `ingle info`

use reqwest::Method;

use crate::wire::Info as Answer;

use super::{Globals, output};

/// Show what the gateway is
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let answer = client.system(Method::GET, &["info"], &[]).send().await?;
        if self.json {
            return Ok(output::json(&answer)?);
        }
        let info: Answer = answer.json()?;
        let version = |release: &str, sha: &str| format!("{release} ({sha})");
        Ok(output::fields(&[
            ("Gateway", client.gateway().to_string()),
            ("Version", version(&info.version.release, &info.version.sha)),
            ("Provider", info.provider.provider),
            ("Provider version", version(&info.provider.version.release, &info.provider.version.sha)),
            ("Orchestration", info.provider.orchestration),
            ("Architecture", info.arch),
            ("Client", env!("CARGO_PKG_VERSION").to_owned()),
        ])?)
    }
}
