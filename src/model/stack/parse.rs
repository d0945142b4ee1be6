//! Text to deployments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;

use super::{MAX_FILE, StackError, open_text, schema, substitute};
use crate::wire::{Deployment, Namespace, Resources};

/// What a stack file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// The gateway that it names.
    pub gateway: Option<String>,
    /// Namespaces that it describes. Only ours do.
    pub namespaces: Vec<Namespace>,
    /// Its functions that were meant, by name.
    pub functions: Vec<Deployment>,
    /// Directories with the code of functions that no `lang` builds, by the function's place in `functions`.
    pub handlers: BTreeMap<usize, PathBuf>,
    /// What the user should know, but need not change.
    pub notes: Vec<String>,
}

/// Where a stack file's own files are.
#[derive(Debug, Clone)]
pub enum Files {
    /// In this directory.
    In(PathBuf),
    /// It came over the network and has no business with files of this machine.
    Nowhere,
}

/// Reads a stack file's text: those functions whose name `takes` accepts. Without a `variable`, `${NAME}`
/// stays as it is. A file may be several documents, as `ingle export` writes one for each namespace.
pub fn parse(
    text: &str,
    files: &Files,
    takes: &dyn Fn(&str) -> bool,
    variable: Option<substitute::Variables<'_>>,
) -> Result<Stack, StackError> {
    let mut stack = Stack::default();
    let source = text;
    let text = match (variable, files) {
        (None, _) => text.to_owned(),
        (Some(variable), Files::In(_)) => {
            let done = substitute::substitute(text, variable, MAX_FILE).map_err(StackError::new)?;
            stack.notes.extend(
                done.missing
                    .iter()
                    .map(|name| format!("note: ${{{name}}} in the stack file is not set; taken as empty")),
            );
            done.text
        }
        (Some(_), Files::Nowhere) => fill_in_defaults(text)?,
    };
    let wrong = |error: serde_norway::Error| StackError::new(error.to_string());
    let mut any = false;
    for document in serde_norway::Deserializer::from_str(&text) {
        let Some(file) = Option::<schema::File>::deserialize(document).map_err(wrong)? else { continue };
        any |= file.functions.as_ref().is_some_and(|functions| !functions.0.is_empty());
        any |= file.namespaces.as_ref().is_some_and(|namespaces| !namespaces.0.is_empty());
        stack.take(file, files, takes)?;
    }
    // What was understood above has no mistakes that this could find; only its keys are of interest.
    for document in serde_norway::Deserializer::from_str(&text) {
        let unknown = schema::unknown_keys(&schema::Keys::deserialize(document).map_err(wrong)?);
        stack.notes.extend(unknown.iter().map(|key| format!("note: {key} is not known; ignored")));
    }
    if !any {
        return Err(StackError::new("it has no functions"));
    }
    if variable.is_some() && stack.gateway.is_some() {
        refuse_variables_in_gateway(source, stack.gateway.as_deref())?;
    }
    Ok(stack)
}

/// Fills in the defaults of a text that came over the network. Variables of the environment are not used:
/// they may hold passwords, and the author of the text could have them sent to a registry or a gateway of his
/// choice.
fn fill_in_defaults(text: &str) -> Result<String, StackError> {
    let done = substitute::substitute(text, &|_| None, MAX_FILE).map_err(StackError::new)?;
    if done.missing.is_empty() {
        return Ok(done.text);
    }
    let names: Vec<String> = done.missing.iter().map(|name| format!("${{{name}}}")).collect();
    Err(StackError::new(format!(
        "{} is not filled in, because the file came from a URL: fetch it, look at it, and use the local copy; \
         --no-envsubst leaves it as it is",
        names.join(", ")
    )))
}

/// Refuses a gateway that depends on variables, which it detects by giving each variable its own name as its value. A
/// stack file must not put a secret into an address that requests are sent to.
fn refuse_variables_in_gateway(text: &str, gateway: Option<&str>) -> Result<(), StackError> {
    let named = |name: &str| Some(name.to_owned());
    let text = substitute::substitute(text, &named, MAX_FILE).map_err(StackError::new)?.text;
    let documents = serde_norway::Deserializer::from_str(&text).map(Option::<schema::Address>::deserialize);
    let gateways = documents.map_while(Result::ok).filter_map(|document| {
        let gateway = document?.provider?.gateway?;
        Some(gateway).filter(|gateway| !gateway.is_empty())
    });
    let fixed = gateways.into_iter().next();
    if fixed.as_deref() == gateway {
        return Ok(());
    }
    let shown = fixed.map_or_else(String::new, |gateway| format!(" (in {gateway:?})"));
    Err(StackError::new(format!(
        "provider.gateway has a variable{shown}: nothing is filled in there; write the address itself, or give it \
         with --gateway and leave it out of the file"
    )))
}

