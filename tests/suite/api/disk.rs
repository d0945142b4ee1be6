//! What goes from the disk, what stays, and what does not fit on it.

use host::runtime::{ImageRecord, Runtime};
use model::function::ImageRef;
use serde_json::{Value, json};

use super::world::World;
use crate::support::fake_runtime::Step;

/// What an image takes of the fake's disk.
const SIZE: u64 = 1000;
/// What a deploy must leave free.
const RESERVE: u64 = 256 << 20;

fn image(name: &str, hours_unused: i64) -> ImageRecord {
    let now = jiff::Timestamp::now();
    ImageRecord {
        name: name.parse::<ImageRef>().expect("a name").canonical(),
        digest: format!("sha256:{name}"),
        platform: "linux/amd64".into(),
        size: SIZE,
        created_at: now,
        superseded: None,
        unused_since: Some(now - jiff::SignedDuration::from_hours(hours_unused)),
    }
}

impl World {
    async fn images(&self) -> Vec<String> {
        let images: Vec<Value> = serde_json::from_str(&self.get("/system/images").await.body).expect("json");
        let name = |image: &Value| image["name"].as_str().expect("a name").to_owned();
        images.iter().map(name).map(|name| name.trim_start_matches("docker.io/you/").to_owned()).collect()
    }

    async fn collect(&self) {
        self.fleet.disk().collect().await.expect("collected");
    }
}

#[tokio::test]
async fn over_the_watermark_the_longest_unused_go_until_below_the_target() {
    let world = World::with("[images]\nkeep_unused = \"2h\"\n").await;
    world.deploy("used").await;
    for (name, hours) in [("a", 3), ("b", 9), ("c", 5), ("young", 1)] {
        world.runtime.add_image(image(&format!("you/{name}:1"), hours));
    }
    // 5 of 6 thousand are 83.4 %.
    world.runtime.limit_disk(6 * SIZE);
    world.collect().await;
    assert_eq!(world.images().await, ["a:1", "b:1", "c:1", "used:1", "young:1"], "below the watermark");
    world.runtime.limit_disk(5 * SIZE + 100);
    world.collect().await;
    assert_eq!(world.images().await, ["a:1", "c:1", "used:1", "young:1"], "78 % are enough");
    world.runtime.limit_disk(2 * SIZE);
    world.collect().await;
    assert_eq!(world.images().await, ["used:1", "young:1"], "what is used or was lately stays");
}

