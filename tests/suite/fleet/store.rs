//! What is stored against what runs: nothing that runs is removed because its record is not there.

use std::fs;
use std::path::{Path, PathBuf};

use control::fleet::FleetError;
use host::store::FunctionRecord;

use super::*;

/// Ends the daemon's part, changes its state directory, and begins anew.
async fn restart_after(world: World, change: impl FnOnce(&Path)) -> World {
    world.fleet.stop().await;
    change(world.state.path());
    world.resume().await
}

fn file(state: &Path) -> PathBuf {
    state.join("functions/openfaas-fn/f.json")
}

fn remove_all(state: &Path) {
    for name in ["functions", "namespaces", "db", "large"] {
        fs::remove_dir_all(state.join(name)).expect("removed");
    }
    fs::remove_file(state.join("identity")).expect("removed");
}

fn replicas(world: &World) -> Vec<String> {
    let mut running: Vec<_> = world.runtime.leftovers().iter().map(ToString::to_string).collect();
    running.sort();
    running
}

#[tokio::test]
async fn a_function_whose_record_is_lost_is_taken_up_from_its_container() {
    let changes: [fn(&Path); 3] = [
        |state| fs::remove_file(file(state)).expect("removed"),
        |state| fs::write(file(state), "torn").expect("torn"),
        |state| fs::remove_dir_all(state.join("functions")).expect("removed"),
    ];
    for change in changes {
        let world = World::new().await;
        world.serve("you/echo:1").await;
        world.serve("you/echo:2").await;
        eventually!(replicas(&world).len() == 1, "{:?}", replicas(&world));
        let running = replicas(&world);
        let world = restart_after(world, change).await;
        eventually!(world.phase() == Some(Phase::Ready), "{:?}", world.phase());
        assert_eq!(replicas(&world), running, "it goes on without a restart");
        let status = world.status();
        assert_eq!((status.revision, status.image.as_str(), status.restarts), (2, "you/echo:2", 0));
        // It is a function as any other.
        world.serve("you/echo:3").await;
        let world = world.restart().await;
        eventually!(world.phase() == Some(Phase::Ready), "{:?}", world.phase());
        assert_eq!(world.status().revision, 3);
        world.fleet.remove(&key()).await.expect("removed");
        eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    }
}

#[tokio::test]
async fn a_removed_function_stays_removed_however_its_removal_was_cut_off() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let record = fs::read(file(world.state.path())).expect("readable");
    let running = replicas(&world);
    // As if the daemon had been killed between the tombstone and the end of the replica.
    let world = restart_after(world, |state| {
        let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
        let incarnation = record["content"]["incarnation"].as_str().expect("a text");
        let tombstone = state.join(format!("functions/openfaas-fn/f.{incarnation}.removed"));
        fs::rename(file(state), tombstone).expect("renamed");
    })
    .await;
    assert_eq!(world.phase(), None);
    eventually!(replicas(&world).is_empty(), "{running:?} is left: {:?}", replicas(&world));
    let left = || fs::read_dir(world.state.path().join("functions/openfaas-fn")).expect("listed").count();
    eventually!(left() == 0, "the tombstone goes last");
    // A namesake is another function.
    world.serve("you/echo:2").await;
    assert_eq!(world.status().revision, 1);
    assert_eq!(world.status().invocation_count, 0);
}

#[tokio::test]
async fn what_another_state_directory_has_started_is_named_and_left_alone() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let running = replicas(&world);
    let world = restart_after(world, remove_all).await;
    assert_eq!(world.phase(), None, "its record is that of another directory");
    eventually!(!world.fleet.store_status().orphans.is_empty(), "nobody says what was found");
    let orphans = world.fleet.store_status().orphans;
    assert_eq!(orphans.iter().map(|orphan| orphan.replica.clone()).collect::<Vec<_>>(), running);
    let orphan = &orphans[0];
    assert!(
        orphan.running && orphan.function == "f.openfaas-fn" && orphan.reason.contains("another state"),
        "{orphan:?}"
    );
    // Also beside a namesake of this one, and after its removal.
    world.serve("you/echo:2").await;
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(replicas(&world) == running, "{:?}", replicas(&world));
    world.fleet.prune(false).await.expect("pruned");
    assert_eq!(replicas(&world), running);
    world.fleet.prune(true).await.expect("pruned");
    assert!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    assert_eq!(world.fleet.store_status().orphans, []);
}

