//! `ingle image`

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use model::wire;

use super::error::CliError;
use super::output::{self, Form, Progress};
use super::{Globals, stdin};
use model::sync::lock;

/// Load, list and remove images
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Image {
    /// Load images from an archive of 'docker save' or in OCI form: no registry is needed
    Load {
        /// The archive, or - for stdin
        #[arg(value_name = "FILE.TAR")]
        file: String,
        /// Name for the one image in it, or for the one without a name
        #[arg(long, value_name = "NAME:TAG")]
        name: Option<String>,
        /// Print the API's JSON
        #[arg(long)]
        json: bool,
    },
    /// List the images on the daemon's machine
    List(Form),
    /// Remove an image that no function uses
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name
        name: String,
    },
}

impl Image {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        match self {
            Self::Load { file, name, json } => load(globals, &file, name.as_deref(), json).await,
            Self::List(form) => list(globals, form).await,
            Self::Remove { name } => {
                globals.client()?.system(Method::DELETE, &["images", &name], &[]).send().await?;
                Ok(output::line(format!("image {name} was removed"))?)
            }
        }
    }
}

async fn list(globals: &Globals, form: Form) -> anyhow::Result<()> {
    let answer = globals.client()?.get(&["images"], &[]).await?;
    form.table(&answer, ["NAME", "DIGEST", "PLATFORM", "SIZE", "CREATED"], |image: wire::Image| {
        let digest = output::short_digest(&image.digest).to_owned();
        [image.name, digest, image.platform, output::bytes(image.size), output::time(&image.created_at)]
    })
}

async fn load(globals: &Globals, file: &str, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let (from, size) = open(file).await?;
    let client = globals.client()?;
    // Whoever may not load should hear so before some hundred megabytes are on their way.
    client.get(&["images"], &[]).await?;

    let progress = Arc::new(Mutex::new(Progress::new()));
    let show = {
        let shown = if file == "-" { "stdin" } else { file };
        let (progress, file, mut sent) = (progress.clone(), shown.to_owned(), 0u64);
        let whole = size.map(|size| format!("/{}", output::bytes(size))).unwrap_or_default();
        move |part: &std::io::Result<bytes::Bytes>| {
            sent += part.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let text = format!("{file}: sent {}{whole}", output::bytes(sent));
            lock(&progress).show(&text);
        }
    };
    let body = Body::wrap_stream(ReaderStream::with_capacity(from, 256 << 10).inspect(show));
    let request = client.system(Method::POST, &["images"], &[("name", name)]).map(|builder| {
        let builder = builder.header(CONTENT_TYPE, "application/x-tar").body(body);
        match size {
            Some(size) => builder.header(CONTENT_LENGTH, size),
            None => builder,
        }
    });
    let answer = request.stream_ok().await;
    drop(progress);
    let body = answer?.bytes().await.context("the daemon's answer broke off")?;
    if json {
        return Ok(output::line(String::from_utf8_lossy(&body).trim_end())?);
    }
    let loaded: wire::LoadedImages =
        serde_json::from_slice(&body).context("the answer is not the API's JSON: is --gateway right?")?;
    for image in loaded.images {
        output::line(format!("loaded {} ({})", image.name, output::short_digest(&image.digest)))?;
    }
    for image in loaded.skipped {
        output::line(format!("skipped {}: {}", image.name, image.reason))?;
    }
    Ok(())
}

/// The archive, and its size if that is known.
async fn open(file: &str) -> anyhow::Result<(File, Option<u64>)> {
    if file == "-" {
        if stdin::is_terminal() {
            bail!(CliError::usage("stdin is a terminal: pipe an archive into it, or name a file"));
        }
        return Ok((stdin::open()?, None));
    }
    let wrong = |error: std::io::Error| CliError::Usage(format!("{file}: {error}"));
    let opened = File::open(file).await.map_err(wrong)?;
    let data = opened.metadata().await.map_err(wrong)?;
    if data.is_dir() {
        return Err(CliError::Usage(format!("{file} is a directory, not an archive")).into());
    }
    Ok((opened, Some(data.len()).filter(|_| data.is_file())))
}
