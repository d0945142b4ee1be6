//! Deploys what stands in a directory of stack files, once: how an image of a machine, or cloud-init,
//! says which functions it is to have before anybody has logged in.
//!
//! Functions that are there already are left alone. What cannot be deployed yet, as when the registry is
//! not reached, is tried again; the files are read anew each time, so that a mistake can be mended. When
//! all is done a mark is left in the state directory, and the files are not read again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fleet::{Fleet, FleetError};
use model::function::FunctionSpec;
use model::stack::{self, Files, StackError};
use model::wire::Deployment;

/// The file that says that it was done.
const MARK: &str = "first-boot.done";
/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why something of a directory could not be deployed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{path}", path = .0.display())]
    File(PathBuf, #[source] StackError),
    #[error("function {0}")]
    Function(String, #[source] FleetError),
    #[error("namespace {0}")]
    Namespace(String, #[source] FleetError),
}

/// Deploys what `directory` says, unless that was done before; returns when all of it is. May be dropped at
/// any moment: the next start goes on.
pub async fn load(directory: PathBuf, state_dir: PathBuf, fleet: Arc<Fleet>) {
    let mark = state_dir.join(MARK);
    if mark.exists() {
        return;
    }
    let (mut pause, longest) = PAUSES;
    let mut said = Vec::new();
    loop {
        let files = match stack::files_in(&directory) {
            Ok(files) if files.is_empty() => return,
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::error!(directory = %directory.display(), %error, "stack files of the first boot");
                return;
            }
        };
        let failures = deploy(&files, &fleet).await;
        if failures.is_empty() {
            tracing::info!(directory = %directory.display(), "the first boot's functions are deployed");
            if let Err(error) = fs::write(&mark, "") {
                tracing::warn!(mark = %mark.display(), %error, "the next start will look at them again");
            }
            return;
        }
        let failures: Vec<String> = failures.iter().map(|failure| model::error::chain(failure)).collect();
        // Each is said once, not once a minute.
        for failure in failures.iter().filter(|failure| !said.contains(*failure)) {
            tracing::warn!("not deployed at the first boot, and tried again: {failure}");
        }
        said = failures;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn deploy(files: &[PathBuf], fleet: &Fleet) -> Vec<Failure> {
    let mut failures = Vec::new();
    for path in files {
        let place = Files::In(path.parent().unwrap_or_else(|| Path::new("")).to_owned());
        let read = stack::open_text(path).and_then(|text| stack::parse(&text, &place, &|_| true, None));
        let stack = match read {
            Ok(stack) => stack,
            Err(error) => {
                failures.push(Failure::File(path.clone(), error));
                continue;
            }
        };
        for namespace in stack.namespaces {
            let name = namespace.name.clone();
            match fleet.create_namespace(namespace).await {
                Ok(()) | Err(FleetError::NamespaceExists(_)) => {}
                Err(error) => failures.push(Failure::Namespace(name, error)),
            }
        }
        for function in stack.functions {
            let name = function.service.clone();
            if let Err(error) = deploy_missing(function, fleet).await {
                failures.push(Failure::Function(name, error));
            }
        }
    }
    failures
}

async fn deploy_missing(function: Deployment, fleet: &Fleet) -> Result<(), FleetError> {
    let key = FunctionSpec::try_from(&function)?.key;
    if fleet.directory().get(&key).is_none() {
        fleet.deploy(function, false).await?;
    }
    Ok(())
}
