//! `ingle deploy`

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

use model::function::{FunctionName, parse_duration};
use model::wire::{Deployment, FunctionStatus};

use super::Globals;
use super::client::{Answer, Client};
use super::error::{CliError, Exit};
use super::handler::{self, Packed};
use super::options::{Options, set};
use super::output;
use super::rollout::{self, Submitted};
use super::stack::StackArgs;

/// Deploy a function, or all functions of a stack file, and wait until they answer
///
/// A function that is there already is updated: the new revision takes over once it answers, and the old one
/// goes on serving if it never does.
#[derive(Debug, clap::Args)]
pub(crate) struct Deploy {
    /// The function's name
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// The image to run
    #[arg(long, value_name = "IMAGE", required_unless_present = "file", conflicts_with = "file")]
    image: Option<String>,
    /// A directory with the function's code, shown to it at /home/app/function
    ///
    /// For code that has no image of its own: --image python:3 --handler ./hello --fprocess "python3
    /// function/handler.py". The daemon keeps it with the revision, and a rollback brings the old code back.
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    handler: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    stack: StackArgs,
    #[command(flatten)]
    waiting: Waiting,
}

impl Deploy {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let handler = self.handler.as_deref().map(Packed::read).transpose()?;
        let mut handlers = Vec::new();
        let (mut deployments, gateway) = match (self.stack.load().await?, self.name, self.image) {
            (Some(mut stack), ..) => {
                stack.notes.iter().for_each(output::note);
                handlers = handler::read_all(&mut stack)?;
                (stack.functions, stack.gateway)
            }
            (None, Some(service), Some(image)) => {
                (vec![Deployment { service, image, ..Default::default() }], None)
            }
            (None, ..) => {
                return Err(CliError::usage("give a name and --image, or a stack file with -f").into());
            }
        };
        for deployment in &mut deployments {
            self.options.apply(deployment);
            if let Some(namespace) = globals.namespace() {
                deployment.namespace = Some(namespace.to_owned());
            }
            let name = deployment.service.parse::<FunctionName>();
            name.map_err(|error| CliError::Usage(format!("function name {}", error.reason)))?;
        }
        let client = Client::open(globals.gateway.as_deref(), gateway.as_deref())?;
        if let Some(handler) = handler {
            let digest = handler.hand_over(&client).await?;
            for deployment in &mut deployments {
                set(deployment, handler::ANNOTATION, digest.to_string(), false);
            }
        }
        for handler in handlers {
            handler.hand_over(&client).await?;
        }
        self.waiting.hand_over(&client, &deployments).await
    }
}

/// How long to wait for what was deployed.
#[derive(Debug, clap::Args)]
pub(super) struct Waiting {
    /// Return as soon as the daemon has accepted it
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until it answers
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    wait_timeout: Duration,
}

impl Waiting {
    /// Deploys all of these, and waits for them.
    pub(super) async fn hand_over(&self, client: &Client, deployments: &[Deployment]) -> anyhow::Result<()> {
        // All are handed over first, so that the daemon fetches their images side by side.
        let mut failures = Failures::new(deployments.len());
        let mut submitted = Vec::new();
        for deployment in deployments {
            match submit(client, deployment, self.no_wait).await {
                Ok(done) => submitted.push(done),
                Err(error) => failures.add(error)?,
            }
        }
        self.follow(client, &submitted, "accepted", failures).await
    }

    /// Waits for what was deployed, or only says that it was `accepted` if nobody wants to wait.
    pub(super) async fn follow(
        &self,
        client: &Client,
        submitted: &[Submitted],
        accepted: &str,
        mut failures: Failures,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.wait_timeout;
        for function in submitted {
            let url = client.gateway().function(&function.name, function.namespace.as_deref());
            if self.no_wait {
                output::line(format!("{} was {accepted}: {url}", function.name))?;
                continue;
            }
            match rollout::until_ready(client, function, deadline).await {
                Ok(status) => output::line(format!("{} is {}: {url}", function.name, in_words(&status)))?,
                Err(error) => failures.add(error)?,
            }
        }
        failures.result()
    }
}

/// How a function is that was waited for.
fn in_words(status: &FunctionStatus) -> String {
    let phase = if status.phase.is_empty() { "ready" } else { &status.phase };
    match &status.image_digest {
        Some(digest) => {
            format!("{phase} (revision {}, image {})", status.revision, output::short_digest(digest))
        }
        None => phase.to_owned(),
    }
}

/// Hands a deployment over. An update that finds nothing becomes a creation: the first is what every
/// gateway takes for a function that is there.
async fn submit(client: &Client, deployment: &Deployment, no_wait: bool) -> anyhow::Result<Submitted> {
    let (name, namespace) = (deployment.service.as_str(), deployment.namespace.as_deref());
    let before = if no_wait { None } else { rollout::look(client, name, namespace).await? };
    let send = |method| client.system(method, &["functions"], &[]).json(deployment).send();
    let answer = match send(Method::PUT).await {
        Err(CliError::Refused { status: 404, .. }) => send(Method::POST).await,
        other => other,
    };
    let answer = answer.map_err(|error| anyhow::Error::from(error).context(format!("function {name}")))?;
    Ok(Submitted {
        name: name.to_owned(),
        namespace: deployment.namespace.clone(),
        revision: revision(&answer).unwrap_or_else(|| before.map_or(0, |status| status.revision) + 1),
    })
}

/// The revision that an answer names.
pub(super) fn revision(answer: &Answer) -> Option<u64> {
    answer.headers.get("x-revision")?.to_str().ok()?.parse().ok()
}

/// Collects what went wrong with some of several functions.
pub(super) struct Failures {
    of: usize,
    failed: usize,
}

impl Failures {
    pub(super) fn new(of: usize) -> Self {
        Self { of, failed: 0 }
    }

    /// Takes note of a failure and lets the others go on, unless there are none or they would fail alike.
    pub(super) fn add(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if self.of == 1 || Exit::of(&error) != Exit::Failed {
            return Err(error);
        }
        output::note(format!("ingle: {error:#}"));
        self.failed += 1;
        Ok(())
    }

    pub(super) fn result(self) -> anyhow::Result<()> {
        match self.failed {
            0 => Ok(()),
            failed => Err(CliError::Failed(format!("{failed} of {} functions failed", self.of)).into()),
        }
    }
}
