//! The disk over the API: an image that is in use stays, also for replicas that are still to come; one
//! that is not goes, with all that it took.

use std::fs;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, SAMPLE, in_own_network, run};

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

#[test]
fn what_belongs_to_no_function_is_found_among_what_does() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("env", json!({})).await;
        assert_eq!(daemon.call("env").await.0, StatusCode::OK);
        let owned = daemon.replica_parts();
        let id = daemon.containers().remove(0);
        let netns = owned.iter().find_map(|part| part.strip_prefix("netns ")).expect("a network namespace");
        let tag = netns.strip_suffix(&id).expect("named by its replica").to_owned();
        // Each alone, as if the rest of its replica were gone already.
        let stray = |n: u8| format!("stray-{n:010}");
        run("ip", &["netns", "add", &format!("{tag}{}", stray(1))]);
        run("ip", &["link", "add", "half", "type", "veth", "peer", "name", "other"]);
        run("ip", &["link", "set", "half", "alias", &format!("{tag}{}", stray(2))]);
        let below = daemon.containerd.path().join("run-ingle");
        fs::create_dir_all(below.join("io").join(stray(3))).expect("a directory for FIFOs");
        fs::create_dir_all(below.join("net").join(stray(4))).expect("a directory for network files");
        // Of a function that is there, and has no use for them.
        let labels = ["ingle/function=env", "ingle/namespace=openfaas-fn"];
        let layer = daemon.containerd.ctr(&["snapshots", "prepare", &stray(5)]);
        assert!(layer.status.success(), "{layer:?}");
        let named = daemon.containerd.ctr(&["snapshots", "label", &stray(5), labels[0], labels[1]]);
        assert!(named.status.success(), "{named:?}");
        let container = daemon.containerd.ctr(&[
            "containers",
            "create",
            "--label",
            labels[0],
            "--label",
            labels[1],
            "docker.io/examples/hello:latest",
            &stray(6),
        ]);
        assert!(container.status.success(), "{container:?}");
        // Of one that nobody knows: it may be that of another state directory.
        let foreign = daemon.containerd.ctr(&[
            "containers",
            "create",
            "--label",
            "ingle/function=stray",
            "--label",
            labels[1],
            "docker.io/examples/hello:latest",
            &stray(7),
        ]);
        assert!(foreign.status.success(), "{foreign:?}");
        let output = daemon.state_dir().join("logs/openfaas-fn/stray");
        fs::create_dir_all(&output).expect("a directory for output");
        assert_eq!(daemon.replica_parts().len(), owned.len() + 10, "{:#?}", daemon.replica_parts());

        daemon.json(Method::POST, "/system/prune").await;
        let others = || {
            let mut parts = daemon.replica_parts();
            parts.retain(|part| !part.contains(&stray(7)));
            parts
        };
        eventually!(others() == owned, "{:#?}\n{}", daemon.replica_parts(), daemon.log());
        assert_eq!(daemon.replica_parts().len(), owned.len() + 2, "it is left alone");
        daemon.json(Method::POST, "/system/prune?orphans=true").await;
        eventually!(daemon.replica_parts() == owned, "{:#?}\n{}", daemon.replica_parts(), daemon.log());
        assert!(!output.exists());
        assert_eq!(daemon.call("env").await.0, StatusCode::OK);
        daemon.remove("env").await;
        daemon.nothing_left().await;
    });
}
