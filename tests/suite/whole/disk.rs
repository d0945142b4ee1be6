//! The disk over the API: an image that is in use stays, also for replicas that are still to come; one
//! that is not goes, with all that it took.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, SAMPLE, in_own_network};

impl Daemon {
    async fn answer(&self, method: Method, path: &str) -> (StatusCode, String) {
        let answer = self.api(method, path).send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("text"))
    }

    async fn json(&self, method: Method, path: &str) -> Value {
        let (status, text) = self.answer(method, path).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

#[test]
fn an_image_goes_when_its_function_has_gone_and_not_before() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("env", json!({})).await;
        assert_eq!(daemon.call("env").await.0, StatusCode::OK);
        let path = format!("/system/images/{SAMPLE}");
        let (status, text) = daemon.answer(Method::DELETE, &path).await;
        assert_eq!(status, StatusCode::CONFLICT, "{text}");
        assert!(text.contains("function env.openfaas-fn"), "{text}");
        let pruned = daemon.json(Method::POST, "/system/prune").await;
        assert_eq!(pruned["images"], json!([]));
        // Nothing that a further replica needs was pruned.
        let scaled = json!({ "serviceName": "env", "replicas": 2 });
        let answer = daemon.api(Method::POST, "/system/scale-function/env").json(&scaled).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        eventually!(daemon.describe("env").await["availableReplicas"] == 2, "{}", daemon.log());

        let usage = daemon.json(Method::GET, "/system/df").await;
        for (kind, count) in [("images", 1), ("replicas", 2), ("store", 1)] {
            assert_eq!(
                (&usage[kind]["count"], &usage[kind]["unused"]),
                (&json!(count), &json!(0)),
                "{usage:#}"
            );
        }
        assert!(usage["layers"]["size"].as_u64() > Some(100_000), "{usage:#}");
        assert!(usage["disk"]["free"].as_u64() > Some(0), "{usage:#}");

        daemon.remove("env").await;
        daemon.nothing_left().await;
        let usage = daemon.json(Method::GET, "/system/df").await;
        assert_eq!(usage["layers"]["unused"], usage["layers"]["size"], "{usage:#}");
        let pruned = daemon.json(Method::POST, "/system/prune").await;
        assert_eq!(pruned["images"].as_array().map(Vec::len), Some(1), "{pruned:#}");
        assert!(pruned["freed"].as_u64() >= usage["layers"]["size"].as_u64(), "{pruned:#}");
        let usage = daemon.json(Method::GET, "/system/df").await;
        assert_eq!((&usage["images"]["size"], &usage["layers"]["size"]), (&json!(0), &json!(0)), "{usage:#}");
        assert_eq!(daemon.answer(Method::DELETE, &path).await.0, StatusCode::NOT_FOUND);
    });
}