#[tokio::test]
async fn an_edited_file_is_deployed_once_a_person_has_accepted_it() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    world.serve("you/echo:2").await;
    let error = world.fleet.accept(&key()).await.expect_err("there is nothing to accept");
    assert!(matches!(error, FleetError::NothingSetAside(_)), "{error}");
    let world = restart_after(world, |state| {
        let text = fs::read_to_string(file(state)).expect("readable");
        fs::write(file(state), text.replace("you/echo:2", "you/echo:9")).expect("edited");
    })
    .await;
    eventually!(world.phase() == Some(Phase::Ready), "{:?}", world.phase());
    assert_eq!(world.status().image, "you/echo:2", "what runs goes on");
    let [aside] = &world.fleet.store_status().set_aside[..] else { panic!("it is not named") };
    assert!(aside.subject == "function f.openfaas-fn" && aside.reason.contains("edited"), "{aside:?}");
    let number = world.fleet.accept(&key()).await.expect("accepted");
    world.served(number).await;
    assert_eq!(world.status().image, "you/echo:9");
    assert_eq!(world.fleet.store_status().set_aside, []);
}

#[tokio::test]
async fn a_file_of_a_function_that_does_not_run_is_accepted_with_its_revisions() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    world.serve("you/echo:2").await;
    let before = world.fleet.directory().get(&key()).map(|entry| entry.incarnation.clone());
    world.fleet.scale(&key(), 0).await.expect("scaled");
    eventually!(replicas(&world).is_empty(), "{:?}", replicas(&world));
    let world = restart_after(world, |state| {
        let text = fs::read_to_string(file(state)).expect("readable");
        fs::write(file(state), text.replace("you/echo:2", "you/echo:9")).expect("edited");
    })
    .await;
    assert_eq!(world.phase(), None, "nothing says what it was");
    let number = world.fleet.accept(&key()).await.expect("accepted");
    world.served(number).await;
    assert_eq!(world.kept(), [(3, "you/echo:9".into()), (2, "you/echo:9".into()), (1, "you/echo:1".into())]);
    let life = world.fleet.directory().get(&key()).map(|entry| entry.incarnation.clone());
    assert_eq!(life, before, "its queued calls are made");
}

#[tokio::test]
async fn a_container_carries_a_record_that_can_be_read() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let [replica] = &world.runtime.leftovers()[..] else { panic!("one replica") };
    let carried = world.runtime.record(replica).await.expect("readable").expect("carried");
    let carried = FunctionRecord::of_container(&carried).expect("a record");
    assert_eq!((carried.key, carried.wanted.number), (key(), 1));
}

/// A FIFO in place of a function's file: whoever reads it waits until somebody writes.
struct SlowFile(PathBuf);

impl SlowFile {
    fn of(world: &World, name: &str) -> Self {
        let path = world.state.path().join(format!("functions/openfaas-fn/{name}.json"));
        if path.exists() {
            fs::remove_file(&path).expect("removed");
        }
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        Self(path)
    }

    /// Whether somebody waits for it.
    fn is_read(&self) -> bool {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = nix::libc::O_NONBLOCK;
        fs::OpenOptions::new().write(true).custom_flags(flags).open(&self.0).is_ok()
    }
}

#[tokio::test]
async fn a_disk_that_keeps_one_function_waiting_holds_up_no_other() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let deploy = |name: &str| {
        let deployment =
            Deployment { service: name.into(), image: "you/echo:1".into(), ..Deployment::default() };
        let fleet = world.fleet.clone();
        async move { fleet.deploy(deployment, false).await }
    };
    // A function that is new, and one that is there and has to be removed after its update.
    for name in ["new", "f"] {
        let slow = SlowFile::of(&world, name);
        let waiting = tokio::spawn(deploy(name));
        let removal = (name == "f").then(|| {
            let fleet = world.fleet.clone();
            tokio::spawn(async move { fleet.remove(&key()).await })
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let others = async {
            let other = format!("beside-{name}");
            deploy(&other).await.expect("deployed");
            deploy(&other).await.expect("updated");
            world.fleet.remove(&FunctionKey::parse(&other).expect("a name")).await.expect("removed");
        };
        let done = tokio::time::timeout(Duration::from_secs(10), others).await;
        assert!(!waiting.is_finished(), "{name} waits for its file");
        assert!(slow.is_read(), "{name} goes on");
        done.expect("others go on");
        // It may be read more than once.
        let ends = || {
            slow.is_read();
            waiting.is_finished()
        };
        eventually!(ends(), "{name} still waits");
        waiting.await.expect("no panic").expect("deployed");
        if let Some(removal) = removal {
            removal.await.expect("no panic").expect("removed after the update");
        }
    }
}
