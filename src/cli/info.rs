//! `ingle info`

use model::wire::{Info as Answer, Version};

use super::Globals;
use super::output::{self, Form};

/// Show what the gateway is
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    #[command(flatten)]
    form: Form,
}

impl Info {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let version = |version: &Version| output::version(&version.release, &version.sha);
        self.form.print(&client.get(&["info"], &[]).await?, |info: Answer| {
            let provider_version =
                Some(&info.provider.version).filter(|own| **own != info.version).map(version);
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
        })
    }
}
