//! From an accepted deploy to a function that answers, told on the way.

use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use model::wire::{FunctionStatus, UpdateStatus};

use super::client::Client;
use super::error::CliError;
use super::output::Progress;

/// How often the gateway is asked.
const POLL_EVERY: Duration = Duration::from_millis(250);
/// How often in a row it may be silent, as when the daemon is restarted in the meantime.
const MAX_MISSES: u32 = 40;

/// A deploy that was accepted.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    /// The revision that it made.
    pub(crate) revision: u64,
}

/// How a function is, or `None` if there is none of this name.
pub(crate) async fn look(
    client: &Client,
    name: &str,
    namespace: Option<&str>,
) -> anyhow::Result<Option<FunctionStatus>> {
    match client.get(&["function", name], &[("namespace", namespace)]).await {
        Ok(answer) => Ok(Some(answer.json()?)),
        Err(CliError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the deployed revision answers, and shows how far it has come.
pub(crate) async fn until_ready(
    client: &Client,
    function: &Submitted,
    deadline: Instant,
) -> anyhow::Result<FunctionStatus> {
    let name = &function.name;
    let mut progress = Progress::new();
    let mut misses = 0;
    loop {
        let last = match look(client, name, function.namespace.as_deref()).await {
            Ok(Some(status)) => {
                misses = 0;
                match judge(&status, function.revision) {
                    Verdict::Ready => return Ok(status),
                    Verdict::Failed(reason) => {
                        bail!(CliError::Failed(format!("function {name} {reason}")));
                    }
                    Verdict::Wait(text) => text,
                }
            }
            Ok(None) => {
                bail!(CliError::Failed(format!("function {name} was removed before it was ready")));
            }
            Err(error) => {
                misses += 1;
                if misses > MAX_MISSES || !is_unreachable(&error) {
                    return Err(error);
                }
                "waiting for the daemon".to_owned()
            }
        };
        if Instant::now() >= deadline {
            bail!(CliError::Failed(format!(
                "function {name} is not ready yet ({last}), and --wait-timeout is over; it goes on: \
                 see 'ingle describe {name}'"
            )));
        }
        progress.show(&format!("{name}: {last}"));
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(CliError::Unreachable { .. } | CliError::Silent { .. } | CliError::Broken { .. })
    )
}

/// What a status means for someone who waits for a revision.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ready,
    /// Goes on; how far it is.
    Wait(String),
    /// Will not come; why, after the function's name.
    Failed(String),
}

fn judge(status: &FunctionStatus, wanted: u64) -> Verdict {
    let reason = status.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    if status.phase.is_empty() {
        // Another gateway: it tells no phases.
        return if status.available_replicas > 0 {
            Verdict::Ready
        } else {
            Verdict::Wait("waiting for a replica".into())
        };
    }
    if status.revision < wanted {
        // The view is still that of an earlier revision, which serves.
        return match &status.update {
            Some(update) if update.revision == wanted => judge_update(update, status.revision),
            Some(update) if update.revision > wanted => {
                Verdict::Failed(format!("was deployed again meanwhile, as revision {}", update.revision))
            }
            _ => Verdict::Wait("accepted".into()),
        };
    }
    match status.phase.as_str() {
        "ready" | "stopped" => Verdict::Ready,
        "failed" => Verdict::Failed(format!("failed: {}", reason.unwrap_or("the daemon gives no reason"))),
        "backing-off" => Verdict::Failed(format!(
            "does not start, and is tried again: {}",
            reason.unwrap_or("the daemon gives no reason")
        )),
        "removing" => Verdict::Failed("is being removed".into()),
        phase => Verdict::Wait(under_way(phase, reason)),
    }
}

fn judge_update(update: &UpdateStatus, serving: u64) -> Verdict {
    let reason = update.reason.as_deref();
    match update.phase.as_str() {
        "failed" => Verdict::Failed(format!(
            "could not be updated, and revision {serving} goes on serving: {}",
            reason.unwrap_or("the daemon gives no reason")
        )),
        phase => Verdict::Wait(under_way(phase, reason)),
    }
}

/// A phase with how far it is; the reason often says the phase again.
fn under_way(phase: &str, reason: Option<&str>) -> String {
    match reason {
        // A step of a pull says itself what is done.
        Some(reason) if phase == "pulling" || reason.starts_with(phase) => reason.to_owned(),
        Some(reason) => format!("{phase}: {reason}"),
        None => phase.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str, revision: u64, reason: Option<&str>) -> FunctionStatus {
        FunctionStatus {
            phase: phase.into(),
            revision,
            reason: reason.map(str::to_owned),
            available_replicas: u32::from(phase == "ready"),
            ..FunctionStatus::default()
        }
    }

    #[test]
    fn a_status_is_judged_by_the_revision_that_is_waited_for() {
        let wait = |text: &str| Verdict::Wait(text.to_owned());
        let failed = |text: &str| Verdict::Failed(text.to_owned());
        for (phase, revision, reason, verdict) in [
            ("pulling", 3, Some("pulling 1.0/2.0 MB"), wait("pulling 1.0/2.0 MB")),
            ("pulling", 3, None, wait("pulling")),
            ("starting", 3, Some("no answer on port 8080 yet"), wait("starting: no answer on port 8080 yet")),
            ("ready", 3, None, Verdict::Ready),
            ("ready", 4, None, Verdict::Ready),
            ("stopped", 3, None, Verdict::Ready),
            ("failed", 3, Some("exit 1"), failed("failed: exit 1")),
            ("failed", 3, None, failed("failed: the daemon gives no reason")),
            ("backing-off", 3, Some("exit 1"), failed("does not start, and is tried again: exit 1")),
            ("removing", 3, None, failed("is being removed")),
            ("ready", 2, None, wait("accepted")),
            ("ready", 2, Some("a replica was replaced"), wait("accepted")),
        ] {
            assert_eq!(judge(&status(phase, revision, reason), 3), verdict, "{phase} {revision} {reason:?}");
        }
    }

    #[test]
    fn an_update_is_judged_by_itself_while_the_old_revision_serves() {
        let judged = |revision, phase: &str, reason: Option<&str>| {
            let update = UpdateStatus { revision, phase: phase.into(), reason: reason.map(str::to_owned) };
            judge(&FunctionStatus { update: Some(update), ..status("ready", 2, None) }, 3)
        };
        let wait = |text: &str| Verdict::Wait(text.to_owned());
        assert_eq!(judged(3, "pulling", Some("pulling 1.0/2.0 MB")), wait("pulling 1.0/2.0 MB"));
        assert_eq!(judged(3, "pulling", Some("unpacking the image")), wait("unpacking the image"));
        assert_eq!(judged(3, "starting", None), wait("starting"));
        let failed = "could not be updated, and revision 2 goes on serving: exit 1";
        assert_eq!(judged(3, "failed", Some("exit 1")), Verdict::Failed(failed.into()));
        // That of an earlier deploy, and that of a later one.
        assert_eq!(judged(1, "failed", Some("exit 1")), wait("accepted"));
        assert_eq!(
            judged(4, "pulling", None),
            Verdict::Failed("was deployed again meanwhile, as revision 4".into())
        );
    }

    #[test]
    fn a_gateway_without_phases_is_asked_for_replicas() {
        assert_eq!(judge(&status("", 0, None), 1), Verdict::Wait("waiting for a replica".into()));
        let up = FunctionStatus { available_replicas: 1, ..FunctionStatus::default() };
        assert_eq!(judge(&up, 1), Verdict::Ready);
    }
}
