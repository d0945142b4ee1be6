//! What is told of a replica that ended.

use super::{World, key};

#[tokio::test]
async fn the_last_exit_is_told_also_after_the_recovery() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    assert_eq!(world.status().last_exit, None);
    let (before, first) = (jiff::Timestamp::now(), world.runtime.leftovers());
    world.runtime.kill(&first[0]);
    eventually!(
        world.runtime.leftovers().len() == 1 && world.runtime.leftovers() != first,
        "it is not replaced"
    );
    eventually!(world.status().available_replicas == 1, "{:?}", world.status());
    let found = world.status();
    let exit = found.last_exit.expect("one ended");
    assert_eq!((exit.replica.as_str(), exit.revision), (first[0].to_string().as_str(), 1));
    assert_eq!((exit.code, exit.out_of_memory, found.restarts), (137, false, 1));
    assert!(exit.at.parse::<jiff::Timestamp>().expect("a time") >= before, "{exit:?}");
    assert_eq!(found.reason, None, "it serves again");

    // One that is told to go is no news; neither is one that is updated.
    world.fleet.scale(&key(), 0).await.expect("scaled");
    eventually!(world.runtime.leftovers().is_empty(), "it is not stopped");
    assert_eq!(world.status().last_exit.map(|exit| exit.replica), Some(first[0].to_string()));
    world.serve("you/echo:2").await;
    assert_eq!(world.status().last_exit.map(|exit| exit.revision), Some(1));
}

#[tokio::test]
async fn one_that_ends_as_soon_as_it_starts_says_how_while_it_waits() {
    let world = World::new().await;
    world.deploy("you/exits:3").await;
    eventually!(world.status().phase == "backing-off", "{:?}", world.status());
    let found = world.status();
    assert!(found.reason.expect("a reason").contains("exited with code 3"));
    assert_eq!(found.last_exit.expect("one ended").code, 3);
    assert!(found.restarts > 0);
}
