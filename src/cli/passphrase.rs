//! The passphrase of a file: from the terminal, or from another file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::error::CliError;
use super::{prompt, stdin};

/// Bytes of a passphrase. A shorter one is found by trying, whatever a guess costs.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=1024;

/// Where the passphrase comes from.
#[derive(Debug, clap::Args)]
pub(super) struct Passphrase {
    /// Read the passphrase from this file, instead of asking for it
    #[arg(long, value_name = "PATH", requires = "secrets")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    /// A new one. A mistyped one would close the file for ever, so it is asked for twice.
    pub(super) async fn choose(&self) -> anyhow::Result<String> {
        let chosen = match self.read().await? {
            Some(passphrase) => passphrase,
            None => {
                let chosen = at_terminal("New passphrase for the secrets: ").await?;
                if chosen != at_terminal("The same again: ").await? {
                    return Err(CliError::usage("these are not the same; nothing was written").into());
                }
                chosen
            }
        };
        if LENGTH.contains(&chosen.len()) {
            return Ok(chosen);
        }
        let (least, most) = (LENGTH.start(), LENGTH.end());
        Err(CliError::usage(format!("a passphrase has {least} to {most} bytes")).into())
    }

    /// The one that opens a file.
    pub(super) async fn ask(&self, file: &Path) -> anyhow::Result<String> {
        match self.read().await? {
            Some(passphrase) => Ok(passphrase),
            None => at_terminal(&format!("Passphrase of {}: ", file.display())).await,
        }
    }

    async fn read(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        let read = async { stdin::read_at_most(tokio::fs::File::open(path).await?, *LENGTH.end() + 2).await };
        let bytes = read.await.with_context(|| format!("passphrase file {}", path.display()))?;
        let text =
            String::from_utf8(bytes).map_err(|_| CliError::usage("the passphrase is not UTF-8 text"))?;
        Ok(Some(line(text)))
    }
}

async fn at_terminal(question: &str) -> anyhow::Result<String> {
    if !stdin::is_terminal() {
        return Err(CliError::usage("there is no terminal to ask for it: use --passphrase-file").into());
    }
    Ok(line(prompt::hidden(question).await?))
}

/// Without the end of the line. Other blanks belong to it.
fn line(mut text: String) -> String {
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    text
}
