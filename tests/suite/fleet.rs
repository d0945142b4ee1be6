//! The fleet over a fake runtime and network: what fails at each step of a launch is taken back, the
//! function says why, and comes up when the fault is gone.

mod behind;
mod engine;
mod exits;
mod limits;
mod model;
mod reaper;
mod rollback;
mod store;
mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use ::model::config::Config;
use ::model::function::FunctionKey;
use ::model::wire::{Deployment, FunctionStatus};
use control::fleet::Fleet;
use directory::Phase;
use host::bundles::Handlers;
use host::logs::Logs;
use host::network::Network;
use host::runtime::Runtime;
use host::secrets::Secrets;
use host::store::Store;

use crate::support::TemporaryDirectory;
use crate::support::fake_network::FakeNetwork;
use crate::support::fake_runtime::{FakeRuntime, Step};
use crate::support::tap::{Open, Tap, Tapped};

/// The default configuration of the tests.
const SETTINGS: &str = "[functions]\nstart_timeout = \"2s\"\n";

struct World {
    fleet: Arc<Fleet>,
    runtime: FakeRuntime,
    network: Arc<FakeNetwork>,
    logs: Arc<Logs>,
    state: TemporaryDirectory,
    run: TemporaryDirectory,
    /// Configuration of the daemon.
    settings: String,
    /// What stands before the runtime.
    tap: Arc<dyn Tap>,
}

impl World {
    async fn new() -> Self {
        let (state, run) = (TemporaryDirectory::new(), TemporaryDirectory::new());
        Self::over(FakeRuntime::default(), Arc::new(FakeNetwork::new()), state, run).await
    }

    /// One that keeps this many revisions.
    async fn keeping(revisions: usize) -> Self {
        let (state, run) = (TemporaryDirectory::new(), TemporaryDirectory::new());
        let (runtime, network) = (FakeRuntime::default(), Arc::new(FakeNetwork::new()));
        let settings = format!("{SETTINGS}revisions = {revisions}\n");
        Self::with(runtime, network, state, run, settings, Arc::new(Open)).await
    }

    /// One whose runtime has a tap before it.
    async fn tapped(tap: Arc<dyn Tap>) -> Self {
        let (state, run) = (TemporaryDirectory::new(), TemporaryDirectory::new());
        let (runtime, network) = (FakeRuntime::default(), Arc::new(FakeNetwork::new()));
        Self::with(runtime, network, state, run, SETTINGS.to_owned(), tap).await
    }

    async fn over(
        runtime: FakeRuntime,
        network: Arc<FakeNetwork>,
        state: TemporaryDirectory,
        run: TemporaryDirectory,
    ) -> Self {
        Self::with(runtime, network, state, run, SETTINGS.to_owned(), Arc::new(Open)).await
    }

    async fn with(
        runtime: FakeRuntime,
        network: Arc<FakeNetwork>,
        state: TemporaryDirectory,
        run: TemporaryDirectory,
        settings: String,
        tap: Arc<dyn Tap>,
    ) -> Self {
        let mut config = Config::parse(&settings, |_| None).expect("settings");
        config.logs.journal = false;
        let logs = Logs::new(&config.logs, state.path(), run.path()).expect("logs");
        let secrets = Secrets::open(state.path()).expect("secrets");
        let store = Arc::new(Store::open(state.path()).expect("a store"));
        let inner: Arc<dyn Runtime> = Arc::new(runtime.clone());
        let tapped = Tapped::new(inner, tap.clone());
        let handlers = Handlers::open(state.path(), config.functions.handler_limit).expect("handlers");
        let fleet = Fleet::new(&config, tapped, network.clone(), logs.clone(), secrets, handlers, store)
            .expect("a fleet");
        fleet.start().await.expect("started");
        Self { fleet, runtime, network, logs, state, run, settings, tap }
    }

    /// Ends the daemon's part; containers and networks stay.
    async fn restart(self) -> Self {
        self.fleet.stop().await;
        self.resume().await
    }

    /// The next daemon, after the fleet of this one was stopped.
    async fn resume(self) -> Self {
        self.logs.shutdown().await;
        let Self { runtime, network, state, run, fleet, logs, settings, tap } = self;
        drop((fleet, logs));
        Self::with(runtime, network, state, run, settings, tap).await
    }

    async fn deploy(&self, image: &str) -> u64 {
        let deployment = Deployment { service: "f".into(), image: image.into(), ..Deployment::default() };
        self.fleet.deploy(deployment, false).await.expect("accepted")
    }

    /// Deploys an image, and waits until it serves and is kept.
    async fn serve(&self, image: &str) -> u64 {
        let number = self.deploy(image).await;
        self.served(number).await;
        number
    }

    async fn served(&self, number: u64) {
        let kept = || self.kept().first().is_some_and(|(newest, _)| *newest == number);
        eventually!(self.status().revision == number && kept(), "{:?}", self.status());
    }

    fn status(&self) -> FunctionStatus {
        self.fleet.describe(&key()).expect("it is there")
    }

