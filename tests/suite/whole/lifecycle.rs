//! Deploy, update, scale, wake, remove; nothing is left.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::daemon::{Daemon, in_own_network};

#[test]
fn a_function_is_deployed_called_updated_scaled_and_removed() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let (status, body) = daemon.call("hello").await;
        assert_eq!((status, body.is_empty()), (StatusCode::OK, false), "{body}");
        let first = daemon.containers();
        assert_eq!(first.len(), 1);

        daemon.ready("hello", json!({ "envVars": { "version": "2" } })).await;
        assert!(daemon.call("hello/env").await.1.contains("version=2"));
        eventually!(daemon.containers().len() == 1, "the old replica stays: {:?}", daemon.containers());
        assert_ne!(daemon.containers(), first, "an update is a new container");

        let scaled = json!({ "serviceName": "hello", "replicas": 3 });
        let answer = daemon.api(Method::POST, "/system/scale-function/hello").json(&scaled).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        eventually!(
            within 30,
            daemon.describe("hello").await["availableReplicas"] == 3,
            "{:#}",
            daemon.describe("hello").await
        );
        let found = daemon.describe("hello").await;
        assert_eq!((&found["replicas"], &found["invocationCount"]), (&json!(3), &json!(2)));

        daemon.remove("hello").await;
        assert_eq!(daemon.call("hello").await.0, StatusCode::NOT_FOUND);
        daemon.nothing_left().await;
        let list = daemon.api(Method::GET, "/system/functions").send().await.expect("an answer");
        assert_eq!(list.text().await.expect("text").trim(), "[]");
    });
}

#[test]
fn a_stopped_function_is_woken_by_a_call() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let stop = json!({ "serviceName": "hello", "replicas": 0 });
        let answer = daemon.api(Method::POST, "/system/scale-function/hello").json(&stop).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        daemon.nothing_left().await;
        assert_eq!(daemon.describe("hello").await["phase"], "stopped");
        // Several callers at once are one start.
        let calls = futures_util::future::join_all((0..8).map(|_| daemon.call("hello"))).await;
        assert!(calls.iter().all(|(status, _)| *status == StatusCode::OK), "{calls:?}");
        assert_eq!(daemon.containers().len(), 1);
    });
}

#[test]
fn a_call_right_after_the_deploy_waits_for_the_first_replica() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        let answer = daemon.deploy("late", json!({ "envVars": { "listen_after": "700" } })).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        assert_eq!(daemon.call("late").await.0, StatusCode::OK);
        // Ready is what the function says of itself, where it does.
        let slow = json!({ "envVars": { "ready_after": "700" }, "annotations": {
            "com.openfaas.ready.http.path": "/_/ready", "ingle.pull-policy": "Never" } });
        assert_eq!(daemon.deploy("slow", slow).await.status(), StatusCode::ACCEPTED);
        assert_eq!(daemon.call("slow").await.0, StatusCode::OK);
    });
}

#[test]
fn a_crashed_replica_is_started_again() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let before = daemon.containers();
        // A POST: a GET would be sent to the next replica, which crashes as well.
        let _ = daemon.client.post(daemon.url("/function/hello/crash?code=7")).send().await;
        assert_eq!(daemon.call("hello").await.0, StatusCode::OK, "a call meanwhile waits");
        eventually!(
            daemon.containers().len() == 1 && daemon.containers() != before,
            "{:?}",
            daemon.containers()
        );
        let found = daemon.describe("hello").await;
        assert_eq!((&found["restarts"], &found["lastExit"]["code"]), (&json!(1), &json!(7)), "{found:#}");
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn an_update_that_does_not_come_up_leaves_the_old_version_serving() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("[functions]\nstart_timeout = \"2s\"\n").await;
        daemon.ready("hello", json!({})).await;
        let before = daemon.containers();
        let answer = daemon.deploy("hello", json!({ "envVars": { "never_listen": "1" } })).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        eventually!(
            daemon.describe("hello").await["update"]["phase"] == "failed",
            "{:#}",
            daemon.describe("hello").await
        );
        let found = daemon.describe("hello").await;
        let reason = found["update"]["reason"].as_str().expect("a reason");
        assert!(reason.contains("hello") && reason.contains("did not become ready within 2s"), "{reason}");
        assert!(reason.contains("running without listening"), "its last output: {reason}");
        assert_eq!((&found["phase"], &found["revision"]), (&json!("ready"), &json!(1)));
        assert_eq!(daemon.call("hello").await.0, StatusCode::OK);
        eventually!(daemon.containers() == before, "{:?}", daemon.containers());
    });
}

#[test]
fn a_function_that_never_becomes_ready_says_why_and_leaves_nothing() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("[functions]\nstart_timeout = \"1s\"\ntimeout = \"2s\"\n").await;
        let answer = daemon.deploy("mute", json!({ "envVars": { "never_listen": "1" } })).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        eventually!(
            daemon.describe("mute").await["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("did not become ready")),
            "{:#}",
            daemon.describe("mute").await
        );
        let (status, body) = daemon.call("mute").await;
        assert!(status.is_server_error(), "{status}");
        assert!(body.contains("mute"), "{body}");
        daemon.remove("mute").await;
        daemon.nothing_left().await;
        // One whose process ends at once: the exit code is in the reason.
        let answer = daemon.deploy("dead", json!({ "envVars": { "port": "not-a-port" } })).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        eventually!(
            daemon.describe("dead").await["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("exited with code 1")),
            "{:#}",
            daemon.describe("dead").await
        );
        daemon.remove("dead").await;
        daemon.nothing_left().await;
    });
}
