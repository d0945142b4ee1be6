//! `ingle describe`

use std::collections::BTreeMap;

use model::function::FunctionName;
use model::wire::{FunctionStatus, KeptRevision, LastExit, Resources, UpdateStatus};

use super::client::Client;
use super::output::{self, Form};
use super::{Globals, cron, list};

/// Show all about a function
#[derive(Debug, clap::Args)]
pub(crate) struct Describe {
    /// The function's name
    name: FunctionName,
    #[command(flatten)]
    form: Form,
}

impl Describe {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let query = [("namespace", globals.namespace()), ("usage", Some("1"))];
        let answer = client.get(&["function", self.name.as_str()], &query).await?;
        self.form.print(&answer, |status| Ok(output::fields(&fields(&client, &status))?))
    }
}

fn fields(client: &Client, status: &FunctionStatus) -> Vec<(&'static str, String)> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    let usage = status.usage.map(|usage| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "for people; it saturates"
        )]
        let memory = output::bytes(usage.total_memory_bytes as u64);
        format!("{:.0}m cpu, {memory} memory", usage.cpu)
    });
    let mut fields = vec![
        ("Name", status.name.clone()),
        ("Namespace", text(&status.namespace)),
        ("Phase", list::phase(status).to_owned()),
        ("Reason", text(&status.reason)),
        ("Update", status.update.as_ref().map(update).unwrap_or_default()),
        ("Replicas", format!("{} of {} can serve", status.available_replicas, status.replicas)),
        ("Restarts", status.restarts.to_string()),
        ("OOMKilled", if status.oom_kills == 0 { String::new() } else { oom_kills(status.oom_kills) }),
        ("Last exit", status.last_exit.as_ref().map(last_exit).unwrap_or_default()),
        ("Calls", status.invocation_count.to_string()),
        ("URL", client.gateway().function(&status.name, status.namespace.as_deref()).to_string()),
        ("Image", status.image.clone()),
        ("Digest", text(&status.image_digest)),
        ("Revision", number(status.revision)),
        ("Created", status.created_at.as_deref().map(output::time).unwrap_or_default()),
        ("Revisions", status.revisions.iter().map(revision).collect::<Vec<_>>().join("\n")),
        ("Usage", usage.unwrap_or_default()),
        ("Process", text(&status.env_process)),
        ("Limits", limits(status)),
        ("Requests", resources(status.requests.as_ref())),
        ("Read-only", if status.read_only_root_filesystem { "yes".into() } else { String::new() }),
        ("Secrets", status.secrets.as_ref().map(|names| names.join("\n")).unwrap_or_default()),
        ("Constraints", status.constraints.as_ref().map(|names| names.join("\n")).unwrap_or_default()),
        ("Environment", pairs(status.env_vars.as_ref())),
        ("Labels", pairs(status.labels.as_ref())),
        ("Annotations", pairs(status.annotations.as_ref())),
    ];
    if let Some(timer) = &status.cron {
        // After the calls, of which some are these.
        let place = fields.iter().position(|(name, _)| *name == "URL").unwrap_or(fields.len());
        fields.splice(place..place, cron::fields(timer));
    }
    fields
}

fn update(update: &UpdateStatus) -> String {
    let reason = update.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("revision {} {}{reason}", update.revision, update.phase)
}

fn last_exit(exit: &LastExit) -> String {
    let why = if exit.out_of_memory { ", out of memory (OOMKilled)" } else { "" };
    let LastExit { replica, revision, code, at, .. } = exit;
    let mut first =
        format!("code {code}{why}, {}, replica {replica} of revision {revision}", output::time(at));
    if let Some(reason) = &exit.reason {
        first.push_str("\nit ");
        first.push_str(reason);
    }
    std::iter::once(&first).chain(&exit.output).cloned().collect::<Vec<_>>().join("\n")
}

/// A revision that one can go back to.
fn revision(kept: &KeptRevision) -> String {
    let KeptRevision { revision, image, image_digest, created_at } = kept;
    format!("{revision}: {image}, {}, {}", output::short_digest(image_digest), output::time(created_at))
}

fn oom_kills(count: u64) -> String {
    format!("{count} of its processes ran out of memory; raise limits.memory")
}

/// Limits as they were sent, and the defaults where nothing was.
fn limits(status: &FunctionStatus) -> String {
    let defaults = resources(status.default_limits.as_ref());
    let defaults = if defaults.is_empty() { defaults } else { defaults + " (default)" };
    let given = resources(status.limits.as_ref());
    [given, defaults].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}

fn resources(resources: Option<&Resources>) -> String {
    let Some(Resources { memory, cpu }) = resources else { return String::new() };
    let memory = memory.as_ref().map(|text| format!("{text} memory"));
    let cpu = cpu.as_ref().map(|text| format!("{text} cpu"));
    memory.into_iter().chain(cpu).collect::<Vec<_>>().join(", ")
}

/// A map, a line for each pair.
pub(super) fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.replace('\n', "\\n")));
    lines.collect::<Vec<_>>().join("\n")
}
