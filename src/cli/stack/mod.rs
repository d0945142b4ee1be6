//! OpenFaaS stack files: from a file, a URL or stdin to the deployments that it describes.
//!
//! Invariant: a file that has one mistake deploys nothing. Everything it names is read and checked first.

mod schema;
mod select;
mod substitute;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::wire::{Deployment, Resources};

use super::environment;
use super::error::CliError;

pub(crate) use select::Selection;

/// A stack file, an environment file, and both with their variables filled in, have at most this many bytes.
const MAX_FILE: usize = 1 << 20;
/// How long a stack file may take to come from a URL.
const FETCH_WITHIN: Duration = Duration::from_secs(30);

/// What a stack file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// The gateway that it names.
    pub(crate) gateway: Option<String>,
    /// Its functions that were meant, by name.
    pub(crate) functions: Vec<Deployment>,
    /// What the user should know, but need not change.
    pub(crate) notes: Vec<String>,
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
        let (text, place) = read(file).await?;
        let shown = if file == "-" { "stdin" } else { file };
        let variable: Variables<'_> = &environment::any_variable;
        let stack = parse(&text, &place, &selection, Some(variable).filter(|_| !self.no_envsubst))
            .with_context(|| format!("stack file {shown}"))?;
        Ok(Some(stack))
    }
}

/// Looks up what `${NAME}` stands for.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where a stack file's own files are.
enum Place {
    Dir(PathBuf),
    /// It came over the network and has no business with files of this machine.
    Remote,
}

async fn read(file: &str) -> anyhow::Result<(String, Place)> {
    if file.starts_with("http://") || file.starts_with("https://") {
        return Ok((fetch(file).await.with_context(|| format!("stack file {file}"))?, Place::Remote));
    }
    if file == "-" {
        // A blocking read: nothing else is under way yet.
        return Ok((
            read_text(std::io::stdin().lock()).context("stack file from stdin")?,
            Place::Dir(PathBuf::new()),
        ));
    }
    let path = Path::new(file);
    let text = open_text(path).with_context(|| format!("stack file {file}"))?;
    Ok((text, Place::Dir(path.parent().unwrap_or_else(|| Path::new("")).to_owned())))
}

async fn fetch(url: &str) -> anyhow::Result<String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(FETCH_WITHIN).build()?;
    // Its message would have the URL, which the caller names already.
    let mut response = client.get(url).send().await.map_err(reqwest::Error::without_url)?;
    let status = response.status();
    if !status.is_success() {
        return Err(CliError::Usage(format!("the server answered {status}")).into());
    }
    let mut text = Vec::new();
    while let Some(part) = response.chunk().await? {
        text.extend_from_slice(&part);
        if text.len() > MAX_FILE {
            return Err(too_large().into());
        }
    }
    String::from_utf8(text).context("it is not UTF-8 text")
}

fn open_text(path: &Path) -> anyhow::Result<String> {
    let file = std::fs::File::open(path).map_err(|error| CliError::usage(error.to_string()))?;
    read_text(file)
}

fn read_text(from: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = Vec::new();
    from.take(MAX_FILE as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_FILE {
        return Err(too_large().into());
    }
    String::from_utf8(text).map_err(|_| CliError::usage("it is not UTF-8 text").into())
}

fn too_large() -> CliError {
    CliError::usage(format!("it is larger than {MAX_FILE} bytes"))
}

/// Reads a stack file's text. Without a `variable`, `${NAME}` stays as it is.
fn parse(
    text: &str,
    place: &Place,
    selection: &Selection,
    variable: Option<Variables<'_>>,
) -> anyhow::Result<Stack> {
    let wrong = |text: String| CliError::Usage(text);
    let mut notes = Vec::new();
    let text = match variable {
        None => text.to_owned(),
        Some(variable) => {
            let done = substitute::substitute(text, variable, MAX_FILE).map_err(wrong)?;
            notes.extend(
                done.missing
                    .iter()
                    .map(|name| format!("note: ${{{name}}} in the stack file is not set; taken as empty")),
            );
            done.text
        }
    };
    let file: schema::File = serde_norway::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    // What was understood above has no mistakes that this could find; only its keys are of interest.
    let keys: serde_norway::Value =
        serde_norway::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    notes.extend(schema::unknown_keys(&keys).iter().map(|key| format!("note: {key} is not known; ignored")));

    let provider = file.provider.unwrap_or_default();
    if let Some(name) = provider.name.filter(|name| name != "openfaas") {
        return Err(wrong(format!("provider.name is {name:?}; the only one there is: openfaas")).into());
    }
    if let Some(version) = file.version.filter(|version| version != "1.0") {
        return Err(wrong(format!("version is {version:?}; only 1.0 is understood")).into());
    }
    let all = file.functions.filter(|functions| !functions.is_empty());
    let all = all.ok_or_else(|| wrong("it has no functions".into()))?;
    let mut functions = Vec::new();
    for (name, function) in all.into_iter().filter(|(name, _)| selection.takes(name)) {
        let function = function.ok_or_else(|| wrong(format!("functions.{name} is empty")))?.merged();
        functions.push(deployment(&name, function, place)?);
    }
    if functions.is_empty() {
        return Err(wrong("no function in it matches --filter or --regex".into()).into());
    }
    Ok(Stack { gateway: provider.gateway.filter(|url| !url.is_empty()), functions, notes })
}

fn deployment(name: &str, function: schema::Function, place: &Place) -> anyhow::Result<Deployment> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let map = |texts: Option<schema::Texts>| texts.map(|texts| texts.0).filter(|map| !map.is_empty());
    let list = |items: Option<Vec<String>>| items.filter(|items| !items.is_empty());
    let resources = |sent: Option<schema::Resources>| {
        sent.map(|sent| Resources { memory: given(sent.memory), cpu: given(sent.cpu) })
            .filter(|resources| resources.memory.is_some() || resources.cpu.is_some())
    };
    let image = given(function.image).ok_or_else(|| {
        CliError::usage(format!("functions.{name}.image is missing: name the image that was built for it"))
    })?;
    let mut env_vars = function.environment.unwrap_or_default().0;
    for file in function.environment_file.unwrap_or_default() {
        // A file counts more than the stack file, and a later one more than an earlier one.
        let variables = environment_file(&file, place)
            .with_context(|| format!("functions.{name}.environment_file {file:?}"))?;
        env_vars.extend(variables);
    }
    Ok(Deployment {
        service: name.to_owned(),
        image,
        namespace: given(function.namespace),
        env_process: given(function.fprocess),
        env_vars: Some(env_vars).filter(|map| !map.is_empty()),
        constraints: list(function.constraints),
        secrets: list(function.secrets),
        labels: map(function.labels),
        annotations: map(function.annotations),
        limits: resources(function.limits),
        requests: resources(function.requests),
        read_only_root_filesystem: function.readonly_root_filesystem.filter(|set| *set),
    })
}

fn environment_file(file: &str, place: &Place) -> anyhow::Result<BTreeMap<String, String>> {
    let Place::Dir(dir) = place else {
        return Err(CliError::usage(
            "cannot be read: the stack file came from a URL; fetch both, and deploy from the local copy",
        )
        .into());
    };
    let text = open_text(&dir.join(file))?;
    let parsed: schema::EnvironmentFile =
        serde_norway::from_str(&text).map_err(|error| CliError::usage(error.to_string()))?;
    Ok(parsed.environment.unwrap_or_default().0)
}

#[cfg(test)]
mod tests;
