//! An owner that panics is begun anew.

use std::time::{Duration, Instant};

use super::{World, key};
use crate::support::fake_runtime::Step;

#[tokio::test]
async fn an_owner_that_panics_is_begun_anew_and_takes_over_what_serves() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let entry = world.fleet.directory().get(&key()).expect("it is there");
    let serving = entry.view().endpoints[0].clone();
    // The owner panics when it says why the update did not start; it is tried again by the next one.
    world.runtime.unspeakable_at(Step::Create);
    let began = Instant::now();
    world.deploy("you/echo:2").await;
    let before = world.runtime.calls(Step::Create);
    eventually!(world.runtime.calls(Step::Create) >= before + 3, "it does not go on");
    assert!(began.elapsed() >= Duration::from_millis(200), "it goes on without a pause");
    let view = entry.view();
    assert!(std::sync::Arc::ptr_eq(&view.endpoints[0], &serving), "it serves all the time");
    assert_eq!(world.runtime.leftovers(), std::slice::from_ref(&serving.id));
    // It is told things in between.
    world.fleet.scale(&key(), 2).await.expect("scaled");
    world.runtime.heal();
    world.served(2).await;
    eventually!(world.status().available_replicas == 2, "{:?}", world.status());
    eventually!(world.runtime.leftovers().len() == 2, "{:?}", world.runtime.leftovers());
    let found = world.fleet.directory().get(&key()).expect("it is there");
    assert!(std::sync::Arc::ptr_eq(&found, &entry), "its counts would be lost");
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
}

#[tokio::test]
async fn a_replica_that_ended_while_nobody_looked_is_replaced() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let first = world.runtime.leftovers();
    world.runtime.unspeakable_at(Step::Create);
    world.deploy("you/echo:2").await;
    world.runtime.kill(&first[0]);
    eventually!(world.runtime.calls(Step::Create) >= 4, "it does not go on");
    world.runtime.heal();
    eventually!(world.status().available_replicas == 1, "{:?}", world.status());
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
    assert_ne!(world.runtime.leftovers(), first);
}

#[tokio::test]
async fn a_function_whose_owner_always_panics_can_be_removed_and_leaves_nothing() {
    let world = World::new().await;
    world.runtime.unspeakable_at(Step::Start);
    world.deploy("you/echo:1").await;
    eventually!(world.runtime.calls(Step::Start) >= 3, "it does not go on");
    world.fleet.remove(&key()).await.expect("removed");
    assert_eq!(world.phase(), None);
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    world.runtime.heal();
    let world = world.restart().await;
    assert_eq!(world.phase(), None, "it was deleted");
    world.serve("you/echo:2").await;
}

#[tokio::test]
async fn what_brings_events_and_what_cleans_up_are_begun_anew() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let first = world.runtime.leftovers();
    // Something is left over, so that what cleans up goes on looking, and panics at it.
    world.runtime.fail_at(Step::Remove);
    world.runtime.kill(&first[0]);
    eventually!(world.runtime.leftovers().len() == 2, "{:?}", world.runtime.leftovers());
    world.runtime.panic_at(Step::List);
    let before = world.runtime.calls(Step::List);
    eventually!(world.runtime.calls(Step::List) >= before + 3, "what cleans up does not go on");
    world.runtime.heal();
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
    let first = world.runtime.leftovers();
    // What brings events looks when it is told that some were lost.
    world.runtime.panic_at(Step::List);
    let before = world.runtime.calls(Step::List);
    world.runtime.resync();
    eventually!(world.runtime.calls(Step::List) >= before + 4, "what brings events does not go on");
    world.runtime.kill(&first[0]);
    world.runtime.heal();
    // What ended meanwhile is replaced, and what ends later, too.
    let now = || world.runtime.leftovers();
    eventually!(now().len() == 1 && now() != first, "{:?}", now());
    let second = now();
    world.runtime.kill(&second[0]);
    eventually!(now().iter().all(|id| *id != second[0]), "nobody heard of its end");
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
}
