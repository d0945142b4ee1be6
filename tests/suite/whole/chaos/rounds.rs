//! Carries rounds out, and compares what is there with what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::store::Store;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::ask::{Admin, Candidates, after, variables};
use super::load::{DEADLINE, Load, TIMEOUT};
use super::plan::{Operation, PASSING, Plan, QUIET, STEADY, Victim, Want};
use super::truth::{Counts, Loss, May, Truth};
use crate::support::daemon::{Daemon, address};
use crate::support::http::{Answer, Client};
use crate::support::inventory::Surveyor;
use crate::support::sample_archive;

/// How long everything may take to be as it should be.
const SETTLE: Duration = Duration::from_secs(60);
/// After this, what containerd still keeps of containers that are gone is looked at.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// How much more, for what can only be known to be left over by waiting.
const NOTED: Duration = Duration::from_secs(70);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rounds between two looks into the store, for which the daemon is stopped.
const STORE_EVERY: u32 = 20;

/// The daemon with its functions, and what is wanted of it.
#[derive(Debug)]
pub(super) struct World {
    daemon: Daemon,
    truth: Arc<Truth>,
    load: Load,
    pub(super) wanted: BTreeMap<&'static str, Want>,
    /// The rules that are always there.
    rules: String,
    /// Functions whose last update was given up, which they say until the next one.
    given_up: BTreeSet<&'static str>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    rounds: u32,
    given_up: u32,
    /// How often containerd had to be started again to remove its own files.
    bundles: u32,
    /// How many of them it could not remove.
    half_made: usize,
    slowest: Duration,
}

impl World {
    /// A daemon with functions, all of them ready, under load.
    pub(super) async fn new() -> Self {
        let settings =
            format!("[functions]\ntimeout = \"{}s\"\nstart_timeout = \"10s\"\n", TIMEOUT.as_secs());
        let mut daemon = Daemon::bare(&settings).await;
        daemon.keep_socket();
        daemon.resume().await;
        daemon.load(&sample_archive()).await;
        let truth = Arc::new(Truth::default());
        let mut wanted = BTreeMap::new();
        for function in STEADY.into_iter().chain(QUIET) {
            daemon.ready(function, variables(function, 1)).await;
            wanted.insert(function, Want { version: 1, replicas: 1 });
        }
        for function in STEADY.into_iter().chain(QUIET).chain(PASSING) {
            truth.set(function, may(wanted.get(function).copied()));
        }
        let rules = Surveyor::of(&daemon).look().await.rules;
        let load = Load::start(&truth);
        let mut world =
            Self { daemon, truth, load, wanted, rules, given_up: BTreeSet::new(), tally: Tally::default() };
        world.settle("before the first round", &BTreeMap::new(), false).await;
        world
    }

    /// One round.
    pub(super) async fn round(&mut self, title: &str, plan: Plan) {
        let title = format!("{title}: {plan:?}");
        let before = self.truth.counts();
        let was = self.wanted.get(plan.function).copied();
        let admin = Admin::of(&self.daemon);
        let truth = self.truth.clone();
        let (outcome, struck) = tokio::join!(admin.ask(&plan, was, &truth), self.strike(&plan));
        let mut candidates = BTreeMap::new();
        candidates.insert(plan.function, after(&plan, was, &outcome));
        // An update whose first replica is killed may be given up; one that finds no containerd is not.
        let updates = matches!(plan.operation, Operation::Update { .. });
        let may_fail = updates && matches!(plan.victim, Victim::Process | Victim::Shim);
        let title = format!("{title}\nthe victim: {struck}\nwhat was asked: {outcome:?}");
        if may_fail {
            // What served then goes on, or comes back: one that was scaled to zero is to run after a deploy.
            let serves = was.map(|was| Want { replicas: was.replicas.max(1), ..was });
            candidates.entry(plan.function).or_default().push(serves);
        }
        let settled = self.settle(&title, &candidates, may_fail).await;
        self.tally.rounds += 1;
        self.tally.slowest = self.tally.slowest.max(settled);
        if self.tally.rounds.is_multiple_of(STORE_EVERY) {
            self.look_into_the_store(&title).await;
            self.settle(&title, &BTreeMap::new(), false).await;
        }
        let counts = self.truth.counts();
        assert!(counts.answered > before.answered, "{title}\nthe load makes no progress: {counts:?}");
        println!("{title}\nas it should be after {settled:?}");
    }

