//! The daemon on a disk of the test's own: begun, cut off, begun again.

use std::cell::RefCell;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use powercut::{Disk, Fault, Mounted, Stop};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::check;
use super::load::{self, Truth};
use crate::support::POLL;
use crate::support::daemon::Daemon;
use crate::support::long::Chance;

/// Starts of a daemon that ends by itself, as systemd makes them.
const STARTS: u32 = 3;
/// How long one may take.
const START: Duration = Duration::from_secs(30);
/// What a long row has: more than the store keeps in one piece.
pub(super) const LONG: usize = 20_000;
/// Where neither the number of records nor their age ends a test.
const SETTINGS: &str =
    "[queue]\nmax_records = 1000000\nmax_dead = 1000000\n[images]\nkeep_unused = \"24h\"\n";

pub(super) struct World {
    // Dropped before the daemon, which could not end while it waits for its disk.
    disk: Option<Mounted>,
    pub(super) daemon: Daemon,
    pub(super) chance: Chance,
    pub(super) truth: RefCell<Truth>,
    /// Read while the disk answers.
    password: String,
    ignores_syncs: bool,
    /// The daemon's log up to its last start.
    logged: usize,
}

impl World {
    /// Starts a daemon whose functions are deployed, and half a minute later.
    pub(super) async fn start(chance: Chance, ignores_syncs: bool) -> Self {
        let world = Self::boot(chance, ignores_syncs).await;
        world.disk.as_ref().expect("mounted").settle();
        world
    }

    /// Starts a daemon whose functions are deployed, just now.
    pub(super) async fn boot(chance: Chance, ignores_syncs: bool) -> Self {
        let daemon = Daemon::bare(SETTINGS).await;
        std::fs::create_dir(daemon.state_dir()).expect("made");
        let truth = RefCell::new(Truth::default());
        let (password, logged) = (String::new(), 0);
        let mut world = Self { disk: None, daemon, chance, truth, password, ignores_syncs, logged };
        world.mount(Disk::default());
        world.begin().await.expect("the first start");
        world.daemon.load(&crate::support::sample_archive()).await;
        world.deploy().await;
        world
    }

    /// The functions that are there all the time.
    async fn deploy(&self) {
        let queue = json!({ "com.openfaas.queue": "held" });
        let long = json!({ "LONG": "x".repeat(LONG) });
        let timer = json!({ "topic": "cron-function", "schedule": "@every 1s" });
        self.daemon.ready("hello", json!({ "envVars": long })).await;
        self.daemon.ready("held", json!({ "annotations": queue })).await;
        self.daemon.ready("tick", json!({ "annotations": timer })).await;
        let pause = self.api(Method::PUT, "/system/queues/held").json(&json!({ "paused": true }));
        assert!(pause.send().await.expect("an answer").status().is_success());
        self.truth.borrow_mut().functions = load::FUNCTIONS.map(|name| (name.to_owned(), true)).into();
    }

