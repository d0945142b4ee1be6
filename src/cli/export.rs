//! `ingle export`

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use model::function::NamespaceName;
use model::wire::{Deployment, FunctionStatus, Namespace};

use super::client::Client;
use super::error::CliError;
use super::passphrase::Passphrase;
use super::{Globals, encrypted, handler, output};

/// Write all functions and namespaces as a stack file: a backup, and the way to another machine
///
/// 'ingle apply -f' reads it. Secrets, and code that is not in an image, are named in it; they are not there, but in
/// a file and a directory of their own if --secrets and --handlers say so.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Write to this file instead of stdout
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name images by the digest that runs, not by the tag that was deployed
    #[arg(long)]
    digests: bool,
    /// Write the secrets with their values to this file, encrypted with a passphrase in the format of age
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Write the code of functions that were deployed with --handler to this directory
    #[arg(long, value_name = "DIR")]
    handlers: Option<PathBuf>,
}

impl Export {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        if self.secrets.is_some() && self.secrets == self.output {
            return Err(CliError::usage("--secrets and --output name the same file").into());
        }
        if let Some(path) = &self.secrets {
            // Before anything else is written: a person is asked, and may give up.
            let passphrase = self.passphrase.choose().await?;
            encrypted::export(&client, globals.namespace(), path, passphrase).await?;
        }
        let namespaces = match globals.namespace() {
            Some(name) => vec![name.to_owned()],
            None => client.get(&["namespaces"], &[]).await?.json()?,
        };
        let mut found = Vec::new();
        for name in namespaces {
            let query = [("namespace", Some(name.as_str()))];
            let functions: Vec<FunctionStatus> = client.get(&["functions"], &query).await?.json()?;
            let deployments = functions.into_iter().map(|function| self.deployment(function)).collect();
            found.push((namespace(&client, name).await?, deployments));
        }
        let all = || found.iter().flat_map(|(_, functions): &(Namespace, Vec<Deployment>)| functions);
        match &self.handlers {
            Some(directory) => {
                let count = handler::save(&client, all(), directory).await?;
                output::note(format!("{count} handlers are in {}", directory.display()));
            }
            None => all().filter(|function| handler::of(function).is_some()).for_each(|function| {
                output::note(format!(
                    "{}: its code is not in the file, which only names it; --handlers DIR writes it there",
                    function.service
                ));
            }),
        }
        let text = model::stack::render(&found).map_err(CliError::from)?;
        let Some(path) = self.output else {
            return Ok(std::io::stdout().write_all(text.as_bytes())?);
        };
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        let count: usize = found.iter().map(|(_, functions)| functions.len()).sum();
        output::note(format!("{count} functions are in {}", path.display()));
        Ok(())
    }

    fn deployment(&self, function: FunctionStatus) -> Deployment {
        let digest = function.image_digest.clone().filter(|_| self.digests);
        let mut deployment = as_sent(function);
        if let Some(digest) = digest
            && !deployment.image.contains('@')
        {
            deployment.image = format!("{}@{digest}", deployment.image);
        }
        deployment
    }
}

/// A namespace with what is written on it.
pub(super) async fn namespace(client: &Client, name: String) -> anyhow::Result<Namespace> {
    match client.get(&["namespace", &name], &[]).await {
        Ok(answer) => answer.json(),
        // Gateways of one namespace cannot describe it.
        Err(CliError::Refused { status: 404, .. }) if name == NamespaceName::DEFAULT => {
            Ok(Namespace { name, ..Namespace::default() })
        }
        Err(error) => Err(error.into()),
    }
}

/// The deployment that made a function what it is: without what a gateway added, and with nothing that
/// says nothing.
pub(super) fn as_sent(function: FunctionStatus) -> Deployment {
    let mut labels = function.labels;
    labels.iter_mut().for_each(|labels| {
        labels.remove("faas_function");
    });
    plain(Deployment {
        service: function.name,
        image: function.image,
        namespace: function.namespace,
        env_process: function.env_process,
        env_vars: function.env_vars,
        constraints: function.constraints,
        secrets: function.secrets,
        labels,
        annotations: function.annotations,
        limits: function.limits,
        requests: function.requests,
        read_only_root_filesystem: Some(function.read_only_root_filesystem),
    })
}

/// The same deployment, written in the one way that two equal ones share.
pub(super) fn plain(deployment: Deployment) -> Deployment {
    let mut plain = model::stack::without_empty(deployment);
    plain.namespace = plain.namespace.filter(|name| name != NamespaceName::DEFAULT);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::wire::Resources;

    #[test]
    fn what_says_nothing_is_left_out() {
        let said = Deployment {
            service: "f".into(),
            image: "i".into(),
            namespace: Some("openfaas-fn".into()),
            labels: Some([("faas_function".to_owned(), "f".to_owned())].into()),
            env_vars: Some(Default::default()),
            limits: Some(Resources { memory: Some(String::new()), cpu: None }),
            read_only_root_filesystem: Some(false),
            ..Default::default()
        };
        let status = FunctionStatus {
            name: "f".into(),
            image: "i".into(),
            namespace: said.namespace.clone(),
            labels: said.labels.clone(),
            env_vars: said.env_vars.clone(),
            limits: said.limits.clone(),
            ..Default::default()
        };
        let small = Deployment { service: "f".into(), image: "i".into(), ..Default::default() };
        assert_eq!(as_sent(status), small);
        assert_eq!(plain(Deployment { labels: None, ..said }), small);
    }
}
