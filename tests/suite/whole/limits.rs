//! Limits of a function on the machine.

use std::fs;

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::commands::{IMAGE, daemon_with_box};
use crate::support::daemon::{Daemon, in_own_network};

async fn output(daemon: &Daemon, name: &str) -> String {
    let logs = daemon.api(Method::GET, &format!("/system/logs?name={name}")).send().await.expect("an answer");
    logs.text().await.expect("text")
}

#[test]
fn an_oom_kill_of_a_command_is_reported_although_its_watchdog_survives() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        let (daemon, watchdog, _files) = daemon_with_box(json!({ "Cmd": ["/bin/sh"] })).await;
        fs::copy(crate::support::watchdog(), &watchdog).expect("installed");
        let greedy = json!({
            "image": IMAGE, "envProcess": "busybox dd if=/dev/zero of=/dev/null bs=256M count=1",
            "annotations": { "ingle.pull-policy": "Never" }, "limits": { "memory": "64Mi" },
        });
        daemon.ready("greedy", greedy).await;
        assert_eq!(daemon.call("greedy").await.0, StatusCode::INTERNAL_SERVER_ERROR);
        eventually!(
            within 30,
            daemon.describe("greedy").await["oomKills"] == 1,
            "{:#}\n{}",
            daemon.describe("greedy").await,
            daemon.log()
        );
        let found = daemon.describe("greedy").await;
        assert_eq!((&found["restarts"], &found["availableReplicas"]), (&json!(null), &json!(1)), "{found:#}");
        eventually!(
            output(&daemon, "greedy").await.contains("out of memory (OOMKilled)"),
            "{}",
            output(&daemon, "greedy").await
        );
        let metrics = daemon.client.get(daemon.url("/metrics")).send().await.expect("metrics");
        let metrics = metrics.text().await.expect("text");
        let line = "ingle_oom_kills_total{function_name=\"greedy.openfaas-fn\"} 1";
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
        daemon.remove("greedy").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn a_replica_over_its_disk_limit_is_replaced() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("[functions]\ndisk = \"8Mi\"\n").await;
        daemon.ready("hoards", json!({})).await;
        let before = daemon.containers();
        let write = async |path: &str| {
            let url = daemon.url(&format!("/function/hoards/file?path={path}"));
            daemon.client.post(url).body(vec![b'x'; 6 << 20]).send().await.expect("an answer").status()
        };
        for path in ["/tmp/a", "/tmp/b"] {
            assert_eq!(write(path).await, StatusCode::OK);
        }
        eventually!(
            within 60,
            daemon.describe("hoards").await["lastExit"]["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("functions.disk")),
            "{:#}\n{}",
            daemon.describe("hoards").await,
            daemon.log()
        );
        eventually!(
            within 30,
            daemon.describe("hoards").await["availableReplicas"] == 1,
            "{:#}",
            daemon.describe("hoards").await
        );
        assert_ne!(daemon.containers(), before);
        assert_ne!(daemon.call("hoards/file?path=/tmp/a").await.0, StatusCode::OK, "its files went with it");
        assert!(
            output(&daemon, "hoards").await.contains("functions.disk"),
            "{}",
            output(&daemon, "hoards").await
        );
        daemon.remove("hoards").await;
        daemon.nothing_left().await;
    });
}
