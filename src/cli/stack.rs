//! Stack files as commands take them: from a path, a URL or stdin.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use model::error::public_url;
use model::stack::{Files, MAX_FILE, Stack, StackError, as_text, open_text, parse, read_text};

use super::environment;
use super::error::CliError;
use super::gateway::is_loopback;
use super::selection::Selection;

/// How long a stack file may take to come from a URL.
const FETCH_WITHIN: Duration = Duration::from_secs(30);

impl From<StackError> for CliError {
    fn from(error: StackError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// The options that say which stack file is meant, and what of it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Stack file")]
pub(crate) struct StackArgs {
    /// OpenFaaS stack file: a path, an http(s) URL, or - for stdin
    #[arg(short = 'f', long = "file", visible_alias = "yaml", value_name = "STACK.YML")]
    pub(crate) file: Option<String>,
    /// Only functions whose name matches; * stands for any text
    #[arg(long, value_name = "GLOB", requires = "file")]
    filter: Option<String>,
    /// Only functions whose name the regular expression matches, anywhere in it
    #[arg(long, value_name = "REGEX", requires = "file", conflicts_with = "filter")]
    regex: Option<String>,
    /// Leave ${NAME} in the stack file as it is
    #[arg(long, requires = "file")]
    no_envsubst: bool,
}

impl StackArgs {
    /// The stack, if one was asked for.
    pub(crate) async fn load(&self) -> anyhow::Result<Option<Stack>> {
        let Some(file) = &self.file else { return Ok(None) };
        let selection = Selection::new(self.filter.as_deref(), self.regex.as_deref())?;
        let stack = load(file, &|name| selection.takes(name), !self.no_envsubst).await?;
        if stack.functions.is_empty() {
            let error = CliError::usage("no function in it matches --filter or --regex");
            return Err(anyhow::Error::from(error).context(format!("stack file {}", shown(file))));
        }
        Ok(Some(stack))
    }
}

/// The stack file at a path, a URL, or `-`: its functions that `takes` accepts.
pub(super) async fn load(file: &str, takes: &dyn Fn(&str) -> bool, fill_in: bool) -> anyhow::Result<Stack> {
    let stack = async {
        let (text, files) = read(file).await?;
        let variable: &dyn Fn(&str) -> Option<String> = &environment::any_variable;
        let stack =
            parse(&text, &files, takes, Some(variable).filter(|_| fill_in)).map_err(CliError::from)?;
        Ok::<_, anyhow::Error>(stack)
    };
    stack.await.with_context(|| format!("stack file {}", shown(file)))
}

/// Returns the name of a stack file for messages, without a password that its URL may contain.
fn shown(file: &str) -> String {
    match file {
        "-" => "stdin".to_owned(),
        url if is_url(url) => public_url(url),
        path => path.to_owned(),
    }
}

fn is_url(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

async fn read(file: &str) -> anyhow::Result<(String, Files)> {
    if is_url(file) {
        return Ok((fetch(file).await?, Files::Nowhere));
    }
    if file == "-" {
        // A blocking read: nothing else is under way yet.
        let text = read_text(std::io::stdin().lock()).map_err(CliError::from)?;
        return Ok((text, Files::In(std::path::PathBuf::new())));
    }
    let path = Path::new(file);
    let text = open_text(path).map_err(CliError::from)?;
    Ok((text, Files::In(path.parent().unwrap_or_else(|| Path::new("")).to_owned())))
}

async fn fetch(url: &str) -> anyhow::Result<String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().timeout(FETCH_WITHIN);
    if url.parse().is_ok_and(|url| is_loopback(&url)) {
        builder = builder.no_proxy();
    }
    let client = builder.build()?;
    // The message of the error would repeat the URL, password included; the caller adds the public one.
    let mut response = client.get(url).send().await.map_err(reqwest::Error::without_url)?;
    let status = response.status();
    if !status.is_success() {
        return Err(CliError::Usage(format!("the server answered {status}")).into());
    }
    let mut text = Vec::new();
    while text.len() <= MAX_FILE
        && let Some(part) = response.chunk().await.map_err(reqwest::Error::without_url)?
    {
        text.extend_from_slice(&part);
    }
    Ok(as_text(text).map_err(CliError::from)?)
}
