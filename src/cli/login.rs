//! `ingle login` and `ingle logout`

use anyhow::Context as _;

use super::client::Client;
use super::credentials::{ADMIN, Credentials, Places};
use super::environment;
use super::error::{CliError, Origin};
use super::gateway::Gateway;
use super::local_daemon::LocalDaemon;
use super::{Globals, output, prompt, stdin};

/// The longest password that is read.
const MAX_PASSWORD: usize = 4096;

/// Check a password and keep it for this gateway
#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// The user's name
    #[arg(long, short = 'u', default_value = ADMIN)]
    username: String,
    /// Read the password from stdin
    #[arg(long)]
    password_stdin: bool,
}

/// Forget the password for this gateway
#[derive(Debug, clap::Args)]
pub(crate) struct Logout {}

impl Login {
    pub(super) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let daemon = LocalDaemon::of_this_machine();
        let gateway =
            Gateway::choose(globals.gateway.as_deref(), None, environment::variable, &daemon.gateway)?;
        // The socket itself asks for no password; the check keeps it from another program on the daemon's port.
        daemon.socket_for(&gateway)?;
        if self.username.is_empty() || self.username.contains(':') {
            return Err(CliError::usage("--username must not be empty or hold a colon").into());
        }
        let password = if self.password_stdin {
            let bytes = stdin::read_at_most(stdin::open()?, MAX_PASSWORD).await.context("stdin")?;
            String::from_utf8(bytes).map_err(|_| CliError::usage("the password is not UTF-8 text"))?
        } else if stdin::is_terminal() {
            prompt::hidden(&format!("Password of {} at {gateway}: ", self.username)).await?
        } else {
            return Err(CliError::usage("there is no terminal to ask: use --password-stdin").into());
        };
        let password = password.trim().to_owned();
        if password.is_empty() || password.len() > MAX_PASSWORD {
            return Err(CliError::usage(format!("a password has 1 to {MAX_PASSWORD} bytes")).into());
        }
        if gateway.is_in_clear() {
            output::note(format!(
                "note: the password travels to {gateway} in clear; anyone on the way can read it"
            ));
        }
        let credentials = Credentials { username: self.username, password, origin: Origin::Login };
        let client = Client::with(gateway, Some(credentials.clone()), None)?;
        client.get(&["functions"], &[]).await?;
        let store = Places::of_this_user().store()?;
        store.put(client.gateway(), &credentials.username, &credentials.password)?;
        let (user, place) = (&credentials.username, store.path().display());
        Ok(output::line(format!("logged in as {user} at {}; kept in {place}", client.gateway()))?)
    }
}

impl Logout {
    pub(super) fn run(self, globals: &Globals) -> anyhow::Result<()> {
        let own = LocalDaemon::of_this_machine().gateway;
        let gateway = Gateway::choose(globals.gateway.as_deref(), None, environment::variable, &own)?;
        let known = Places::of_this_user().store()?.forget(&gateway)?;
        Ok(output::line(format!(
            "{} {gateway}",
            if known { "logged out of" } else { "was not logged in at" }
        ))?)
    }
}
