//! What a function sees and reaches.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::daemon::{Daemon, in_own_network, run};

#[test]
fn a_function_reaches_the_gateway_and_nothing_else_on_the_machine() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        // Something else that listens on the host.
        let other = tokio::net::TcpListener::bind("0.0.0.0:9099").await.expect("bound");
        daemon.ready("one", json!({})).await;
        daemon.ready("two", json!({})).await;
        let hosts = daemon.call("two/file?path=/etc/hosts").await.1;
        let own = hosts
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .find(|address| address.starts_with("10.62.") && *address != "10.62.0.1")
            .expect("its own address in /etc/hosts")
            .to_owned();
        for (target, status) in [
            ("gateway:8080".to_owned(), StatusCode::OK),
            ("gateway.openfaas:8080".to_owned(), StatusCode::OK),
            ("10.62.0.1:9099".to_owned(), StatusCode::BAD_GATEWAY),
            (format!("{own}:8080"), StatusCode::BAD_GATEWAY),
            ("169.254.169.254:80".to_owned(), StatusCode::BAD_GATEWAY),
        ] {
            let (found, text) = daemon.call(&format!("one/connect?to={target}")).await;
            assert_eq!(found, status, "{target}: {text}");
        }
        drop(other);
        let resolvers = daemon.call("one/file?path=/etc/resolv.conf").await.1;
        assert!(!resolvers.contains("127.0.0."), "{resolvers}");
        assert!(run("nft", &["list", "ruleset"]).contains("masquerade"));
    });
}

#[test]
fn a_function_sees_its_secrets_variables_and_limits() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        let secret = json!({ "name": "key", "value": "hidden-value" });
        let answer =
            daemon.api(Method::POST, "/system/secrets").json(&secret).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        let more = json!({
            "secrets": ["key"], "envVars": { "colour": "green" },
            "limits": { "memory": "64Mi" }, "readOnlyRootFilesystem": true,
        });
        daemon.ready("sees", more).await;
        assert_eq!(daemon.call("sees/file?path=/var/openfaas/secrets/key").await.1, "hidden-value");
        let env = daemon.call("sees/env").await.1;
        for part in ["colour=green", "exec_timeout="] {
            assert!(env.contains(part), "{part} is not in {env}");
        }
        let status = daemon.call("sees/file?path=/proc/self/status").await.1;
        for part in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(part), "{part} is not in {status}");
        }
        let write = daemon.client.post(daemon.url("/function/sees/file?path=/x")).body("x").send().await;
        assert_ne!(write.expect("an answer").status(), StatusCode::OK, "the root file system is read-only");
        let write = daemon.client.post(daemon.url("/function/sees/file?path=/tmp/x")).body("x").send().await;
        assert_eq!(write.expect("an answer").status(), StatusCode::OK, "/tmp is not");
        let used = daemon.api(Method::GET, "/system/function/sees?usage=1").send().await.expect("an answer");
        let used: serde_json::Value = used.json().await.expect("JSON");
        assert!(used["usage"]["totalMemoryBytes"].as_f64().is_some_and(|bytes| bytes > 0.0), "{used:#}");
        assert_eq!(used["limits"]["memory"], "64Mi");

        let answer = daemon.call("sees/memory?mib=200").await;
        assert_ne!(answer.0, StatusCode::OK, "it passed its limit");
        eventually!(
            daemon.describe("sees").await["restarts"].as_u64().is_some_and(|n| n >= 1),
            "{:#}\n{}",
            daemon.describe("sees").await,
            daemon.log()
        );
        assert_eq!(daemon.call("sees").await.0, StatusCode::OK);
    });
}

#[test]
fn output_is_served_by_the_api() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("talks", json!({})).await;
        assert_eq!(daemon.call("talks/log?text=one-line&count=3").await.0, StatusCode::OK);
        assert_eq!(daemon.call("talks/log?text=x&bytes=10000000").await.0, StatusCode::OK);
        assert_eq!(daemon.call("talks/log?text=the-end").await.0, StatusCode::OK);
        let lines = async || {
            let logs = daemon.api(Method::GET, "/system/logs?name=talks").send().await.expect("an answer");
            logs.text().await.expect("text")
        };
        eventually!(lines().await.contains("the-end"), "the last line is not there");
        let text = lines().await;
        assert_eq!(text.matches("one-line").count(), 3);
        assert!(text.lines().all(|line| line.len() < 200_000), "long lines are cut");
        let first: serde_json::Value =
            serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        assert_eq!((&first["name"], &first["namespace"]), (&json!("talks"), &json!("openfaas-fn")));
    });
}
