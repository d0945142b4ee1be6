//! `ingle namespace`

use reqwest::Method;

use model::function::NamespaceName;
use model::wire;

use super::describe::pairs;
use super::options::pair;
use super::{Globals, output};

/// Make, list and delete namespaces: sets of functions and secrets
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Namespace {
    /// Make a namespace
    Create {
        /// Its name
        name: NamespaceName,
        /// Label; may be given several times
        #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = pair)]
        label: Vec<(String, String)>,
        /// Annotation; may be given several times
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        annotation: Vec<(String, String)>,
    },
    /// List all namespaces
    List {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a namespace
    Describe {
        /// Its name
        name: NamespaceName,
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a namespace that has neither functions nor secrets
    #[command(visible_alias = "remove")]
    Delete {
        /// Its name
        name: NamespaceName,
    },
}

impl Namespace {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        match self {
            Self::Create { name, label, annotation } => {
                // Gateways on other platforms take only namespaces that are marked as meant for functions.
                let mark = || ("openfaas".to_owned(), "1".to_owned());
                let body = wire::Namespace {
                    name: name.to_string(),
                    labels: Some(label.into_iter().chain([mark()]).collect()),
                    annotations: Some(annotation.into_iter().chain([mark()]).collect()),
                };
                // The name is in the body; this path, with nothing after its slash, is what gateways have.
                client.system(Method::POST, &["namespace", ""], &[]).json(&body).send().await?;
                output::line(format!("namespace {name} was created"))?;
            }
            Self::List { json } => {
                let answer = client.system(Method::GET, &["namespaces"], &[]).send().await?;
                if json {
                    return Ok(output::json(&answer)?);
                }
                let rows: Vec<_> = answer.json::<Vec<String>>()?.into_iter().map(|name| [name]).collect();
                output::table(["NAME"], &rows)?;
            }
            Self::Describe { name, json } => {
                let answer = client.system(Method::GET, &["namespace", name.as_str()], &[]).send().await?;
                if json {
                    return Ok(output::json(&answer)?);
                }
                let found: wire::Namespace = answer.json()?;
                output::fields(&[
                    ("Name", found.name),
                    ("Labels", pairs(found.labels.as_ref())),
                    ("Annotations", pairs(found.annotations.as_ref())),
                ])?;
            }
            Self::Delete { name } => {
                let body = wire::Namespace { name: name.to_string(), ..Default::default() };
                client.system(Method::DELETE, &["namespace", name.as_str()], &[]).json(&body).send().await?;
                output::line(format!("namespace {name} was deleted"))?;
            }
        }
        Ok(())
    }
}
