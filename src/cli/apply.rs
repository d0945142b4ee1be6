//! `ingle apply`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::Method;

use model::stack::Stack;
use model::wire::{Deployment, Namespace};

use super::client::Client;
use super::deploy::Waiting;
use super::error::CliError;
use super::handler::{self, Carried};
use super::passphrase::Passphrase;
use super::{Globals, encrypted, export, output, rollout, stack};

/// Make functions and namespaces as stack files say, and leave alone what is so already
///
/// Takes what 'ingle export' writes, and any OpenFaaS stack file. Functions that no file names stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    /// Stack file: a path, a directory of *.yml and *.yaml, an http(s) URL, or - for stdin
    #[arg(short = 'f', long = "file", value_name = "STACK.YML", required_unless_present = "secrets")]
    files: Vec<String>,
    /// Set the secrets of this file first: what 'ingle export --secrets' wrote
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Hand over the code that functions need from this directory: what 'ingle export --handlers' wrote
    #[arg(long, value_name = "DIR", requires = "files")]
    handlers: Option<PathBuf>,
    /// Leave ${NAME} in the files as it is
    #[arg(long)]
    no_envsubst: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Apply {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        // All are read before anything is sent.
        let mut wanted = Stack::default();
        let mut handlers = Vec::new();
        for file in self.files()? {
            let mut read = stack::load(&file, &|_| true, !self.no_envsubst).await?;
            read.notes.iter().for_each(output::note);
            handlers.extend(handler::read_all(&mut read)?);
            wanted.gateway = wanted.gateway.or(read.gateway);
            wanted.namespaces.extend(read.namespaces);
            wanted.functions.extend(read.functions);
        }
        let mut secrets = Vec::new();
        if let Some(path) = &self.secrets {
            let passphrase = self.passphrase.ask(path).await?;
            secrets = encrypted::open(path, passphrase, globals.namespace()).await?;
        }
        let client = Client::open(globals.gateway.as_deref(), wanted.gateway.as_deref())?;
        let mut carried = Carried::default();
        if let Some(directory) = &self.handlers {
            let is_carried = |function: &&Deployment| !handlers.iter().any(|packed| packed.is_of(function));
            let functions = wanted.functions.iter().filter(is_carried);
            carried = Carried::find(&client, functions, directory).await?;
        }
        for namespace in wanted.namespaces {
            apply_namespace(&client, namespace).await?;
        }
        for secret in &secrets {
            encrypted::set(&client, secret).await?;
        }
        carried.hand_over(&client).await?;
        for handler in handlers {
            handler.hand_over(&client).await?;
        }
        let mut changed: Vec<Deployment> = Vec::new();
        for mut deployment in wanted.functions {
            if let Some(namespace) = globals.namespace() {
                deployment.namespace = Some(namespace.to_owned());
            }
            let deployment = export::plain(deployment);
            let (name, namespace) = (deployment.service.as_str(), deployment.namespace.as_deref());
            let there = rollout::look(&client, name, namespace).await?.map(export::as_sent);
            if there.as_ref() == Some(&deployment) {
                output::line(format!("{name} is unchanged"))?;
            } else {
                changed.push(deployment);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.waiting.hand_over(&client, &changed).await
    }

    /// The files that are meant, with those in directories in the order of their names.
    fn files(&self) -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        for file in &self.files {
            if !Path::new(file).is_dir() {
                all.push(file.clone());
                continue;
            }
            let found =
                model::stack::files_in(Path::new(file)).with_context(|| format!("directory {file}"))?;
            if found.is_empty() {
                return Err(CliError::usage(format!("directory {file} has no *.yml or *.yaml")).into());
            }
            all.extend(found.iter().map(|path| path.display().to_string()));
        }
        Ok(all)
    }
}

async fn apply_namespace(client: &Client, namespace: Namespace) -> anyhow::Result<()> {
    let name = namespace.name.clone();
    let there = match export::namespace(client, name.clone()).await {
        Ok(there) => Some(there),
        Err(error) => match error.downcast_ref() {
            Some(CliError::Refused { status: 404, .. }) => None,
            _ => return Err(error),
        },
    };
    let plain = |namespace: &Namespace| {
        let of = |map: &Option<std::collections::BTreeMap<_, _>>| map.clone().unwrap_or_default();
        (of(&namespace.labels), of(&namespace.annotations))
    };
    let (method, done) = match there {
        Some(there) if plain(&there) == plain(&namespace) => return Ok(()),
        Some(_) => (Method::PUT, "changed"),
        None => (Method::POST, "created"),
    };
    client.system(method, &["namespace", &name], &[]).json(&namespace).send().await?;
    Ok(output::line(format!("namespace {name} was {done}"))?)
}