impl Stack {
    fn take(
        &mut self,
        file: schema::File,
        files: &Files,
        takes: &dyn Fn(&str) -> bool,
    ) -> Result<(), StackError> {
        let provider = file.provider.unwrap_or_default();
        if let Some(name) = provider.name.filter(|name| name != "openfaas") {
            return Err(StackError::new(format!(
                "provider.name is {name:?}; the only one there is: openfaas"
            )));
        }
        if let Some(version) = file.version.filter(|version| version != "1.0") {
            return Err(StackError::new(format!("version is {version:?}; only 1.0 is understood")));
        }
        if self.gateway.is_none() {
            self.gateway = provider.gateway.filter(|url| !url.is_empty());
        }
        for (name, namespace) in file.namespaces.unwrap_or_default().0 {
            let namespace = namespace.unwrap_or_default();
            self.namespaces.push(Namespace {
                name,
                labels: map(namespace.labels),
                annotations: map(namespace.annotations),
            });
        }
        let functions = file.functions.unwrap_or_default().0;
        for (name, function) in functions.into_iter().filter(|(name, _)| takes(name)) {
            let function = function.ok_or_else(|| StackError::new(format!("functions.{name} is empty")))?;
            let function = function.merged();
            if let Some(handler) = function.code() {
                let place = || format!("functions.{name}.handler {handler:?}");
                let directory = beside(files).map_err(|error| error.at(place()))?.join(handler);
                self.handlers.insert(self.functions.len(), directory);
            }
            self.functions.push(deployment(&name, function, files)?);
        }
        Ok(())
    }
}

fn map(texts: Option<schema::Texts>) -> Option<BTreeMap<String, String>> {
    texts.map(|texts| texts.0).filter(|map| !map.is_empty())
}

fn deployment(name: &str, function: schema::Function, files: &Files) -> Result<Deployment, StackError> {
    let image = function.image.filter(|image| !image.is_empty()).ok_or_else(|| {
        StackError::new(format!("functions.{name}.image is missing: name the image that was built for it"))
    })?;
    let mut env_vars = function.environment.unwrap_or_default().0;
    for file in function.environment_file.unwrap_or_default() {
        // A file counts more than the stack file, and a later one more than an earlier one.
        let variables = environment_file(&file, files)
            .map_err(|error| error.at(format_args!("functions.{name}.environment_file {file:?}")))?;
        env_vars.extend(variables);
    }
    Ok(without_empty(Deployment {
        service: name.to_owned(),
        image,
        namespace: function.namespace,
        env_process: function.fprocess,
        env_vars: Some(env_vars),
        constraints: function.constraints,
        secrets: function.secrets,
        labels: map(function.labels),
        annotations: map(function.annotations),
        limits: function.limits,
        requests: function.requests,
        read_only_root_filesystem: function.readonly_root_filesystem.map(|flag| flag.0),
    }))
}

/// Returns a deployment without what says nothing, and so in the one form that two equal ones share.
pub fn without_empty(deployment: Deployment) -> Deployment {
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let list = |list: Option<Vec<String>>| list.filter(|list| !list.is_empty());
    let map = |map: Option<BTreeMap<String, String>>| map.filter(|map| !map.is_empty());
    let resources = |given: Option<Resources>| {
        let given = given.map(|given| Resources { memory: text(given.memory), cpu: text(given.cpu) });
        given.filter(|given| *given != Resources::default())
    };
    Deployment {
        namespace: text(deployment.namespace),
        env_process: text(deployment.env_process),
        env_vars: map(deployment.env_vars),
        constraints: list(deployment.constraints),
        secrets: list(deployment.secrets),
        labels: map(deployment.labels),
        annotations: map(deployment.annotations),
        limits: resources(deployment.limits),
        requests: resources(deployment.requests),
        read_only_root_filesystem: deployment.read_only_root_filesystem.filter(|set| *set),
        service: deployment.service,
        image: deployment.image,
    }
}

/// Returns the directory that the stack file's own files are in.
fn beside(files: &Files) -> Result<&Path, StackError> {
    match files {
        Files::In(directory) => Ok(directory),
        Files::Nowhere => Err(StackError::new(
            "cannot be read: the stack file came from a URL; fetch both, and deploy from the local copy",
        )),
    }
}

fn environment_file(file: &str, files: &Files) -> Result<BTreeMap<String, String>, StackError> {
    let text = open_text(&beside(files)?.join(file))?;
    let parsed: schema::EnvironmentFile =
        serde_norway::from_str(&text).map_err(|error| StackError::new(error.to_string()))?;
    Ok(parsed.environment.unwrap_or_default().0)
}
