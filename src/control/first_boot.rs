//! Deploys what stands in a directory of stack files, once: how an image of a machine, or cloud-init,
//! says which functions it is to have before anybody has logged in.
//!
//! Functions that are there already are left alone. What cannot be deployed yet, as when the registry is
//! not reached, is tried again; the files are read anew each time, so that a mistake can be mended. What is done is
//! noted in the state directory, one by one: whoever removes it meanwhile does not get it back. When all is done a
//! mark is left there, and the files are not read again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fleet::{Fleet, FleetError};
use host::private_file;
use model::function::{FunctionKey, FunctionSpec};
use model::stack::{self, Files, StackError};
use model::wire::Deployment;

/// The file that says that it was done.
const MARK: &str = "first-boot.done";
/// File of the functions and namespaces that are done so far, a line each.
const PROGRESS: &str = "first-boot.progress";
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
    #[error("{path}", path = .0.display())]
    Progress(PathBuf, #[source] io::Error),
}

/// The functions and namespaces that the first boot is done with, however often the daemon starts.
struct Progress {
    state_dir: PathBuf,
    done: BTreeSet<String>,
}

impl Progress {
    fn read(state_dir: PathBuf) -> io::Result<Self> {
        let done = match std::fs::read_to_string(state_dir.join(PROGRESS)) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { state_dir, done })
    }

    fn has(&self, item: &str) -> bool {
        self.done.contains(item)
    }

    /// Notes what is done; returns when that is on disk. What could not be noted is done all the same, as long as
    /// this daemon runs.
    fn add(&mut self, item: String) -> Result<(), Failure> {
        self.done.insert(item);
        let lines: String = self.done.iter().flat_map(|item| [item, "\n"]).collect();
        private_file::write(&self.state_dir, PROGRESS, lines.as_bytes(), 0o600)
            .map_err(|error| Failure::Progress(self.state_dir.join(PROGRESS), error))
    }

    /// Notes that all is done.
    fn end(self) -> io::Result<()> {
        private_file::write(&self.state_dir, MARK, b"", 0o600)?;
        match std::fs::remove_file(self.state_dir.join(PROGRESS)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Deploys what `directory` says, unless that was done before; returns when all of it is. May be dropped at
/// any moment: the next start goes on.
pub async fn load(directory: PathBuf, state_dir: PathBuf, fleet: Arc<Fleet>) {
    if state_dir.join(MARK).exists() {
        return;
    }
    let mut progress = match Progress::read(state_dir) {
        Ok(progress) => progress,
        Err(error) => {
            tracing::error!(file = PROGRESS, %error, "nobody knows what the first boot has deployed; it ends here");
            return;
        }
    };
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
        let failures = deploy(&files, &fleet, &mut progress).await;
        if failures.is_empty() {
            tracing::info!(directory = %directory.display(), "the first boot's functions are deployed");
            if let Err(error) = progress.end() {
                tracing::warn!(mark = MARK, %error, "the next start will look at them again");
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

async fn deploy(files: &[PathBuf], fleet: &Fleet, progress: &mut Progress) -> Vec<Failure> {
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
            let item = format!("namespace {}", namespace.name);
            if !progress.has(&item) {
                let made = match fleet.create_namespace(namespace.clone()).await {
                    Ok(()) | Err(FleetError::NamespaceExists(_)) => progress.add(item),
                    Err(error) => Err(Failure::Namespace(namespace.name, error)),
                };
                failures.extend(made.err());
            }
        }
        for (place, function) in stack.functions.into_iter().enumerate() {
            if let Some(handler) = stack.handlers.get(&place) {
                let (function, handler) = (&function.service, handler.display());
                tracing::warn!(%function, %handler, "the first boot hands no code over: 'ingle apply -f' does");
            }
            let name = function.service.clone();
            let deployed = match FunctionSpec::try_from(&function) {
                Ok(spec) => deploy_missing(spec.key, function, fleet, progress).await,
                Err(error) => Err(Failure::Function(name, error.into())),
            };
            failures.extend(deployed.err());
        }
    }
    failures
}

async fn deploy_missing(
    key: FunctionKey,
    function: Deployment,
    fleet: &Fleet,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let item = format!("function {key}");
    if progress.has(&item) {
        return Ok(());
    }
    if fleet.directory().get(&key).is_none() {
        let deployed = fleet.deploy(function, false).await;
        deployed.map_err(|error| Failure::Function(key.to_string(), error))?;
    }
    progress.add(item)
}