#[tokio::test]
async fn an_image_counts_as_unused_from_the_removal_of_its_function() {
    let world = World::with("[images]\nkeep_unused = \"2h\"\n").await;
    world.deploy("env").await;
    let unused_since = async || world.runtime.images().await.expect("images")[0].unused_since;
    world.collect().await;
    assert_eq!(unused_since().await, None);
    world.change("DELETE", "/system/functions", r#"{"functionName":"env"}"#, 202).await;
    eventually!(world.runtime.leftovers().is_empty(), "its replica stays");
    world.runtime.limit_disk(SIZE);
    world.collect().await;
    assert!(unused_since().await.is_some(), "noted, and not old enough to go");
    world.deploy("env").await;
    world.collect().await;
    assert_eq!(unused_since().await, None, "used again");
}

#[tokio::test]
async fn an_earlier_image_of_a_name_stays_while_a_function_uses_it() {
    let world = World::new().await;
    world.deploy("env").await;
    let used = world.runtime.images().await.expect("images")[0].clone();
    world.runtime.forget_images();
    // What the function runs was superseded six times.
    for version in 0..7 {
        let mut earlier = image(&format!("you/env:{version}"), 0);
        earlier.superseded = Some(used.name.clone());
        earlier.created_at = jiff::Timestamp::from_second(version).expect("a time");
        if version == 0 {
            earlier.digest = used.digest.clone();
        }
        world.runtime.add_image(earlier);
    }
    world.collect().await;
    assert_eq!(world.images().await, ["env:0", "env:5", "env:6"], "and the last two that nobody uses");
}

#[tokio::test]
async fn an_image_is_removed_by_name_unless_a_function_uses_it() {
    let world = World::new().await;
    world.deploy("env").await;
    world.runtime.add_image(image("you/other:1", 0));
    let in_use = "image docker.io/you/env:1 cannot be removed while it is used by function env.openfaas-fn";
    for name in ["you/env:1", "docker.io/you/env:1", "you%2Fenv:1"] {
        world.refused("DELETE", &format!("/system/images/{name}"), "", 409, in_use).await;
    }
    let missing = "image you/none:1 is not on this machine: see 'ingle image list'";
    world.refused("DELETE", "/system/images/you/none:1", "", 404, missing).await;
    world.change("DELETE", "/system/images/you/other:1", "", 202).await;
    assert_eq!(world.images().await, ["env:1"]);
}

#[tokio::test]
async fn an_image_that_is_being_deployed_is_in_use() {
    let world = World::new().await;
    world.runtime.add_image(image("you/env:1", 99));
    let pin = world.fleet.disk().pin(&"you/env:1".parse().expect("a name")).await;
    let in_use = "image docker.io/you/env:1 cannot be removed while it is used by a deploy that is under way";
    world.refused("DELETE", "/system/images/you/env:1", "", 409, in_use).await;
    drop(pin);
    world.change("DELETE", "/system/images/you/env:1", "", 202).await;
}

#[tokio::test]
async fn what_is_there_is_measured_and_what_nobody_uses_is_pruned() {
    let world = World::new().await;
    world.deploy("env").await;
    world.runtime.add_image(image("you/a:1", 0));
    world.runtime.add_image(image("you/b:1", 0));
    world.runtime.limit_disk(10 * SIZE);
    let left = world.state_dir().join("logs/openfaas-fn/gone");
    std::fs::create_dir_all(&left).expect("a directory");
    std::fs::write(left.join("current.log"), [b'x'; 500]).expect("a file");
    let df = async || -> Value { serde_json::from_str(&world.get("/system/df").await.body).expect("json") };
    let usage = df().await;
    assert_eq!(usage["disk"], json!({"path": "/fake", "size": 10 * SIZE, "free": 7 * SIZE}));
    assert_eq!(usage["images"], json!({"count": 3, "size": 3 * SIZE, "unused": 2 * SIZE}));
    assert_eq!(usage["logs"]["unused"], 500, "{usage:#}");
    assert_eq!(usage["store"]["count"], 1);
    assert!(usage["store"]["size"].as_u64() > Some(0), "{usage:#}");
    let nothing = json!({"count": 0, "size": 0, "unused": 0});
    assert_eq!(usage["queue"], json!({"calls": nothing, "dead": nothing, "records": nothing}));
    world.give_up("gone", "one").await;
    // Its body of two bytes.
    let one = json!({"count": 1, "size": 2, "unused": 0});
    let record = json!({"count": 1, "size": 0, "unused": 0});
    assert_eq!(df().await["queue"], json!({"calls": nothing, "dead": one, "records": record}));

    let answer = world.send("POST", "/system/prune", "").await;
    let pruned: Value = serde_json::from_str(&answer.body).expect("json");
    assert_eq!(pruned["images"], json!(["docker.io/you/a:1", "docker.io/you/b:1"]));
    assert!(pruned["freed"].as_u64() >= Some(2 * SIZE + 500), "{pruned:#}");
    assert_eq!(world.images().await, ["env:1"]);
    assert!(!left.exists());
    assert_eq!(df().await["images"]["unused"], 0);
    world.ready("env").await;
}

#[tokio::test]
async fn a_deploy_that_does_not_fit_is_refused_after_unused_images_made_way() {
    let world = World::with("[images]\nkeep_unused = \"2h\"\n").await;
    for (name, hours) in [("a", 3), ("b", 9), ("young", 1)] {
        world.runtime.add_image(image(&format!("you/{name}:1"), hours));
    }
    // There is room for one more if one of those that are there goes.
    world.runtime.limit_disk(RESERVE + 3 * SIZE);
    world.deploy("env").await;
    assert_eq!(world.images().await, ["a:1", "env:1", "young:1"]);
    // And now for none: what is left is used, or was a short while ago.
    world.runtime.limit_disk(RESERVE + 2 * SIZE);
    let body = r#"{"service":"more","image":"you/more:1"}"#;
    let answer = world.send("POST", "/system/functions", body).await;
    assert_eq!(answer.status, 507, "{}", answer.body);
    for part in ["image you/more:1 needs about 1.0 kB", "268.4 MB are kept", "/fake", "ingle system prune"] {
        assert!(answer.body.contains(part), "{part:?} is not in {}", answer.body);
    }
    assert_eq!(world.get("/system/function/more").await.status, 404);
    // What is here already needs no room.
    let same = r#"{"service":"env","image":"you/env:1"}"#;
    world.change("PUT", "/system/functions", same, 202).await;
}

#[tokio::test]
async fn deploys_at_the_same_time_do_not_get_the_same_room() {
    let world = World::new().await;
    world.runtime.limit_disk(RESERVE + 3 * SIZE / 2);
    world.runtime.hang_at(Step::Pull);
    world.change("POST", "/system/functions", r#"{"service":"first","image":"you/first:1"}"#, 202).await;
    let second = r#"{"service":"second","image":"you/second:1"}"#;
    let answer = world.send("POST", "/system/functions", second).await;
    assert_eq!(answer.status, 507, "{}", answer.body);
    let part = "268.4 MB are kept for logs and data and 1.0 kB for images that are being fetched:";
    assert!(answer.body.contains(part), "{}", answer.body);
    // The same image needs no room of its own.
    world.change("POST", "/system/functions", r#"{"service":"third","image":"you/first:1"}"#, 202).await;
    for name in ["first", "third"] {
        world.change("DELETE", "/system/functions", &format!(r#"{{"functionName":"{name}"}}"#), 202).await;
    }
    world.runtime.heal();
    world.change("POST", "/system/functions", second, 202).await;
    world.ready("second").await;
}

#[tokio::test]
async fn the_image_of_a_revision_that_is_kept_is_in_use() {
    let eager = "keep_unused = \"1ms\"\ndisk_watermark = \"0%\"\ndisk_target = \"0%\"\n";
    let world = World::with(&format!("[functions]\nrevisions = 2\n[images]\n{eager}")).await;
    world.runtime.limit_disk(RESERVE + 100 * SIZE);
    let update = async |version: u64| {
        let body = format!(r#"{{"service":"env","image":"you/env:{version}"}}"#);
        world.change("POST", "/system/functions", &body, 202).await;
        let kept = async || world.describe("env").await["revisions"][0]["revision"] == version;
        eventually!(kept().await, "revision {version} is not kept");
    };
    update(1).await;
    update(2).await;
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
    let in_use = "image docker.io/you/env:1 cannot be removed while it is used by function env.openfaas-fn, \
        which keeps revision 1 to go back to";
    world.refused("DELETE", "/system/images/you/env:1", "", 409, in_use).await;
    assert_eq!(world.send("POST", "/system/prune", "").await.status, 200);
    assert_eq!(world.images().await, ["env:1", "env:2"]);
    update(3).await;
    eventually!(world.runtime.leftovers().len() == 1, "{:?}", world.runtime.leftovers());
    world.collect().await;
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    world.collect().await;
    assert_eq!(world.images().await, ["env:2", "env:3"], "the first revision is not kept any more");
}

#[tokio::test]
async fn a_disk_too_full_for_notes_is_collected_all_the_same() {
    let world = World::with("[images]\nkeep_unused = \"2h\"\n").await;
    let unnoted = ImageRecord { unused_since: None, ..image("you/a:1", 0) };
    world.runtime.add_image(unnoted);
    world.runtime.add_image(image("you/b:1", 9));
    world.runtime.limit_disk(2 * SIZE);
    world.runtime.refuse_notes();
    world.collect().await;
    assert_eq!(world.images().await, ["a:1"]);
}
