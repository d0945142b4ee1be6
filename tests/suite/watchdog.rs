//! The watchdog as a program, with real processes in front of real clients.
//!
//! ```text
//! apart      afterburn: what its process does wrong, and that nobody sees it but whose request it was
//! bodies     buffered bodies of large and of many requests
//! endurance  many requests, of which many go wrong
//! forking    a process for each request: what it may do wrong, and what its caller is told
//! passing    http and static: requests that are passed on, files that are sent
//! lasting    afterburn and openwhisk: one process, one protocol
//! leaving    limits, health, metrics, and the end
//! ```

mod apart;
mod bodies;
mod endurance;
mod forking;
mod lasting;
mod leaving;
mod passing;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::support::TemporaryDirectory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, Response, StatusCode};

/// A watchdog that runs, and what it needs.
pub(crate) struct Watchdog {
    process: Child,
    directory: TemporaryDirectory,
    pub(crate) address: SocketAddr,
    metrics: SocketAddr,
    client: reqwest::Client,
}

/// An address that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

fn client() -> reqwest::Client {
    // reqwest has no TLS of its own; a second installation is refused, and means nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.timeout(Duration::from_secs(30)).build().expect("a client")
}

impl Watchdog {
    /// Waits until its metrics have these lines, and returns them: a request is counted when its answer has been sent
    /// to the end, which its client may know sooner.
    async fn counted(&self, lines: &[&str]) -> String {
        let url = format!("http://{}/metrics", self.metrics);
        let mut text;
        eventually!(
            {
                text = self.client.get(&url).send().await.expect("an answer").text().await.expect("text");
                lines.iter().all(|line| text.lines().any(|found| found == *line))
            },
            "not all of {lines:?} are in {text}"
        );
        text
    }

    /// Starts one in front of this shell script.
    async fn script(script: &str, variables: &[(&str, &str)]) -> Self {
        let directory = TemporaryDirectory::new();
        let path = directory.path().join("fn.sh");
        fs::write(&path, script).expect("written");
        let command = format!("sh {}", path.display());
        let all: Vec<(&str, &str)> =
            [("fprocess", command.as_str())].iter().chain(variables).copied().collect();
        Self::start(directory, &all).await
    }

    /// Starts one in front of this command.
    pub(crate) async fn command(command: &str, variables: &[(&str, &str)]) -> Self {
        let directory = TemporaryDirectory::new();
        let all: Vec<(&str, &str)> = [("fprocess", command)].iter().chain(variables).copied().collect();
        Self::start(directory, &all).await
    }

    /// Returns when it answers.
    async fn start(directory: TemporaryDirectory, variables: &[(&str, &str)]) -> Self {
        let (address, metrics) = (free_address(), free_address());
        let log = fs::File::create(directory.path().join("log")).expect("made");
        let process = Command::new(crate::support::watchdog())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("port", address.port().to_string())
            .env("metrics_port", metrics.port().to_string())
            // Those that run beside it share /tmp.
            .env("suppress_lock", "true")
            .envs(variables.iter().copied())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let watchdog = Self { process, directory, address, metrics, client: client() };
        eventually!(
            watchdog.client.get(watchdog.url("/_/health")).send().await.is_ok(),
            "it does not answer: {}",
            watchdog.log()
        );
        watchdog
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A file of its own directory.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it has written so far.
    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).expect("there")).into_owned()
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.client.request(method, self.url(path)).body(body).send().await.expect("an answer")
    }

    /// Status and text of the answer to a POST.
    async fn post(&self, body: impl Into<reqwest::Body>) -> (StatusCode, String) {
        let answer = self.send(Method::POST, "/", body).await;
        (answer.status(), answer.text().await.expect("a text"))
    }

    /// The same of a GET.
    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.send(Method::GET, path, "").await;
        (answer.status(), answer.text().await.expect("a text"))
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).expect("it runs");
    }

    /// How it ended, within so many seconds.
    async fn ended(&mut self, seconds: u64) -> ExitStatus {
        eventually!(within seconds, self.process.try_wait().expect("waited").is_some(), "{}", self.log());
        self.process.wait().expect("waited")
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // What it started dies with it, as its groups are told when it goes.
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        for _ in 0..200 {
            if matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "nothing else runs when a test has ended")]
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a process runs, by the number that it wrote to a file.
fn runs(path: &std::path::Path) -> bool {
    let number = fs::read_to_string(path).unwrap_or_default();
    let state = fs::read_to_string(format!("/proc/{}/stat", number.trim())).unwrap_or_default();
    !number.is_empty() && !state.is_empty() && !state.contains(") Z ")
}
