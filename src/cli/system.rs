//! `ingle system`

use reqwest::Method;

use model::wire::{DiskUsage, Pruned, Share};

use super::Globals;
use super::output::{self, Form};

/// Show what is on the disk, and remove what nobody uses
#[derive(Debug, clap::Subcommand)]
pub(crate) enum System {
    /// Show how much of the disk images, logs and the store take, and how much of that nobody uses
    Df(Form),
    /// Remove images that no function uses, and whatever else is left over
    Prune {
        /// Remove containers too that belong to no function: 'ingle store check' lists them
        #[arg(long)]
        orphans: bool,
        #[command(flatten)]
        form: Form,
    },
}

impl System {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        match self {
            Self::Df(form) => form.print(&client.get(&["df"], &[]).await?, df),
            Self::Prune { orphans, form } => {
                let query = [("orphans", orphans.then_some("true"))];
                form.print(&client.system(Method::POST, &["prune"], &query).send().await?, prune)
            }
        }
    }
}

fn df(usage: DiskUsage) -> anyhow::Result<()> {
    let row = |kind: &str, share: Share| {
        [kind.to_owned(), share.count.to_string(), output::bytes(share.size), output::bytes(share.unused)]
    };
    let rows = [
        row("images", usage.images),
        row("layers", usage.layers),
        row("replicas", usage.replicas),
        row("handlers", usage.handlers),
        row("logs", usage.logs),
        row("store", usage.store),
        row("queued calls", usage.queue.calls),
        row("dead letters", usage.queue.dead),
        row("call records", usage.queue.records),
    ];
    output::table(["KIND", "COUNT", "SIZE", "UNUSED"], &rows)?;
    if let Some(disk) = usage.disk {
        let (free, size) = (output::bytes(disk.free), output::bytes(disk.size));
        output::line(format!("{free} of {size} are free at {}", disk.path))?;
    }
    Ok(())
}

fn prune(pruned: Pruned) -> anyhow::Result<()> {
    for image in pruned.images {
        output::line(format!("removed {image}"))?;
    }
    Ok(output::line(format!("{} freed", output::bytes(pruned.freed)))?)
}
