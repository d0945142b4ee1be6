//! The real binary against a gateway of our own: what it sends, prints and returns.

mod deploy;
mod gateway;
mod invoke;
mod login;
mod resources;
mod strangers;
mod terminal;
mod usage;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::TemporaryDirectory;

use gateway::{Gateway, Reply, Request};

/// A user with a home of their own, who is logged in by the environment.
struct User {
    home: TemporaryDirectory,
    environment: Vec<(String, String)>,
}

/// What a command came to.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl User {
    fn of(gateway: &Gateway) -> Self {
        let user = Self::stranger();
        user.set("INGLE_GATEWAY", &gateway.url).set("INGLE_PASSWORD", "secret")
    }

    /// Somebody who has nothing set up.
    fn stranger() -> Self {
        let home = TemporaryDirectory::new();
        let path = |name: &str| home.path().join(name).display().to_string();
        let environment = [("HOME", path("")), ("INGLE_DAEMON_STATE_DIR", path("state"))];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { home, environment }
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingle"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command with nothing on its stdin.
    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().expect("run ingle"))
    }

    /// Runs a command with `input` on its stdin.
    fn pipe(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().expect("run ingle");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        // The command may end before it has read all: that is its right.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let done = Done::of(child.wait_with_output().expect("wait for ingle"));
        let _ = writer.join().expect("the writer");
        done
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.home().join(name), text).expect("write a file");
    }
}

impl Done {
    fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
        }
    }

    /// Checks for success, and returns stdout.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    /// Checks for an exit code, and that stderr is one message with these parts and stdout is empty.
    #[track_caller]
    fn fails(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is missing: {self:#?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }
}
