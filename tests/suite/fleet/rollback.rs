//! The way back to a revision that served.

use std::time::Duration;

use control::fleet::FleetError;

use super::{World, key};
use crate::support::fake_runtime::Step;

impl World {
    async fn rollback(&self, to: Option<u64>) -> Result<u64, FleetError> {
        self.fleet.rollback(&key(), to).await
    }
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_of_an_old_image_and_asks_for_no_tag() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    let old = world.status().image_digest;
    world.serve("you/echo:2").await;
    let asked = world.runtime.calls(Step::Resolve);
    world.runtime.fail_at(Step::Resolve);
    assert_eq!(world.rollback(None).await.expect("accepted"), 3);
    world.served(3).await;
    let found = world.status();
    assert_eq!((found.image.as_str(), &found.image_digest), ("you/echo:1", &old));
    assert_eq!(world.runtime.calls(Step::Resolve), asked, "the registry was asked");
    let image = |number, tag: u32| (number, format!("you/echo:{tag}"));
    assert_eq!(world.kept(), [image(3, 1), image(2, 2), image(1, 1)]);

    // And back again, after a restart as well.
    let world = world.restart().await;
    eventually!(world.status().available_replicas == 1, "{:?}", world.status());
    assert_eq!(world.kept(), [image(3, 1), image(2, 2), image(1, 1)]);
    assert_eq!(world.rollback(None).await.expect("accepted"), 4);
    world.served(4).await;
    assert_eq!(world.status().image, "you/echo:2");
    assert_eq!(world.rollback(Some(1)).await.expect("accepted"), 5);
    world.served(5).await;
    assert_eq!((world.status().image, world.status().image_digest), ("you/echo:1".into(), old));
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
}

#[tokio::test]
async fn what_is_said_to_serve_is_all_that_can_be_called() {
    let world = World::new().await;
    let mut last = String::new();
    for number in 1..=5 {
        world.deploy(&format!("you/echo:{number}")).await;
        let entry = world.fleet.directory().get(&key()).expect("it is there");
        let mut changes = entry.watch();
        loop {
            let view = entry.view();
            let callable: Vec<_> = view.endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect();
            if view.revision == number && !callable.is_empty() {
                assert!(callable.len() == 1 && callable[0] != last, "{callable:?} after {last}");
                last = callable[0].clone();
                break;
            }
            changes.changed().await.expect("it has an owner");
        }
    }
}

#[tokio::test]
async fn where_there_is_nothing_to_go_back_to_the_reason_is_said_and_nothing_changes() {
    let world = World::new().await;
    let error = world.rollback(None).await.expect_err("there is no function");
    assert!(matches!(error, FleetError::NotFound(_)), "{error}");
    // Its only revision never served.
    world.runtime.fail_at(Step::Start);
    world.deploy("you/echo:1").await;
    let error = world.rollback(None).await.expect_err("nothing");
    assert!(matches!(error, FleetError::NothingBefore { revision: 1, .. }), "{error}");
    world.runtime.heal();
    world.serve("you/echo:2").await;
    let error = world.rollback(None).await.expect_err("nothing");
    assert!(matches!(error, FleetError::NothingBefore { revision: 2, .. }), "{error}");
    let error = world.rollback(Some(2)).await.expect_err("it is there");
    assert!(matches!(error, FleetError::RevisionWanted { revision: 2, .. }), "{error}");
    for number in [0, 1, 3] {
        let error = world.rollback(Some(number)).await.expect_err("it never served").to_string();
        assert!(error.contains(&format!("no revision {number} ")) && error.contains("kept are 2"), "{error}");
    }
    assert_eq!((world.status().revision, world.kept().len()), (2, 1));
}

#[tokio::test]
async fn a_rollback_that_does_not_come_up_leaves_what_serves() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    world.serve("you/echo:2").await;
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
    let serving = world.runtime.leftovers();
    world.runtime.fail_at(Step::Create);
    assert_eq!(world.rollback(None).await.expect("accepted"), 3);
    eventually!(world.status().update.is_some_and(|update| update.phase == "failed"), "{:?}", world.status());
    let found = world.status();
    assert_eq!((found.revision, found.phase.as_str(), found.available_replicas), (2, "ready", 1));
    assert_eq!(world.runtime.leftovers(), serving);
    assert_eq!(world.kept().len(), 2, "what never served is not kept");
    world.runtime.heal();
    assert_eq!(world.rollback(None).await.expect("accepted"), 4);
    world.served(4).await;
    assert_eq!(world.status().image, "you/echo:1");
}

#[tokio::test]
async fn a_rollback_calls_off_an_update_that_hangs() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    world.runtime.delay_at(Step::Pull, Duration::from_secs(600));
    world.deploy("you/echo:2").await;
    eventually!(world.status().update.is_some(), "{:?}", world.status());
    world.runtime.heal();
    assert_eq!(world.rollback(None).await.expect("accepted"), 3);
    world.served(3).await;
    assert_eq!(world.status().image, "you/echo:1");
    assert_eq!(world.status().update, None);
}

#[tokio::test]
async fn only_the_last_revisions_are_kept_and_none_of_a_removed_function() {
    let world = World::keeping(2).await;
    for n in 1..=3 {
        world.serve(&format!("you/echo:{n}")).await;
    }
    assert_eq!(world.kept(), [(3, "you/echo:3".into()), (2, "you/echo:2".into())]);
    let error = world.rollback(Some(1)).await.expect_err("it is not kept any more");
    assert!(matches!(error, FleetError::RevisionNotFound { revision: 1, .. }), "{error}");
    world.fleet.remove(&key()).await.expect("removed");
    world.deploy("you/echo:4").await;
    world.served(1).await;
    assert_eq!(world.kept(), [(1, "you/echo:4".into())]);
    let world = world.restart().await;
    assert_eq!(world.kept(), [(1, "you/echo:4".into())]);
}

#[tokio::test]
async fn an_update_that_fails_after_a_restart_goes_back_to_what_served_before_it() {
    let world = World::new().await;
    world.serve("you/echo:1").await;
    // All is killed, and what comes next never comes up.
    for id in world.runtime.leftovers() {
        world.runtime.kill(&id);
    }
    world.runtime.fail_at(Step::Start);
    let world = world.restart().await;
    world.deploy("you/echo:2").await;
    eventually!(world.status().update.is_some(), "{:?}", world.status());
    world.runtime.heal();
    eventually!(world.status().available_replicas == 1, "{:?}", world.status());
    assert_eq!((world.status().revision, world.status().image), (1, "you/echo:1".into()));
}
