//! `ingle namespace`

use reqwest::Method;

use model::function::NamespaceName;
use model::wire;

use super::Globals;
use super::describe::pairs;
use super::options::pair;
use super::output::{self, Form};

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
    List(Form),
    /// Show a namespace
    Describe {
        /// Its name
        name: NamespaceName,
        #[command(flatten)]
        form: Form,
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
            Self::List(form) => {
                form.table(&client.get(&["namespaces"], &[]).await?, ["NAME"], |name: String| [name])?;
            }
            Self::Describe { name, form } => {
                let answer = client.get(&["namespace", name.as_str()], &[]).await?;
                form.print(&answer, |found: wire::Namespace| {
                    Ok(output::fields(&[
                        ("Name", found.name),
                        ("Labels", pairs(found.labels.as_ref())),
                        ("Annotations", pairs(found.annotations.as_ref())),
                    ])?)
                })?;
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
