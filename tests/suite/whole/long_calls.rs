//! Calls that take long, while their function is scaled to nothing.

use std::fs;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::commands::{IMAGE, daemon_with_box};
use crate::support::daemon::in_own_network;
use crate::support::long;

/// Calls at the same time.
const CALLS: usize = 10;

/// With `INGLE_TESTS_LONG` they take 90 seconds each.
#[test]
fn calls_in_flight_are_answered_before_their_replica_goes() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        let seconds = if long::long().is_some() { 90 } else { 3 };
        let (daemon, watchdog, _files) = daemon_with_box(json!({ "Cmd": ["/bin/sh"] })).await;
        fs::copy(crate::support::watchdog(), watchdog).expect("copied");
        let function = json!({
            "image": IMAGE, "envProcess": format!("sleep {seconds}"),
            "annotations": { "ingle.pull-policy": "Never", "ingle.timeout": "120s" },
        });
        daemon.ready("slow", function).await;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(150)).build().expect("a client");
        let call = async || {
            let answer = client.get(daemon.url("/function/slow")).send().await.expect("an answer");
            (answer.status(), answer.text().await.expect("all of it"))
        };
        let scale_down = async {
            let in_flight = || async {
                let metrics = daemon.client.get(daemon.url("/metrics")).send().await.expect("metrics");
                let text = metrics.text().await.expect("text");
                text.lines().any(|line| {
                    line.starts_with("gateway_invocation_function_invocation_inflight")
                        && line.ends_with(" 10")
                })
            };
            eventually!(in_flight().await, "they are not under way: {}", daemon.log());
            let stop = json!({ "serviceName": "slow", "replicas": 0 });
            let answer = daemon.api(Method::POST, "/system/scale-function/slow").json(&stop).send().await;
            assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(daemon.containers().len(), 1, "it serves them to their end");
        };
        let (answers, ()) = tokio::join!(join_all((0..CALLS).map(|_| call())), scale_down);
        assert_eq!(answers, vec![(StatusCode::OK, String::new()); CALLS]);
        eventually!(within 30, daemon.containers().is_empty(), "{:#}", daemon.describe("slow").await);
        daemon.remove("slow").await;
        daemon.nothing_left().await;
    });
}
