//! `ingle scale`

use reqwest::Method;

use model::function::FunctionName;
use model::wire::ScaleRequest;

use super::error::CliError;
use super::{Globals, output};

/// Set how many replicas a function has; 0 stops it until the next call
#[derive(Debug, clap::Args)]
pub(crate) struct Scale {
    /// The function's name
    name: FunctionName,
    /// How many replicas
    #[arg(value_name = "N", required_unless_present = "option")]
    replicas: Option<u32>,
    /// The same, as an option
    #[arg(long = "replicas", id = "option", value_name = "N", conflicts_with = "replicas")]
    option: Option<u32>,
}

impl Scale {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let replicas =
            self.replicas.or(self.option).ok_or_else(|| CliError::usage("give the number of replicas"))?;
        let request = ScaleRequest {
            service_name: self.name.to_string(),
            replicas,
            namespace: globals.namespace.clone(),
        };
        let client = globals.client()?;
        client
            .system(Method::POST, &["scale-function", self.name.as_str()], &[])
            .json(&request)
            .send()
            .await?;
        Ok(output::line(format!("{} is being scaled to {replicas}", self.name))?)
    }
}