    /// A request to the API, which reads no file of the disk.
    pub(super) fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.daemon.client.request(method, self.daemon.url(path)).basic_auth("admin", Some(&self.password))
    }

    /// What the daemon has written since its last start.
    pub(super) fn log(&self) -> String {
        let log = self.daemon.log();
        log.get(self.logged..).unwrap_or_default().to_owned()
    }

    pub(super) fn mount(&mut self, disk: Disk) {
        let mounted = Mounted::new(disk, &self.daemon.state_dir(), self.ignores_syncs);
        self.disk = Some(mounted.expect("mounted"));
    }

    /// Reports whether the daemon serves functions: it may say that the queue is out of service.
    async fn is_up(&self) -> bool {
        let health = self.daemon.client.get(self.daemon.url("/healthz")).timeout(START).send();
        let Ok(health) = health.await else { return false };
        health.status().is_success()
            || health.text().await.is_ok_and(|text| text.contains("ingle store repair"))
    }

    /// Starts the daemon, again if it ends; else why it does not serve.
    pub(super) async fn begin(&mut self) -> Result<(), String> {
        self.logged = self.daemon.log().len();
        for _ in 0..STARTS {
            self.daemon.spawn();
            let until = tokio::time::Instant::now() + START;
            while !self.daemon.has_ended() && tokio::time::Instant::now() < until {
                if self.is_up().await {
                    self.password = self.daemon.password();
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
            self.daemon.end(Signal::SIGKILL);
        }
        let log = self.log();
        // What it says as it ends, or the last that it did.
        let said = |line: &&str| line.starts_with("ingle: ") || line.contains("panicked at");
        let last = log.lines().rfind(said).or(log.lines().last()).unwrap_or_default();
        Err(format!("it does not start: {last}"))
    }

    /// Lets clients ask until the disk stops, and cuts the power.
    pub(super) async fn cut(&mut self, fault: Fault) -> Stop {
        let (disk, pid) = (self.disk.take().expect("mounted"), self.daemon.pid().expect("it runs"));
        disk.arm(fault);
        let stopped = async {
            eventually!(within 60, disk.stopped().is_some(), "the load has not come to {fault:?}");
            let stop = disk.stopped().expect("it stays so");
            // It waits for its disk, and ends when that has gone.
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("it runs");
            (stop, disk.cut())
        };
        let ((stop, left), ()) = tokio::join!(stopped, load::run(self));
        self.daemon.end(Signal::SIGKILL);
        let chance = &mut self.chance;
        let left = left.cut(&mut |below| chance.below(below));
        self.mount(left);
        stop
    }

    /// Starts the daemon on what is left, and says what is wrong with that. If it does not start, the test goes on with
    /// an empty disk.
    pub(super) async fn start_and_check(&mut self) -> Vec<String> {
        let password = self.password.clone();
        if let Err(fault) = self.begin().await {
            self.anew().await;
            return vec![fault];
        }
        let mut faults = check::all(self).await;
        if self.password != password {
            faults.push("the admin's password is another one".to_owned());
        }
        if faults.iter().any(|fault| fault.contains("function")) {
            self.anew().await;
        }
        faults
    }

    /// Begins with an empty disk, just now.
    pub(super) async fn boot_again(&mut self) {
        self.rest();
        // Containers of another disk would be kept for it.
        for id in self.daemon.containers() {
            self.daemon.containerd.ctr(&["tasks", "rm", "--force", &id]);
            self.daemon.containerd.ctr(&["containers", "rm", &id]);
            self.daemon.containerd.ctr(&["snapshots", "rm", &id]);
        }
        self.mount(Disk::default());
        self.begin().await.expect("a start on an empty disk");
        self.truth.take();
        self.deploy().await;
    }

    /// Begins with an empty disk, half a minute ago.
    pub(super) async fn anew(&mut self) {
        self.boot_again().await;
        self.disk.as_ref().expect("mounted").settle();
    }

    /// Lets all calls be made that are held, and says what is wrong with them and with those of all rounds.
    pub(super) async fn finish(&mut self) -> Vec<String> {
        let faults = check::finally(self).await;
        let functions: Vec<String> = self.truth.borrow().functions.keys().cloned().collect();
        for name in functions {
            let body = json!({ "functionName": name });
            let _ = self.api(Method::DELETE, "/system/functions").json(&body).send().await;
        }
        self.daemon.nothing_left().await;
        faults
    }

    /// Kills the daemon; the disk with all that was written to it.
    pub(super) fn rest(&mut self) -> Disk {
        self.daemon.end(Signal::SIGKILL);
        let mut disk = self.disk.take().expect("mounted").cut();
        disk.settle();
        disk
    }

    /// What a request is answered, as JSON; null if it is refused.
    pub(super) async fn get(&self, path: &str) -> Value {
        match self.api(Method::GET, path).send().await {
            Ok(answer) if answer.status().is_success() => answer.json().await.unwrap_or_default(),
            _ => Value::Null,
        }
    }
}