    /// Revisions that are kept, with their images, newest first.
    fn kept(&self) -> Vec<(u64, String)> {
        let kept = self.status().revisions.into_iter();
        kept.map(|revision| (revision.revision, revision.image)).collect()
    }

    fn phase(&self) -> Option<Phase> {
        self.fleet.directory().get(&key()).map(|entry| entry.view().phase)
    }

    fn reason(&self) -> String {
        self.fleet.describe(&key()).expect("it is there").reason.unwrap_or_default()
    }

    async fn leftovers(&self) -> Vec<String> {
        let networks = self.network.attached().await.expect("a list");
        let ids = self.runtime.leftovers().into_iter().chain(networks).chain(self.logs.attached());
        ids.map(|id| id.to_string()).collect()
    }
}

fn key() -> FunctionKey {
    FunctionKey::parse("f").expect("a name")
}

/// Waits until a launch that was made to fail has left nothing, and another was made to succeed.
async fn taken_back_and_tried_again(world: &World, step: Step) {
    eventually!(world.phase() == Some(Phase::BackingOff), "{step:?}: {:?}", world.phase());
    eventually!(world.leftovers().await.is_empty(), "{step:?}: {:?}", world.leftovers().await);
    world.runtime.heal();
    eventually!(world.phase() == Some(Phase::Ready), "{step:?}: {}", world.reason());
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(world.leftovers().await.is_empty(), "{step:?}: {:?}", world.leftovers().await);
}

#[tokio::test]
async fn what_fails_at_any_step_of_a_launch_is_taken_back_and_tried_again() {
    for step in [Step::Pull, Step::Prepare, Step::Create, Step::Start] {
        let world = World::new().await;
        world.runtime.fail_at(step);
        world.deploy("you/echo:1").await;
        let view = || world.fleet.directory().get(&key()).expect("it is there").view();
        eventually!(view().retry_at.is_some(), "{step:?}: callers are not told how long it takes");
        assert!(!world.reason().is_empty(), "{step:?}");
        taken_back_and_tried_again(&world, step).await;
    }
}

#[tokio::test]
async fn a_crash_loop_is_reported_until_the_function_is_deployed_or_scaled() {
    let world = World::new().await;
    world.runtime.fail_at(Step::Start);
    world.deploy("you/echo:1").await;
    let view = || world.fleet.directory().get(&key()).expect("it is there").view();
    eventually!(view().restarts > 0, "it is not started: {}", world.reason());
    let seen = view();
    assert!(seen.restarts > 2 || !seen.crash_looping, "a first start is waited for: {seen:?}");
    eventually!(view().crash_looping, "{:?}", view());
    assert!(view().restarts > 2, "{:?}", view());
    // A deploy or a change of scale asks for another attempt.
    world.deploy("you/echo:2").await;
    eventually!(view().revision == 2, "{:?}", view());
    let seen = view();
    assert!(seen.restarts > 2 || !seen.crash_looping, "{seen:?}");
    eventually!(view().crash_looping, "{:?}", view());
    world.fleet.scale(&key(), 0).await.expect("scaled");
    eventually!(view().phase == Phase::Stopped && !view().crash_looping, "{:?}", view());
}

#[tokio::test]
async fn a_panic_in_a_launch_counts_as_a_failure_and_leaves_nothing() {
    for step in [Step::Pull, Step::Prepare, Step::Create, Step::Start] {
        let world = World::new().await;
        world.runtime.panic_at(step);
        world.deploy("you/echo:1").await;
        eventually!(world.reason().contains("an error of ingle"), "{step:?}: {}", world.reason());
        assert!(world.reason().contains("to panic"), "{}", world.reason());
        taken_back_and_tried_again(&world, step).await;
    }
}

#[tokio::test]
async fn a_panic_in_a_removal_leaves_the_rest_to_the_next_start() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    world.runtime.panic_at(Step::Stop);
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(world.runtime.calls(Step::Stop) == 1, "it is not stopped");
    let world = world.restart().await;
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
}

#[tokio::test]
async fn a_removed_function_is_not_brought_back_by_an_update_that_fails_late() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    // This step runs to its end, also when the start was called off.
    world.runtime.delay_at(Step::Create, Duration::from_millis(300));
    world.runtime.fail_at(Step::Create);
    let before = world.runtime.calls(Step::Create);
    world.deploy("you/echo:2").await;
    eventually!(world.runtime.calls(Step::Create) > before, "the update does not start");
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    let world = world.restart().await;
    assert_eq!(world.phase(), None, "it was deleted");
}

