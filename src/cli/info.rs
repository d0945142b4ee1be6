//! `ingle info`

use reqwest::Method;

use model::wire::{Info as Answer, Version};

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
        let version = |version: &Version| output::version(&version.release, &version.sha);
        let provider_version = Some(&info.provider.version).filter(|own| **own != info.version).map(version);
        Ok(output::fields(&[
            ("Gateway", client.gateway().to_string()),
            ("Version", version(&info.version)),
            ("Provider", info.provider.provider),
            // ingle's own is that of its gateway.
            ("Provider version", provider_version.unwrap_or_default()),
            ("Orchestration", info.provider.orchestration),
            ("Architecture", info.arch),
            ("Client", output::version(crate::VERSION, crate::COMMIT)),
        ])?)
    }
}
