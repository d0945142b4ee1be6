//! `ingle system`

use reqwest::Method;

use model::wire::{DiskUsage, Pruned, Share};

use super::{Globals, output};

/// Show what is on the disk, and remove what nobody uses
#[derive(Debug, clap::Subcommand)]
pub(crate) enum System {
    /// Show how much of the disk images, logs and the store take, and how much of that nobody uses
    Df {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images that no function uses, and whatever else is left over
    Prune {
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
}

impl System {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::Df { json } => df(globals, json).await,
            Self::Prune { json } => prune(globals, json).await,
        }
    }
}

async fn df(globals: &Globals, json: bool) -> anyhow::Result<()> {
    let answer = globals.client()?.system(Method::GET, &["df"], &[]).send().await?;
    if json {
        return Ok(output::json(&answer)?);
    }
    let usage: DiskUsage = answer.json()?;
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
    ];
    output::table(["KIND", "COUNT", "SIZE", "UNUSED"], &rows)?;
    if let Some(disk) = usage.disk {
        let (free, size) = (output::bytes(disk.free), output::bytes(disk.size));
        output::line(format!("{free} of {size} are free at {}", disk.path))?;
    }
    Ok(())
}

async fn prune(globals: &Globals, json: bool) -> anyhow::Result<()> {
    let answer = globals.client()?.system(Method::POST, &["prune"], &[]).send().await?;
    if json {
        return Ok(output::json(&answer)?);
    }
    let pruned: Pruned = answer.json()?;
    for image in pruned.images {
        output::line(format!("removed {image}"))?;
    }
    Ok(output::line(format!("{} freed", output::bytes(pruned.freed)))?)
}
