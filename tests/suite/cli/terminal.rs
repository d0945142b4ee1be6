//! What somebody at a terminal sees and types. A pseudo-terminal plays the terminal.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::deploy::{READY, daemon};
use super::*;

/// How long a command may take until it shows what it is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command at a terminal of its own.
struct Session {
    keyboard: File,
    child: Child,
    screen: Receiver<Vec<u8>>,
    shown: String,
}

impl Session {
    fn start(user: &User, arguments: &[&str]) -> Self {
        let terminal = openpty(None, None).expect("a terminal");
        let end = || Stdio::from(terminal.slave.try_clone().expect("a descriptor"));
        // Ctrl-C is for who has the terminal as their own.
        let child = Command::new("/usr/bin/setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_ingle")])
            .args(arguments)
            .env_clear()
            .envs(user.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(user.home())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("run ingle");
        Self {
            screen: watch(terminal.master.try_clone().expect("a descriptor")),
            keyboard: terminal.master.into(),
            child,
            shown: String::new(),
        }
    }

    /// Waits until this is on the screen.
    #[track_caller]
    fn until(&mut self, text: &str) {
        while !self.shown.contains(text) {
            let part = self.screen.recv_timeout(PATIENCE);
            let part = part.unwrap_or_else(|error| panic!("no {text:?} in {:?}: {error}", self.shown));
            self.shown.push_str(&String::from_utf8(part).expect("ASCII"));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Whether what is typed is shown.
    fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard).expect("a terminal").local_flags.contains(LocalFlags::ECHO)
    }

    /// Waits for the command's end: its exit code, and all that was shown.
    fn end(&mut self) -> (Option<i32>, &str) {
        loop {
            match self.screen.recv_timeout(PATIENCE) {
                Ok(part) => self.shown.push_str(&String::from_utf8(part).expect("ASCII")),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:?}", self.shown),
            }
        }
        (self.child.wait().expect("wait for ingle").code(), &self.shown)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Only of use after a failure; it has ended otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads what is shown, until nobody holds the terminal any more.
fn watch(master: OwnedFd) -> Receiver<Vec<u8>> {
    let (sender, screen) = channel();
    std::thread::spawn(move || {
        let mut master = File::from(master);
        let mut buffer = [0; 4096];
        // A terminal that was let go of is an error to read from (EIO), not an end.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    screen
}

fn prompt(gateway: &Gateway) -> String {
    format!("Password of admin at {}: ", gateway.url)
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let gateway = login::guarded("pass word");
    let user = User::stranger().set("OPENFAAS_URL", &gateway.url);
    let mut session = Session::start(&user, &["login"]);
    session.until(&prompt(&gateway));
    assert!(!session.echoes());
    session.press("pass word\n");
    let (code, shown) = session.end();
    let kept = user.home().join(".config/ingle/credentials.toml");
    let expected = format!(
        "{}\r\nlogged in as admin at {}; kept in {}\r\n",
        prompt(&gateway),
        gateway.url,
        kept.display()
    );
    assert_eq!((code, shown), (Some(0), expected.as_str()));
    assert!(session.echoes());
    user.run(&["list"]).ok();
}

#[test]
fn ctrl_c_at_the_password_brings_the_echo_back() {
    let gateway = login::guarded("x");
    let user = User::stranger().set("OPENFAAS_URL", &gateway.url);
    let mut session = Session::start(&user, &["login"]);
    session.until(&prompt(&gateway));
    session.press("half\x03");
    let expected = format!("{}\r\ningle: interrupted\r\n", prompt(&gateway));
    assert_eq!(session.end(), (Some(130), expected.as_str()));
    assert!(session.echoes());
    assert!(gateway.lines().is_empty());
}

#[test]
fn progress_is_one_line_that_changes_and_goes() {
    let long = "x".repeat(200);
    let gateway = daemon(
        (404, "function env was not found"),
        vec![(404, "function env was not found"), (202, "")],
        vec![
            r#"{"name":"env","image":"a:1","phase":"pulling","reason":"pulling 1.0/63.0 MB","revision":7}"#,
            r#"{"name":"env","image":"a:1","phase":"pulling","reason":"pulling 9.0/63.0 MB","revision":7}"#,
            &format!(r#"{{"name":"env","image":"a:1","phase":"starting","reason":"{long}","revision":7}}"#),
            READY,
        ],
    );
    let user = User::of(&gateway);
    let mut session = Session::start(&user, &["deploy", "env", "--image", "a:1"]);
    // A line that is wider than the terminal could not be taken back.
    let cut = format!("env: starting: {}", &long[..78 - "env: starting: ".len()]);
    let expected = format!(
        "\r\x1b[Kenv: pulling 1.0/63.0 MB\r\x1b[Kenv: pulling 9.0/63.0 MB\r\x1b[K{cut}\r\x1b[K\
         env is ready (revision 7, image 0123456789ab): {}/function/env\r\n",
        gateway.url
    );
    assert_eq!(session.end(), (Some(0), expected.as_str()));
}
