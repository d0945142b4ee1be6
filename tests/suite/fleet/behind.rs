//! Servers behind a watchdog that says too early that it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use directory::Phase;
use model::wire::Deployment;

use super::{World, key};
use crate::support::http::Client;

/// The variables that the templates of OpenFaaS set.
fn variables() -> Vec<(&'static str, &'static str)> {
    vec![("mode", "http"), ("upstream_url", "http://127.0.0.1:5000")]
}

/// Deploys a watchdog that is too early, with these variables.
async fn deploy(world: &World, image: &str, variables: &[(&str, &str)]) {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let deployment = Deployment {
        service: "f".into(),
        image: image.into(),
        env_vars: Some(variables.collect()),
        ..Deployment::default()
    };
    world.fleet.deploy(deployment, false).await.expect("accepted");
}

/// The status of a call to the first replica, as soon as there is one.
async fn first_call(world: &World, path: &str) -> u16 {
    let address = || -> Option<SocketAddr> {
        let view = world.fleet.directory().get(&key())?.view();
        view.endpoints.first().map(|endpoint| endpoint.address)
    };
    eventually!(address().is_some(), "{}", world.reason());
    let mut client = Client::new(address().expect("there"), false, Duration::from_secs(5));
    client.call("GET", path).await.expect("an answer").status
}

#[tokio::test]
async fn a_replica_gets_no_call_before_the_server_behind_its_watchdog_listens() {
    let world = World::new().await;
    deploy(&world, "you/early:400", &variables()).await;
    assert_eq!(first_call(&world, "/").await, 200);
    world.fleet.remove(&key()).await.expect("removed");
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
    // This is what it is about: nobody looks where the variables say nothing of a server.
    deploy(&world, "you/early:400", &[("mode", "streaming")]).await;
    assert_eq!(first_call(&world, "/").await, 500);
}

#[tokio::test]
async fn a_replica_that_outlived_the_daemon_gets_no_call_before_the_server_listens_again() {
    let world = World::new().await;
    deploy(&world, "you/early:0", &variables()).await;
    assert_eq!(first_call(&world, "/").await, 200);
    let before = world.runtime.leftovers();
    // Long enough for the next daemon to ask before that.
    assert_eq!(first_call(&world, "/again/700").await, 200);
    let world = world.restart().await;
    assert_eq!(first_call(&world, "/").await, 200);
    assert_eq!(world.runtime.leftovers(), before, "the same container");
}

#[tokio::test]
async fn a_server_that_never_listens_is_the_reason_that_is_given() {
    let world = World::new().await;
    deploy(&world, "you/early", &variables()).await;
    eventually!(world.phase() == Some(Phase::BackingOff), "{:?}", world.phase());
    let reason = world.reason();
    for words in ["within 2s", "port 5000", "set upstream_url", "functions.start_timeout"] {
        assert!(reason.contains(words), "no {words:?} in {reason}");
    }
    eventually!(world.leftovers().await.is_empty(), "{:?}", world.leftovers().await);
}