#[tokio::test]
async fn a_scale_in_the_moment_of_a_removal_does_not_bring_a_function_back() {
    let world = World::new().await;
    for _ in 0..20 {
        world.deploy("you/echo:1").await;
        let (key, mut asked) = (key(), tokio::task::JoinSet::new());
        for n in 0..20 {
            let (fleet, key) = (world.fleet.clone(), key.clone());
            asked.spawn(async move { fleet.scale(&key, n % 3).await.is_ok() });
        }
        tokio::task::yield_now().await;
        world.fleet.remove(&key).await.expect("removed");
        asked.join_all().await;
    }
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    let world = world.restart().await;
    assert_eq!(world.phase(), None, "it was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_in_the_moment_in_which_it_is_ready_is_not_taken_for_one_that_serves() {
    let world = World::new().await;
    for delay in (0..60).map(|n| n * 50) {
        world.deploy(&format!("you/fleeting:{delay}")).await;
        let found = || world.fleet.describe(&key()).expect("it is there");
        // An owner that has something else to do finds both at once: that it is ready, and that it ended.
        let busy = async {
            loop {
                world.fleet.scale(&key(), 1).await.expect("scaled");
            }
        };
        let noticed = async {
            eventually!(found().restarts > 0, "it ended {delay} us after its answer: {:?}", found());
        };
        tokio::select! {
            () = noticed => {}
            () = busy => {}
        }
        world.fleet.remove(&key()).await.expect("removed");
    }
}

#[tokio::test]
async fn what_drains_is_removed_before_the_daemon_ends() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    world.runtime.delay_at(Step::Stop, Duration::from_millis(300));
    world.fleet.remove(&key()).await.expect("removed");
    world.fleet.stop().await;
    assert_eq!(world.leftovers().await, [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_removed_before_the_daemon_ends_is_removed_by_the_next() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    world.runtime.hang_at(Step::Stop);
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(world.runtime.calls(Step::Stop) == 1, "it is not stopped");
    // Its patience has an end, which comes at once on this clock.
    tokio::time::pause();
    world.fleet.stop().await;
    tokio::time::resume();
    assert_eq!(world.runtime.leftovers().len(), 1);
    let world = world.resume().await;
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
}

#[tokio::test]
async fn a_start_keeps_to_the_pull_policy_of_the_deploy() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    let never = [("ingle.pull-policy".to_owned(), "Never".to_owned())];
    let deployment = Deployment {
        service: "f".into(),
        image: "you/echo:1".into(),
        annotations: Some(never.into()),
        ..Deployment::default()
    };
    assert_eq!(world.fleet.deploy(deployment, true).await.expect("the image is here"), 2);
    let found = || world.fleet.describe(&key()).expect("it is there");
    eventually!(found().revision == 2 && world.runtime.leftovers().len() == 1, "{:?}", found());

    world.runtime.forget_images();
    world.runtime.kill(&world.runtime.leftovers()[0]);
    eventually!(world.phase() == Some(Phase::BackingOff), "{:?}", world.phase());
    assert!(world.reason().contains("'ingle image load'"), "{}", world.reason());
    // Another function brings the image back.
    let other = Deployment { service: "g".into(), image: "you/echo:1".into(), ..Deployment::default() };
    world.fleet.deploy(other, false).await.expect("accepted");
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
}

#[tokio::test]
async fn a_network_that_cannot_be_made_leaves_nothing() {
    let world = World::new().await;
    world.network.break_attach(true);
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::BackingOff), "{:?}", world.phase());
    assert!(world.reason().contains("network"), "{}", world.reason());
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    world.network.break_attach(false);
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
}

#[tokio::test]
async fn what_cannot_be_removed_at_first_is_removed_later() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    world.runtime.fail_once(Step::Stop);
    world.runtime.fail_once(Step::Remove);
    world.fleet.remove(&key()).await.expect("removed");
    assert_eq!(world.phase(), None, "calls find it no more");
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
}

#[tokio::test]
async fn a_deploy_is_called_off_by_a_removal_in_the_middle_of_a_slow_pull() {
    let world = World::new().await;
    world.runtime.delay_at(Step::Pull, Duration::from_secs(600));
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Pulling), "{:?}", world.phase());
    world.fleet.remove(&key()).await.expect("removed");
    assert_eq!(world.phase(), None);
    world.runtime.heal();
    // The name is free at once.
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    assert_eq!(world.runtime.leftovers().len(), 1);
}

#[tokio::test]
async fn the_last_of_many_updates_at_once_serves() {
    let world = World::new().await;
    world.deploy("you/echo:0").await;
    let deploys = (1..=8).map(|n| {
        let image = format!("you/echo:{n}");
        let world = &world;
        async move { (world.deploy(&image).await, image) }
    });
    let done = futures_util::future::join_all(deploys).await;
    let (last, image) = done.into_iter().max().expect("eight");
    assert_eq!(last, 9, "each has a number of its own");
    let found = || world.fleet.describe(&key()).expect("it is there");
    eventually!(found().revision == last && found().available_replicas == 1, "{:?}", found());
    assert_eq!(found().image, image);
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
}

#[tokio::test]
async fn a_restart_takes_up_what_runs_and_starts_what_does_not() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    let before = world.runtime.leftovers();
    let world = world.restart().await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    assert_eq!(world.runtime.leftovers(), before, "the same container");
    // An exit that happened while nobody looked.
    world.runtime.kill(&before[0]);
    eventually!(world.runtime.leftovers() != before, "it was not replaced");
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    assert_eq!(world.fleet.describe(&key()).expect("it is there").restarts, 1);
}
