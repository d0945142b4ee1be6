//! What can go wrong on this side of the wire, and the exit code that says so.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use super::terminal::plain;
use host::network::NetworkError;
use model::config::ConfigError;

/// The exit codes; `docs/cli.md` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was done.
    Ok = 0,
    /// The daemon refused, or what was asked for failed.
    Failed = 1,
    /// The arguments, the configuration or a stack file are wrong; nothing was sent.
    Usage = 64,
    /// The daemon cannot be reached, or does not answer in time.
    Unreachable = 69,
    /// Not logged in, or not permitted.
    Denied = 77,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The exit code that an error stands for.
    pub fn of(error: &anyhow::Error) -> Self {
        if is_broken_pipe(error) {
            return Self::Ok;
        }
        for cause in error.chain() {
            if let Some(error) = cause.downcast_ref::<CliError>() {
                return error.exit();
            }
            if cause.is::<clap::Error>()
                || cause.is::<ConfigError>()
                || matches!(cause.downcast_ref(), Some(NetworkError::Config { .. }))
            {
                return Self::Usage;
            }
            if cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
            {
                return Self::Denied;
            }
        }
        Self::Failed
    }
}

/// Says on stderr, once, what went wrong, and returns the exit code for it.
///
/// A reader that went away, as in `ingle list | head -1`, has all that it wanted: that is success,
/// and nothing is said.
pub fn report(error: &anyhow::Error) -> Exit {
    let exit = Exit::of(error);
    // A message that cannot be written has nowhere to go; the exit code still tells.
    let _ = match (exit, error.downcast_ref::<clap::Error>()) {
        (Exit::Ok, _) => Ok(()),
        // Ctrl-C is how some commands end.
        (Exit::Interrupted, _) if error.to_string().is_empty() => Ok(()),
        (_, Some(error)) => error.print(),
        (_, None) => writeln!(io::stderr(), "ingle: {}", plain(&format!("{error:#}"))),
    };
    exit
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
        // A daemon that closes a connection is also a "broken pipe", but no success.
        && !error.chain().any(|cause| cause.is::<reqwest::Error>())
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments or a file named by them are wrong.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers.
    #[error(
        "the gateway {gateway} cannot be reached: is it running? Look at 'systemctl status ingle', or give its address with --gateway"
    )]
    Unreachable {
        /// Where it was looked for.
        gateway: String,
        #[source]
        source: reqwest::Error,
    },
    /// The daemon of this machine is not running, and no other program is asked in its place.
    #[error(
        "the daemon is not running ({why}): see 'systemctl status ingle', or name another gateway with --gateway"
    )]
    NotRunning {
        /// The evidence for that.
        why: String,
    },
    /// Somebody is there, but does not answer.
    #[error("the gateway {gateway} did not answer in time: look at 'systemctl status ingle'")]
    Silent {
        /// Where it is.
        gateway: String,
        #[source]
        source: reqwest::Error,
    },
    /// It was there, and then no longer, or it does not speak HTTP.
    #[error("the connection to {gateway} failed: did the daemon stop, or is --gateway wrong?")]
    Broken {
        /// Where it is.
        gateway: String,
        #[source]
        source: reqwest::Error,
    },
    /// The gateway wants a password, or another one.
    #[error("{}", denied(gateway, tried.as_ref()))]
    Denied {
        /// Where it is.
        gateway: String,
        /// Where the password came from that was refused; `None` if none was known.
        tried: Option<Origin>,
    },
    /// The gateway said no, in its own words.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// What was asked for was taken, but did not come about.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
}

/// Where credentials were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `ingle login`, which is under way.
    Login,
    /// `INGLE_PASSWORD`
    Environment,
    /// A file of logins.
    File(PathBuf),
}

/// Why the gateway let nobody in, and the way in.
fn denied(gateway: &str, tried: Option<&Origin>) -> String {
    match tried {
        None => format!(
            "not logged in at {gateway}: run 'ingle login --gateway {gateway}', or use sudo on the daemon's own machine"
        ),
        Some(Origin::Login) => format!(
            "{gateway} refused the user name or password: on the daemon's own machine, \
             'sudo cat /var/lib/ingle/secrets/basic-auth-password' shows it"
        ),
        Some(Origin::Environment) => format!(
            "{gateway} refused the user name or password from INGLE_PASSWORD: correct it, or unset it and \
             run 'ingle login --gateway {gateway}'"
        ),
        Some(Origin::File(path)) => format!(
            "{gateway} refused the user name or password from {}: run 'ingle login --gateway {gateway}'",
            path.display()
        ),
    }
}

impl CliError {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable { .. }
            | Self::NotRunning { .. }
            | Self::Silent { .. }
            | Self::Broken { .. } => Exit::Unreachable,
            Self::Denied { .. } => Exit::Denied,
            Self::Refused { status: 401 | 403, .. } => Exit::Denied,
            Self::Refused { .. } | Self::Failed(_) => Exit::Failed,
            Self::Interrupted(_) => Exit::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_exit_code_is_found_below_the_context() {
        let error = Err::<(), _>(CliError::usage("no")).context("around it").expect_err("an error");
        assert_eq!(Exit::of(&error), Exit::Usage);
        let refused = |status| Exit::of(&CliError::Refused { status, message: String::new() }.into());
        assert_eq!(refused(404), Exit::Failed);
        assert_eq!(refused(403), Exit::Denied);
        assert_eq!(Exit::of(&anyhow::anyhow!("anything")), Exit::Failed);
    }

    #[test]
    fn a_broken_pipe_is_success_and_a_missing_permission_is_not() {
        let of = |kind| Exit::of(&anyhow::Error::from(io::Error::from(kind)).context("writing"));
        assert_eq!(of(io::ErrorKind::BrokenPipe), Exit::Ok);
        assert_eq!(of(io::ErrorKind::PermissionDenied), Exit::Denied);
        assert_eq!(of(io::ErrorKind::NotFound), Exit::Failed);
    }
}
