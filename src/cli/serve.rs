//! `ingle serve`

use std::path::PathBuf;

use model::config::DEFAULT_PATH;

use super::output;

/// Run the daemon
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The configuration file
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Only say whether the configuration and the network's conflist are right
    #[arg(long)]
    check: bool,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = host::config_file::load(&self.config)?;
        if self.check {
            crate::daemon::check(&config)?;
            output::line(format!("{} is right", self.config.display()))?;
            return Ok(output::line(format!("{} is right", config.network.conflist.display()))?);
        }
        crate::daemon::run(config)
    }
}