    /// Ends the load, removes all functions, and looks whether anything is left.
    pub(super) async fn finish(mut self, title: &str) {
        for function in self.wanted.keys() {
            self.truth.also(function, None);
        }
        for function in std::mem::take(&mut self.wanted).into_keys() {
            self.daemon.remove(function).await;
        }
        let candidates =
            STEADY.into_iter().chain(QUIET).chain(PASSING).map(|name| (name, vec![None])).collect();
        self.settle(title, &candidates, false).await;
        self.look_into_the_store(title).await;
        let Self { truth, load, tally, .. } = self;
        load.end().await;
        assert_eq!(truth.faults(), [""; 0], "{title}: calls failed");
        let Counts { answered, absent, lost } = truth.counts();
        println!(
            "chaos: {} rounds, the slowest was as it should be after {:?}; {answered} calls answered, {absent} told that \
             the function is not there, {lost} lost where that could not be helped, {} updates given up, containerd started \
             {} times to remove files of its own, of which it left {}",
            tally.rounds, tally.slowest, tally.given_up, tally.bundles, tally.half_made
        );
    }

    /// Kills the victim and brings back what must be; says what was killed.
    async fn strike(&mut self, plan: &Plan) -> String {
        tokio::time::sleep(plan.after).await;
        let Self { daemon, truth, .. } = self;
        let said = match plan.victim {
            Victim::Process | Victim::Shim => {
                let mut shims = daemon.containerd.shims();
                shims.sort_unstable();
                let at = usize::try_from(plan.which).expect("small") % shims.len().max(1);
                let Some((shim, id)) = shims.get(at) else { return "there was none".into() };
                let victims = if plan.victim == Victim::Shim { vec![*shim] } else { children(*shim) };
                truth.begin(Loss::Replicas);
                victims.iter().for_each(|pid| end(*pid));
                format!("{id}: {victims:?}")
            }
            Victim::Containerd | Victim::ContainerdRestart => {
                let signal =
                    if plan.victim == Victim::Containerd { Signal::SIGKILL } else { Signal::SIGTERM };
                daemon.containerd.end(signal);
                tokio::time::sleep(plan.away).await;
                daemon.containerd.resume().await;
                "containerd".into()
            }
            Victim::Daemon => {
                truth.begin(Loss::Daemon);
                daemon.end(Signal::SIGKILL);
                tokio::time::sleep(plan.away).await;
                daemon.resume().await;
                "the daemon".into()
            }
            // Whoever calls meanwhile waits.
            Victim::DaemonRestart => {
                daemon.stop().await;
                tokio::time::sleep(plan.away).await;
                daemon.resume().await;
                "the daemon".into()
            }
            Victim::Everything => {
                truth.begin(Loss::Daemon);
                daemon.end(Signal::SIGKILL);
                daemon.containerd.end(Signal::SIGKILL);
                let shims = daemon.containerd.shims();
                for (shim, _) in &shims {
                    let below = children(*shim);
                    end(*shim);
                    below.into_iter().for_each(end);
                }
                tokio::time::sleep(plan.away).await;
                if plan.daemon_first {
                    daemon.spawn();
                    tokio::time::sleep(plan.away).await;
                    daemon.containerd.resume().await;
                    daemon.serves().await;
                } else {
                    daemon.containerd.resume().await;
                    daemon.resume().await;
                }
                format!("everything, with {} replicas", shims.len())
            }
        };
        if matches!(plan.victim, Victim::Process | Victim::Shim) {
            // A call may reach the replica until its end is known.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        truth.over();
        said
    }

    /// Waits until everything is as it should be; how long that took. `candidates` are what functions may be
    /// that are not known for certain.
    async fn settle(
        &mut self,
        title: &str,
        candidates: &BTreeMap<&'static str, Candidates>,
        may_fail: bool,
    ) -> Duration {
        let (mut began, mut settle, mut restarted) = (Instant::now(), SETTLE, false);
        loop {
            let (found, differences) = self.compare(candidates, may_fail).await;
            let faults = self.truth.faults();
            assert!(faults.is_empty(), "{title}\ncalls failed: {faults:#?}");
            if began.elapsed() > FORGOTTEN
                && !differences.is_empty()
                && differences.iter().all(|text| text.starts_with("bundle: of no container"))
            {
                // Files of a container that containerd was about to make when it was killed. Nobody else may
                // remove them, and it does so when it starts the next time, but not at once. That of Debian 13
                // cannot where its shim had not come so far as to write all of them: only a reboot takes these.
                if restarted {
                    let half = self.daemon.containerd.remove_half_made_bundles();
                    assert!(half > 0, "{title}\nafter a restart of containerd: {differences:#?}");
                    self.tally.half_made += half;
                } else {
                    self.daemon.containerd.pause();
                    self.daemon.containerd.resume().await;
                    self.tally.bundles += 1;
                    restarted = true;
                }
                began = Instant::now();
                continue;
            }
            if !differences.is_empty()
                && differences.iter().all(|text| text.starts_with("runc state: of no container"))
            {
                // The OCI runtime was making a container when containerd gave up waiting, and noted it afterwards.
                // The daemon must see it twice, a minute apart, to know that nobody else will come for it.
                let answer = self.daemon.api(Method::POST, "/system/prune").send().await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::OK);
                settle = SETTLE + NOTED;
            }
            if differences.is_empty() {
                for (function, want) in found {
                    self.truth.set(function, may(want));
                    match want {
                        Some(want) => drop(self.wanted.insert(function, want)),
                        None => drop(self.wanted.remove(function)),
                    }
                }
                return began.elapsed();
            }
            assert!(began.elapsed() < settle, "{title}\nafter {settle:?}: {differences:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What each function is, and what is not as it should be.
    async fn compare(
        &mut self,
        candidates: &BTreeMap<&'static str, Candidates>,
        may_fail: bool,
    ) -> (BTreeMap<&'static str, Option<Want>>, Vec<String>) {
        let (mut found, mut differences) = (BTreeMap::new(), Vec::new());
        let mut given_up = BTreeSet::new();
        for function in STEADY.into_iter().chain(QUIET).chain(PASSING) {
            let described = self.daemon.describe(function).await;
            let certain = vec![self.wanted.get(function).copied()];
            let wanted = candidates.get(function).unwrap_or(&certain);
            let is = want_of(&described);
            found.insert(function, is);
            let available = described["availableReplicas"].as_u64().unwrap_or_default();
            let update = &described["update"];
            let failed = update["phase"] == "failed";
            if failed {
                given_up.insert(function);
            }
            let may_fail =
                (may_fail && candidates.contains_key(function)) || self.given_up.contains(function);
            let at_rest = update.is_null() || (failed && may_fail);
            if !wanted.contains(&is) || !at_rest || u64::from(is.map_or(0, |want| want.replicas)) != available
            {
                differences.push(format!("{function} is {described:#}, wanted is one of {wanted:?}"));
            }
        }
        if !differences.is_empty() {
            return (found, differences);
        }
        let owned =
            found.iter().filter_map(|(name, is)| Some(((*name).to_owned(), is.as_ref()?.replicas as usize)));
        let inventory = Surveyor::of(&self.daemon).look().await;
        differences.extend(inventory.differences(&owned.collect()));
        if inventory.rules != self.rules {
            differences.push(format!("rules were {}\nand are {}", self.rules, inventory.rules));
        }
        if !differences.is_empty() {
            return (found, differences);
        }
        for (function, is) in &found {
            // A stopped one would be woken.
            if is.is_some_and(|want| want.replicas == 0) {
                continue;
            }
            // As often as it has replicas, and so each of them where they take turns.
            for _ in 0..is.map_or(1, |want| want.replicas) {
                let mut client = Client::new(address(), false, DEADLINE);
                let called = client.call("GET", &format!("/function/{function}/env")).await;
                let good = match (&called, is) {
                    (Ok(Answer { status: 404, .. }), None) => true,
                    (Ok(Answer { status: 200, body }), Some(want)) => {
                        body.contains(&format!("function={function}\n"))
                            && body.contains(&format!("version={}\n", want.version))
                    }
                    _ => false,
                };
                if !good {
                    differences.push(format!("{function} is {is:?} and answers {called:?}"));
                }
            }
        }
        if differences.is_empty() {
            self.tally.given_up += u32::try_from(given_up.difference(&self.given_up).count()).expect("a few");
            self.given_up = given_up;
        }
        (found, differences)
    }

    /// Compares the addresses that the store knows with those that there are.
    async fn look_into_the_store(&mut self, title: &str) {
        let inventory = Surveyor::of(&self.daemon).look().await;
        self.daemon.stop().await;
        let store = Store::open(&self.daemon.state_dir()).expect("open the store");
        let leases = store.leases().expect("read the leases").into_iter();
        let mut ids: Vec<String> = leases.map(|(_, id)| id.to_string()).collect();
        ids.sort_unstable();
        let functions = store.functions().expect("read the functions");
        let mut names: Vec<String> = functions.iter().map(|record| record.key.name.to_string()).collect();
        names.sort_unstable();
        store.close().await;
        drop(store);
        assert_eq!(ids, inventory.of_replicas["container"], "{title}: leases of addresses, and containers");
        assert!(
            names.iter().map(String::as_str).eq(self.wanted.keys().copied()),
            "{title}: {names:?} are stored"
        );
        self.daemon.resume().await;
    }
}

/// What the daemon says that a function is.
fn want_of(described: &Value) -> Option<Want> {
    let version = described["envVars"]["version"].as_str()?.parse().ok()?;
    let replicas = described["replicas"].as_u64().unwrap_or_default();
    Some(Want { version, replicas: u32::try_from(replicas).ok()? })
}

fn may(want: Option<Want>) -> May {
    May { versions: want.iter().map(|want| want.version).collect(), absent: want.is_none() }
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("read /proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name, which may have anything in it, and the state.
        let parent_of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        parent_of == Some(parent.to_string().as_str())
    })
    .collect()
}

fn end(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}
