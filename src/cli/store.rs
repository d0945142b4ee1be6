//! `ingle store`

use anyhow::bail;
use reqwest::Method;

use model::function::FunctionName;
use model::wire::{Repaired, StoreStatus};

use super::Globals;
use super::deploy::{self, Failures, Waiting};
use super::error::CliError;
use super::output::{self, Form};
use super::rollout::Submitted;

/// Look whether all that the daemon keeps can be used, and mend it
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Store {
    /// Show files that cannot be used, containers without a function, and whether calls can be queued
    ///
    /// Ends with 1 if anything is wrong.
    Check(Form),
    /// Deploy what a function's file says that was set aside, because it is damaged or was edited
    Accept {
        /// The function's name
        name: FunctionName,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Have an empty state directory go on with the functions that run on this machine
    ///
    /// The password, secrets and queued calls of the old directory are not there: the daemon makes a new password.
    Adopt,
    /// Set a store of queued calls aside that cannot be opened, and begin with an empty one
    ///
    /// Functions are not in it. Queued calls, records and schedules' last runs are, and stay in the directory that
    /// is set aside.
    Repair,
}

impl Store {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        match self {
            Self::Check(form) => {
                let answer = client.get(&["store"], &[]).await?;
                let status: StoreStatus = answer.json()?;
                let count = problems(&status);
                form.print(&answer, check)?;
                match count {
                    0 => Ok(()),
                    1 => bail!(CliError::Failed("one problem was found".into())),
                    count => bail!(CliError::Failed(format!("{count} problems were found"))),
                }
            }
            Self::Accept { name, waiting } => {
                let query = [("function", Some(name.as_str())), ("namespace", globals.namespace())];
                let answer = client.system(Method::POST, &["store", "accept"], &query).send().await?;
                let Some(revision) = deploy::revision(&answer) else {
                    bail!(CliError::Failed(format!(
                        "{} does not say which revision it made",
                        client.gateway()
                    )));
                };
                let name = name.to_string();
                let submitted = Submitted { name, namespace: globals.namespace.clone(), revision };
                let accepted = format!("accepted as revision {revision}");
                waiting.follow(&client, &[submitted], &accepted, Failures::new(1)).await
            }
            Self::Adopt => {
                client.system(Method::POST, &["store", "adopt"], &[]).send().await?;
                Ok(output::line("adopted: the daemon begins anew with the functions that run")?)
            }
            Self::Repair => {
                let answer = client.system(Method::POST, &["store", "repair"], &[]).send().await?;
                let Repaired { damaged } = answer.json()?;
                Ok(output::line(format!("the store begins anew; the damaged one is {damaged}"))?)
            }
        }
    }
}

fn problems(status: &StoreStatus) -> usize {
    status.set_aside.len() + status.orphans.len() + usize::from(status.out_of_service.is_some())
}

fn check(status: StoreStatus) -> anyhow::Result<()> {
    let nothing = problems(&status) == 0;
    output::line(format!("state directory {}", status.identity))?;
    if let Some(reason) = status.out_of_service {
        output::line(reason)?;
    }
    for aside in status.set_aside {
        output::line(format!("{} is set aside in {}: {}", aside.subject, aside.path, aside.reason))?;
    }
    for orphan in status.orphans {
        let runs = if orphan.running { "runs" } else { "does not run" };
        output::line(format!(
            "container {} of {} {runs}: {}",
            orphan.replica, orphan.function, orphan.reason
        ))?;
    }
    if nothing {
        output::line("all is well")?;
    }
    Ok(())
}
