//! What belongs to no function goes, also while the daemon runs.

use std::fs;
use std::time::Duration;

use ::model::function::ReplicaId;
use directory::Phase;
use host::network::Network;
use host::runtime::Runtime;

use super::World;

/// How long after a look for left-overs the next one comes.
const REAP_EVERY: Duration = Duration::from_secs(300);

#[tokio::test]
async fn what_appears_while_the_daemon_runs_goes_with_the_next_look() {
    let world = World::new().await;
    world.deploy("you/echo:1").await;
    eventually!(world.phase() == Some(Phase::Ready), "{}", world.reason());
    let serving = world.leftovers().await;
    // Each as a killed process, or an operator, would leave it.
    let stray = ReplicaId::from_existing("stray-0000000001");
    world.network.attach(&stray).await.expect("attached");
    let mut request = world.runtime.requests().remove(0);
    request.id = ReplicaId::from_existing("stray-0000000002");
    world.runtime.create(&request).await.expect("created");
    fs::create_dir_all(world.run.path().join("io/stray-0000000003")).expect("a directory for FIFOs");
    let output = world.state.path().join("logs/openfaas-fn");
    fs::create_dir_all(output.join("gone")).expect("a directory");
    fs::write(output.join("gone/current.log"), "a line").expect("output of a function that is gone");
    fs::create_dir_all(output.join("f")).expect("output of a function that is there");
    assert_eq!(world.leftovers().await.len(), serving.len() + 3);

    tokio::time::pause();
    tokio::time::advance(REAP_EVERY).await;
    tokio::time::resume();
    eventually!(world.leftovers().await == serving, "{:?}", world.leftovers().await);
    eventually!(!output.join("gone").exists(), "its output stays");
    assert!(output.join("f").exists(), "that of a function that is there stays");
    assert_eq!(world.phase(), Some(Phase::Ready));
}
