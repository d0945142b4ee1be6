//! `ingle secret`

use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use reqwest::Method;

use model::function::SecretName;
use model::wire;

use super::error::CliError;
use super::output::{self, Form};
use super::{Globals, stdin};

/// A secret has at most this many bytes, as in Kubernetes.
const MAX_SECRET: usize = 1 << 20;

/// Make, list, change and remove secrets; their values are never shown
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Secret {
    /// Make a secret from a file, a text, or stdin
    Create(Value),
    /// Change a secret's value; functions that run see it when they read it again
    Update(Value),
    /// List the secrets of a namespace
    List(Form),
    /// Remove a secret
    #[command(visible_alias = "rm", alias = "delete")]
    Remove {
        /// The secret's name
        name: SecretName,
    },
}

/// A secret's name, and where its value comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct Value {
    /// The secret's name
    name: SecretName,
    /// The value itself; other users of this machine can see it while the command runs
    #[arg(long, value_name = "TEXT", conflicts_with = "from_file")]
    from_literal: Option<String>,
    /// A file that holds the value
    #[arg(long, value_name = "PATH")]
    from_file: Option<PathBuf>,
    /// Keep a line break at the end of a text, which is removed otherwise
    #[arg(long)]
    exact: bool,
}

impl Secret {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let namespace = globals.namespace.clone();
        let (method, secret, done) = match self {
            Self::Create(value) => (Method::POST, value.secret(namespace).await?, "created"),
            Self::Update(value) => (Method::PUT, value.secret(namespace).await?, "updated"),
            Self::Remove { name } => {
                let secret = wire::Secret { name: name.to_string(), namespace, ..Default::default() };
                (Method::DELETE, secret, "removed")
            }
            Self::List(form) => {
                let answer = client.get(&["secrets"], &[("namespace", namespace.as_deref())]).await?;
                let row = |secret: wire::Secret| [secret.name, secret.namespace.unwrap_or_default()];
                return form.table(&answer, ["NAME", "NAMESPACE"], row);
            }
        };
        client.system(method, &["secrets"], &[]).json(&secret).send().await?;
        Ok(output::line(format!("secret {} was {done}", secret.name))?)
    }
}

impl Value {
    async fn secret(&self, namespace: Option<String>) -> anyhow::Result<wire::Secret> {
        let bytes = self.read().await?;
        if bytes.len() > MAX_SECRET {
            return Err(CliError::usage(format!("a secret has at most {MAX_SECRET} bytes")).into());
        }
        encode(self.name.to_string(), namespace, bytes, self.exact)
            .ok_or_else(|| CliError::usage(format!("the value of secret {} is empty", self.name)).into())
    }

    async fn read(&self) -> anyhow::Result<Vec<u8>> {
        if let Some(text) = &self.from_literal {
            return Ok(text.clone().into_bytes());
        }
        if let Some(path) = &self.from_file {
            let file = tokio::fs::File::open(path).await;
            let file = file.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
            return stdin::read_at_most(file, MAX_SECRET).await.with_context(|| path.display().to_string());
        }
        if stdin::is_terminal() {
            output::note("reading the secret from the terminal; end it with Ctrl-D");
        }
        stdin::read_at_most(stdin::open()?, MAX_SECRET).await.context("stdin")
    }
}

/// The secret as it is sent: as text if it is text, for gateways that take nothing else.
fn encode(name: String, namespace: Option<String>, bytes: Vec<u8>, exact: bool) -> Option<wire::Secret> {
    let (value, raw_value) = match String::from_utf8(bytes) {
        Ok(mut text) => {
            // An editor's or echo's line break at the end of a password is nearly always a mistake.
            if !exact && text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            (Some(text).filter(|text| !text.is_empty()), None)
        }
        Err(error) => (None, Some(base64::engine::general_purpose::STANDARD.encode(error.as_bytes()))),
    };
    let says_something = value.is_some() || raw_value.is_some();
    says_something.then_some(wire::Secret { name, namespace, value, raw_value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_loses_one_line_break_and_bytes_lose_nothing() {
        let sent = |bytes: &[u8], exact| {
            encode("s".into(), None, bytes.to_vec(), exact).map(|s| (s.value, s.raw_value))
        };
        let text = |text: &str| Some((Some(text.to_owned()), None));
        assert_eq!(sent(b"a b\n", false), text("a b"));
        assert_eq!(sent(b"a\r\n", false), text("a"));
        assert_eq!(sent(b"a\n\n", false), text("a\n"));
        assert_eq!(sent(b"a\n", true), text("a\n"));
        assert_eq!(sent(b"\xff\n", false), Some((None, Some("/wo=".to_owned()))));
        assert_eq!(sent(b"\n", false), None);
        assert_eq!(sent(b"", true), None);
    }
}
