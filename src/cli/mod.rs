//! The command line: `ingle serve` is the daemon, everything else speaks HTTP to it.
//!
//! Invariant: a client command reads no file of the daemon but its configuration, and talks to nothing but
//! the gateway. Whatever a command can do, `curl` can do too. `doctor` looks at the machine as well,
//! for when there is no daemon to ask.

mod apply;
mod atomic_file;
mod backup;
mod calls;
mod client;
mod credentials;
mod cron;
mod deploy;
mod describe;
mod doctor;
mod encrypted;
mod environment;
mod error;
mod export;
mod gateway;
mod handler;
mod image;
mod info;
mod invoke;
mod list;
mod local_daemon;
mod login;
mod logs;
mod namespace;
mod options;
mod output;
mod passphrase;
mod prompt;
mod queue;
mod remove;
mod rollback;
mod rollout;
mod scale;
mod secret;
mod selection;
mod serve;
mod stack;
mod stdin;
mod store;
mod system;
mod terminal;

use std::ffi::OsString;
use std::sync::LazyLock;

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

pub use error::{Exit, report};

use client::Client;
use error::CliError;

/// Runs functions on one machine and keeps them warm.
///
/// 'ingle serve' is the daemon; all other commands speak HTTP to it.
#[derive(Debug, Parser)]
#[command(name = "ingle", version = VERSION.as_str(), after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// The release, with the commit if that is known.
static VERSION: LazyLock<String> = LazyLock::new(|| output::version(crate::VERSION, crate::COMMIT));

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 refused or failed; 64 wrong arguments or configuration; \
69 gateway not reachable; 77 not logged in or not permitted; 130 interrupted.";

/// Options of every client command.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Gateway")]
struct Globals {
    /// The gateway's URL [env: INGLE_GATEWAY, then OPENFAAS_URL] [default: the daemon of this machine]
    #[arg(long, short = 'g', global = true, value_name = "URL")]
    gateway: Option<String>,
    /// The namespace of functions and secrets [default: openfaas-fn; for lists of calls and schedules all]
    #[arg(long, short = 'n', global = true, value_name = "NAME")]
    namespace: Option<String>,
}

impl Globals {
    fn client(&self) -> anyhow::Result<Client> {
        Client::open(self.gateway.as_deref(), None)
    }

    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Deploy(Box<deploy::Deploy>),
    #[command(visible_alias = "ls")]
    List(list::List),
    Describe(describe::Describe),
    Invoke(invoke::Invoke),
    Logs(logs::Logs),
    Scale(scale::Scale),
    Rollback(rollback::Rollback),
    Export(export::Export),
    Apply(apply::Apply),
    #[command(visible_alias = "rm", alias = "delete")]
    Remove(remove::Remove),
    #[command(subcommand)]
    Secret(secret::Secret),
    #[command(subcommand)]
    Namespace(namespace::Namespace),
    #[command(subcommand)]
    Queue(queue::Queue),
    #[command(subcommand)]
    Calls(calls::Calls),
    #[command(subcommand)]
    Cron(cron::Cron),
    #[command(subcommand)]
    Image(image::Image),
    #[command(subcommand)]
    Store(store::Store),
    Backup(backup::Backup),
    Restore(backup::Restore),
    #[command(subcommand)]
    System(system::System),
    Info(info::Info),
    Doctor(doctor::Doctor),
    Login(login::Login),
    Logout(login::Logout),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Runs what the arguments say. Help and the version that were asked for are printed, and are a success.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let Cli { globals, command } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return Err(error.into()),
        Err(wanted) => return Ok(wanted.print()?),
    };
    match command {
        // The daemon makes runtimes of its own.
        Command::Serve(serve) => serve.run(),
        Command::Completions { shell } => completions(shell),
        command => speak(&globals, command),
    }
}

/// Runs a client command until it is done, or until Ctrl-C.
fn speak(globals: &Globals, command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = command.when_interrupted();
    let done = runtime.block_on(async {
        // Listened for before anything is done: the password's prompt must not end with the echo off.
        let mut interrupts = signal(SignalKind::interrupt())?;
        tokio::select! {
            done = command.run(globals) => done,
            Some(()) = interrupts.recv() => Err(CliError::Interrupted(interrupted.to_owned()).into()),
        }
    });
    // A thread may still wait for a terminal or a pipe to give it something to read.
    runtime.shutdown_background();
    done
}

impl Command {
    async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        /// Runs the command that it is: all of these run alike.
        macro_rules! run {
            ($($command:ident)*) => {
                match self {
                    $(Self::$command(command) => command.run(globals).await,)*
                    Self::Logout(command) => command.run(globals),
                    Self::Serve(_) | Self::Completions { .. } => unreachable!("run() takes care of these"),
                }
            };
        }
        run!(Deploy List Describe Invoke Logs Scale Rollback Remove Secret Namespace Queue Calls Cron Image Store Backup Restore System
            Info Export Apply Doctor Login)
    }

    /// What Ctrl-C has left undone, in words.
    fn when_interrupted(&self) -> &'static str {
        match self {
            Self::Deploy(_) | Self::Rollback(_) | Self::Apply(_) => {
                "interrupted: what the daemon has accepted goes on; see 'ingle describe'"
            }
            // The usual way to end it.
            Self::Logs(_) => "",
            _ => "interrupted",
        }
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ingle", &mut script);
    Ok(std::io::Write::write_all(&mut std::io::stdout(), &script)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["ingle", "list", "-n", "dev", "-g", "x:1"]).expect("valid");
        assert_eq!(cli.globals.namespace(), Some("dev"));
        let cli = Cli::try_parse_from(["ingle", "--gateway", "x:1", "list"]).expect("valid");
        assert_eq!(cli.globals.gateway.as_deref(), Some("x:1"));
    }
}
