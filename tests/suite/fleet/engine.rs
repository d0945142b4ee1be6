//! Containerd goes away and comes back: what was begun goes on, what was left is removed.

use super::{World, key};
use crate::support::fake_runtime::Step;

#[tokio::test]
async fn an_update_waits_for_an_engine_that_is_away_and_goes_on() {
    for step in [Step::Pull, Step::Create] {
        let world = World::new().await;
        world.serve("you/echo:1").await;
        let serving = world.runtime.leftovers();
        world.runtime.away_at(&[step]);
        let before = world.runtime.calls(step);
        world.deploy("you/echo:2").await;
        eventually!(world.runtime.calls(step) >= before + 2, "{step:?}: it is not tried again");
        let found = world.status();
        let update = found.update.expect("it is still wanted");
        assert_eq!((update.revision, found.revision, found.available_replicas), (2, 1, 1), "{step:?}");
        assert_ne!(update.phase, "failed", "{step:?}");
        assert!(found.reason.expect("a reason").contains("cannot be reached"), "{step:?}");
        assert_eq!(found.restarts, 0, "{step:?}: nothing has ended");
        world.runtime.heal();
        world.served(2).await;
        eventually!(
            world.runtime.leftovers().len() == 1 && world.runtime.leftovers() != serving,
            "{step:?}: {:?}",
            world.runtime.leftovers()
        );
        assert_eq!(world.status().reason, None, "{step:?}");
    }
}

#[tokio::test]
async fn what_could_not_be_removed_is_removed_soon_after() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    world.runtime.away_at(&[Step::Stop, Step::Remove]);
    world.fleet.remove(&key()).await.expect("removed");
    // The owner has given up, and the reaper has tried in vain.
    eventually!(world.runtime.calls(Step::Remove) >= 6, "{} attempts", world.runtime.calls(Step::Remove));
    assert_eq!(world.runtime.leftovers().len(), 1);
    world.runtime.heal();
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
}

#[tokio::test]
async fn a_replica_that_ends_unheard_while_it_starts_is_started_again() {
    let world = World::new().await;
    // It would be given two seconds to answer.
    world.deploy("you/never-ready:1").await;
    eventually!(world.runtime.calls(Step::Start) == 1, "it does not start");
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
    let began = std::time::Instant::now();
    world.runtime.vanish(&world.runtime.leftovers()[0]);
    world.runtime.resync();
    eventually!(world.reason().contains("exited with code 255"), "{}", world.reason());
    assert!(began.elapsed() < std::time::Duration::from_millis(1500), "it waited for an answer of the dead");
}

#[tokio::test]
async fn a_replica_that_ended_unheard_is_replaced() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let first = world.runtime.leftovers();
    world.runtime.vanish(&first[0]);
    world.runtime.resync();
    eventually!(
        world.runtime.leftovers().len() == 1 && world.runtime.leftovers() != first,
        "{:?}",
        world.runtime.leftovers()
    );
    eventually!(world.status().available_replicas == 1, "{:?}", world.status());
    assert_eq!(world.status().restarts, 1);
}
