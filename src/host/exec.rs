//! Runs the few programs of the host that are needed, each with a time limit and its complaint kept.

use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where programs look for programs: plugins run `iptables` themselves.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a program that only looks may take.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Runs `program` with nothing but `environment`, gives it `input`, and waits for its end.
/// It is killed after `limit`, and when the future is dropped.
pub(crate) async fn run(
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    input: &[u8],
    limit: Duration,
) -> io::Result<Output> {
    let mut command = command(program);
    command.args(arguments).envs(environment.iter().copied());
    talk(command, input, limit).await
}

/// Starts `command`, gives it `input`, and waits for its end. It is killed after `limit`, and when the future is
/// dropped.
pub(crate) async fn talk(mut command: Command, input: &[u8], limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take();
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin.take() {
                // A program that ends without reading says why itself.
                let _ = stdin.write_all(input).await;
            }
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        output
    };
    tokio::time::timeout(limit, talk).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("took longer than {limit:?} and was killed")))
    })
}

/// Returns a command with only `PATH` in its environment.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(found(program));
    command.env_clear().env("PATH", SEARCH_PATH);
    command
}

/// The program's path by [`SEARCH_PATH`], for a bare name.
fn found(program: &Path) -> std::path::PathBuf {
    if program.is_absolute() {
        return program.to_owned();
    }
    SEARCH_PATH
        .split(':')
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| program.to_owned())
}

/// The first line of what `program --version` prints, or why it does not.
pub(crate) async fn version(program: &Path) -> Result<String, String> {
    said(program, &["--version"]).await.map(|text| text.lines().next().unwrap_or_default().to_owned())
}

/// What a program that only looks prints, or why it fails.
pub async fn said(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = run(program, arguments, &[], b"", LOOK_WITHIN).await.map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(complaint(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What a program said, for the message about its failure.
pub(crate) fn complaint(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let said = [text(&output.stderr), text(&output.stdout)].into_iter().find(|text| !text.is_empty());
    match said {
        Some(said) => format!("{}: {said}", output.status),
        None => output.status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_gets_its_input_and_only_its_environment() {
        let script = ["-c", "cat; env | sort"];
        let output =
            run(Path::new("sh"), &script, &[("A", "1")], b"in\n", Duration::from_secs(10)).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("in\nA=1\n"), "{text}");
        assert!(!text.contains("HOME="), "{text}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended() {
        let error = run(Path::new("sh"), &["-c", "exec sleep 60"], &[], b"", Duration::from_millis(50)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_complaint_is_kept() {
        let output = run(Path::new("sh"), &["-c", "echo no >&2; exit 3"], &[], b"", Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(complaint(&output), "exit status: 3: no");
    }
}
