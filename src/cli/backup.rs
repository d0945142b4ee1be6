//! `ingle backup` and `ingle restore`

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method};
use tokio_util::io::ReaderStream;

use model::wire::Restored;

use super::Globals;
use super::output;

/// Write all that the daemon keeps to a file, while it runs
///
/// Functions with their revisions, namespaces, queued calls, schedules, secrets, handlers and the password are in it,
/// as they are at one moment; output of functions and images are not. The file is a tar archive that root alone can
/// read.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The file to write
    file: PathBuf,
}

/// Put a backup in the place of all that the daemon keeps
///
/// The daemon begins anew with it. Functions that are not in it are removed. What was there before is in
/// 'replaced' in the state directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// A file that 'ingle backup' has written
    file: PathBuf,
}

impl Backup {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let client = globals.client()?;
        let mut answer = client.system(Method::GET, &["backup"], &[]).stream_ok().await?;
        let mut draft = self.file.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(draft);
        let writing = || format!("writing {}", draft.display());
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let mut file = made.with_context(writing)?;
        let taken = async {
            let mut size = 0;
            while let Some(part) = answer.chunk().await.context("the daemon's answer broke off")? {
                file.write_all(&part).with_context(writing)?;
                size += part.len() as u64;
            }
            file.sync_all().with_context(writing)?;
            std::fs::rename(&draft, &self.file)
                .with_context(|| format!("writing {}", self.file.display()))?;
            anyhow::Ok(size)
        };
        let size = taken.await.inspect_err(|_| {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&draft);
        })?;
        Ok(output::line(format!("{}: {}", self.file.display(), output::bytes(size)))?)
    }
}

impl Restore {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let reading = || format!("reading {}", Path::new(&self.file).display());
        let file = tokio::fs::File::open(&self.file).await.with_context(reading)?;
        let size = file.metadata().await.with_context(reading)?.len();
        let client = globals.client()?;
        let body = Body::wrap_stream(ReaderStream::with_capacity(file, 256 << 10));
        let request = client.system(Method::POST, &["restore"], &[]).map(|builder| {
            builder.header(CONTENT_TYPE, "application/x-tar").header(CONTENT_LENGTH, size).body(body)
        });
        let answer = request.stream_ok().await?.bytes().await.context("the daemon's answer broke off")?;
        let Restored { functions } = serde_json::from_slice(&answer)
            .context("the answer is not the API's JSON: is --gateway right?")?;
        Ok(output::line(format!("restored, with {functions} functions; the daemon begins anew"))?)
    }
}
