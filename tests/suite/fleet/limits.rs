//! Defaults that protect the machine from functions.

use ::model::function::ReplicaId;
use ::model::wire::{Deployment, Resources};
use control::fleet::FleetError;
use futures_util::StreamExt;
use host::logs::Query;
use host::runtime::Footprint;
use host::store::Store;
use serde_json::{Value, json};

use super::{SETTINGS, World, key};
use crate::support::fake_runtime::Step;

fn deployment(more: Value) -> Deployment {
    let mut body = json!({ "service": key().name.as_str(), "namespace": key().namespace.as_str(), "image": "you/echo:1" });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::from_value(body).expect("a deployment")
}

impl World {
    /// Returns the only replica, once it serves.
    async fn replica(&self) -> ReplicaId {
        eventually!(self.status().available_replicas == 1, "{:?}", self.status());
        self.runtime.leftovers()[0].clone()
    }

    async fn output(&self) -> String {
        let lines = self.logs.query(&key(), Query::default());
        lines.map(|line| line.text + "\n").collect::<String>().await
    }

    async fn refusal(&self, more: Value) -> String {
        match self.fleet.deploy(deployment(more), false).await {
            Err(FleetError::Invalid(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_function_without_a_memory_limit_gets_the_default() {
    let mut world = World::new().await;
    world.settings.push_str("memory = \"300Mi\"\n");
    let world = world.restart().await;
    world.fleet.deploy(deployment(json!({ "limits": { "cpu": "2" } })), false).await.expect("deployed");
    world.replica().await;
    assert_eq!(world.runtime.requests()[0].memory, Some(300 << 20));
    let listed = world.fleet.list(&key().namespace).expect("a list").remove(0);
    for found in [world.status(), listed] {
        let default = Resources { memory: Some("300Mi".into()), cpu: None };
        assert_eq!(found.default_limits, Some(default));
        assert_eq!(found.limits, Some(Resources { memory: None, cpu: Some("2".into()) }), "as it was sent");
    }
    world.fleet.deploy(deployment(json!({ "limits": { "memory": "1Gi" } })), true).await.expect("deployed");
    world.served(2).await;
    eventually!(world.runtime.requests().len() == 1, "the old one is still there");
    assert_eq!(world.runtime.requests()[0].memory, Some(1 << 30));
    assert_eq!(world.status().default_limits, None);
}

#[tokio::test]
async fn a_function_from_before_the_default_has_no_limit_until_its_next_deploy() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    world.fleet.stop().await;
    world.logs.shutdown().await;
    let World { runtime, network, state, run, fleet, logs, settings, tap } = world;
    drop((fleet, logs));
    {
        // The record of an older version.
        let store = Store::open(state.path()).expect("the store");
        let mut record = store.function(&key()).expect("read").expect("it is there");
        assert!(record.wanted.default_memory);
        let mut older = serde_json::to_value(&record.wanted).expect("JSON");
        older.as_object_mut().expect("an object").remove("default_memory").expect("what tells them apart");
        record.wanted = serde_json::from_value(older).expect("a revision");
        store.put_function(&record).await.expect("stored");
        store.close().await;
    }
    let world = World::with(runtime, network, state, run, settings, tap).await;
    let first = world.replica().await;
    assert_eq!(world.status().default_limits, None);
    world.runtime.kill(&first);
    eventually!(world.runtime.leftovers().first().is_some_and(|id| *id != first), "it is not started again");
    world.replica().await;
    assert_eq!(world.runtime.requests()[0].memory, None);
    world.serve("you/echo:2").await;
    assert!(world.status().default_limits.is_some());
    eventually!(
        world.runtime.requests().iter().all(|request| request.memory.is_some()),
        "{:?}",
        world.runtime.requests()
    );
}

#[tokio::test]
async fn an_oom_kill_is_reported_although_the_replica_survives() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let id = world.replica().await;
    // The shim and the kernel's count report the same kills repeatedly.
    for (kills, counted) in [(1, 1), (1, 1), (3, 3)] {
        world.runtime.starve_one(&id, kills);
        eventually!(world.status().oom_kills == counted, "{:?}", world.status());
    }
    // Also of a replica whose files cannot be measured.
    world.runtime.fail_once(Step::Footprint);
    world.runtime.set_oom_kills(&id, 4);
    eventually!(within 25, world.status().oom_kills == 4, "{:?}", world.status());
    let found = world.status();
    assert_eq!((found.available_replicas, found.restarts, found.last_exit), (1, 0, None));
    // The first kill is logged at once, the others together some time later.
    eventually!(within 30, world.output().await.contains("killed 3 of"), "{}", world.output().await);
    let output = world.output().await;
    let told: Vec<&str> = output.lines().filter(|line| line.contains("out of memory (OOMKilled)")).collect();
    assert!(told.len() == 2 && told[0].contains("killed 1 of"), "{output}");
    assert!(output.contains("limits.memory"), "{output}");
    // An exit that the kill causes names it.
    world.runtime.starve(&id);
    eventually!(world.status().last_exit.is_some_and(|exit| exit.out_of_memory), "{:?}", world.status());
}

const OVER: Footprint = Footprint { bytes: (10 << 20) + 1, files: 1 };

/// Returns a fleet whose replicas may have 10 MiB of files, with these settings beside.
async fn with_small_disks(settings: &str) -> World {
    let mut world = World::new().await;
    world.settings = format!("[functions]\ndisk = \"10Mi\"\n{settings}");
    world.restart().await
}

impl World {
    /// Waits until the replica was ended for its files, and returns the reason.
    async fn ended_for_files(&self, id: &ReplicaId) -> String {
        let reason = || self.status().last_exit.filter(|exit| exit.replica == id.as_str())?.reason;
        eventually!(within 60, reason().is_some(), "{:?}", self.status());
        eventually!(within 10, !self.runtime.leftovers().contains(id), "{id} is still there");
        let reason = reason().expect("it was ended");
        assert_eq!(self.status().last_exit.expect("it was ended").code, 137);
        assert!(reason.contains("functions.disk"), "{reason}");
        let output = self.output().await;
        assert_eq!(output.matches(&reason).count(), 1, "{output}");
        reason
    }
}

#[tokio::test]
async fn a_replica_over_its_disk_limit_is_ended_with_that_reason() {
    let (bytes, files) = (10 << 20, 1280);
    for (over, word) in [(OVER, "10.5 MB"), (Footprint { bytes: 0, files: files + 1 }, "1281 files")] {
        let world = with_small_disks("start_timeout = \"2s\"\n").await;
        world.serve("you/echo:1").await;
        let id = world.replica().await;
        world.runtime.set_footprint(&id, Footprint { bytes, files });
        tokio::time::sleep(std::time::Duration::from_secs(12)).await;
        assert_eq!(world.runtime.leftovers(), [id.clone()], "as much as it may");
        world.runtime.set_footprint(&id, over);
        let reason = world.ended_for_files(&id).await;
        assert!(reason.contains("writable layer") && reason.contains(word), "{reason}");
        assert_ne!(world.replica().await, id);
    }
}

#[tokio::test]
async fn a_replica_that_never_gets_ready_is_ended_over_its_disk_limit_and_its_start_fails() {
    let world = with_small_disks("").await;
    world.fleet.deploy(deployment(json!({ "image": "you/never-ready:1" })), false).await.expect("deployed");
    eventually!(world.runtime.leftovers().len() == 1, "it does not start");
    let id = world.runtime.leftovers()[0].clone();
    world.runtime.set_footprint(&id, OVER);
    let reason = world.ended_for_files(&id).await;
    eventually!(world.status().restarts == 1, "{:?}", world.status());
    assert!(world.status().reason.is_some_and(|told| told.contains(&reason)), "{:?}", world.status());
}

#[tokio::test]
async fn a_replica_that_drains_is_ended_over_its_disk_limit() {
    let world = with_small_disks("stop_grace = \"10m\"\n").await;
    world.serve("you/deaf:1").await;
    let id = world.replica().await;
    world.fleet.scale(&key(), 0).await.expect("scaled");
    eventually!(world.status().available_replicas == 0, "{:?}", world.status());
    assert_eq!(world.runtime.leftovers(), [id.clone()], "it ignores SIGTERM");
    world.runtime.set_footprint(&id, OVER);
    world.ended_for_files(&id).await;
}

#[tokio::test]
async fn a_replica_that_cannot_be_measured_three_times_in_a_row_is_ended() {
    let world = with_small_disks("").await;
    world.serve("you/echo:1").await;
    let id = world.replica().await;
    // containerd's absence is not the replica's doing.
    world.runtime.away_at(&[Step::Footprint, Step::Version]);
    tokio::time::sleep(std::time::Duration::from_secs(35)).await;
    assert_eq!(world.runtime.leftovers(), [id.clone()]);
    world.runtime.heal();
    world.runtime.fail_at(Step::Footprint);
    let reason = world.ended_for_files(&id).await;
    assert!(reason.contains("3 times in a row") && reason.contains("the test wants it to fail"), "{reason}");
}

#[tokio::test]
async fn capabilities_that_are_not_allowed_are_refused_with_the_key() {
    let world = World::new().await;
    let wanting = |words: &str| json!({ "annotations": { "ingle.capabilities": words } });
    for words in ["SYS_ADMIN", "CHOWN,NET_RAW", "cap_sys_module"] {
        let reason = world.refusal(wanting(words)).await;
        assert!(reason.contains("functions.allowed_capabilities"), "{reason}");
    }
    assert_eq!(world.fleet.list(&key().namespace).expect("a list"), []);
    let allowed = wanting("NET_BIND_SERVICE,CHOWN,FOWNER,SETUID,SETGID,KILL");
    world.fleet.deploy(deployment(allowed), false).await.expect("deployed");
    let first = world.replica().await;
    world.serve("you/echo:2").await;
    eventually!(world.runtime.leftovers().len() == 1, "the old one is still there");
    assert_ne!(world.replica().await, first);

    // Running functions go on; the next deploy is refused, and so is a rollback.
    let mut world = world;
    world.fleet.deploy(deployment(wanting("KILL")), true).await.expect("deployed");
    world.served(3).await;
    eventually!(world.runtime.leftovers().len() == 1, "the old one is still there");
    let third = world.replica().await;
    world.settings = format!("{SETTINGS}allowed_capabilities = [\"chown\"]\n");
    let world = world.restart().await;
    assert_eq!(world.replica().await, third);
    let reason = world.refusal(wanting("KILL")).await;
    assert!(reason.contains("CAP_KILL") && reason.contains("CAP_CHOWN"), "{reason}");
    let error = world.fleet.rollback(&key(), Some(1)).await.expect_err("it has more").to_string();
    assert!(error.contains("functions.allowed_capabilities"), "{error}");
    world.fleet.rollback(&key(), Some(2)).await.expect("it has none");
}

#[tokio::test]
async fn images_that_are_not_allowed_are_refused_with_the_key() {
    let mut world = World::new().await;
    world.serve("you/echo:1").await;
    world.serve("other/echo:1").await;
    world.settings =
        format!("{SETTINGS}[images]\nallowed = [\"registry.example/team/*\", \"docker.io/you/echo\"]\n");
    let world = world.restart().await;
    for image in
        ["other/echo:1", "echo", "registry.example/teams/echo", "evil.example/registry.example/team/echo"]
    {
        let reason = world.refusal(json!({ "image": image })).await;
        assert!(reason.contains("images.allowed"), "{image}: {reason}");
    }
    assert_eq!(world.status().image, "other/echo:1", "what runs goes on");
    world.fleet.rollback(&key(), Some(1)).await.expect("an allowed one");
    world.served(3).await;
    let error = world.fleet.rollback(&key(), Some(2)).await.expect_err("not allowed").to_string();
    assert!(error.contains("images.allowed"), "{error}");
    world.serve("registry.example/team/echo:2").await;
}
