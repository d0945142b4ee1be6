//! A backup that is taken and put back while the daemon runs.

use std::fs;

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

use super::moving::{done, ingle};
use crate::support::daemon::{Daemon, in_own_network};

async fn statuses(daemon: &Daemon) -> Vec<(String, String)> {
    let answer = daemon.api(Method::GET, "/system/calls?limit=1000").send().await.expect("an answer");
    let calls: Value = answer.json().await.expect("JSON");
    let text = |call: &Value, field: &str| call[field].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = calls
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| (text(call, "callId"), text(call, "status")))
        .collect();
    found.sort();
    found
}

async fn pause(daemon: &Daemon, paused: bool) {
    let change = daemon.api(Method::PUT, "/system/queues/default").json(&json!({ "paused": paused }));
    assert!(change.send().await.expect("an answer").status().is_success());
}

async fn queue(daemon: &Daemon, id: &str, body: Vec<u8>) {
    let call = daemon.client.post(daemon.url("/async-function/hello")).header("X-Call-Id", id);
    assert_eq!(call.body(body).send().await.expect("an answer").status(), StatusCode::ACCEPTED);
}

#[test]
fn what_a_backup_holds_is_there_again_and_nothing_else() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "tar");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        let secret =
            daemon.api(Method::POST, "/system/secrets").json(&json!({ "name": "key", "value": "v" }));
        assert!(secret.send().await.expect("an answer").status().is_success());
        daemon.ready("hello", json!({ "secrets": ["key"] })).await;
        daemon.ready("hello", json!({ "secrets": ["key"], "envVars": { "A": "1" } })).await;
        daemon.ready("gone", json!({})).await;
        queue(&daemon, "made", b"x".to_vec()).await;
        eventually!(
            statuses(&daemon).await == [("made".into(), "done".into())],
            "{:?}",
            statuses(&daemon).await
        );
        pause(&daemon, true).await;
        queue(&daemon, "short", b"x".to_vec()).await;
        queue(&daemon, "long", vec![b'x'; 200_000]).await;
        let (before, calls, password) =
            (daemon.describe("hello").await, statuses(&daemon).await, daemon.password());
        let file = daemon.containerd.path().join("ingle.tar");
        let name = file.display().to_string();
        done(&daemon, &["backup", &name]).await;
        // Another program reads it.
        let list = Command::new("tar").args(["-tf", &name]).output().await.expect("run tar");
        let list = String::from_utf8(list.stdout).expect("text");
        assert!(
            list.contains("functions/openfaas-fn/hello.json") && list.ends_with("ingle-backup\n"),
            "{list}"
        );
        let left = fs::read_dir(daemon.state_dir().join("archives")).expect("listed").count();
        assert_eq!(left, 0, "nothing of it stays");

        // What comes after it is not in it.
        daemon.ready("hello", json!({ "envVars": { "A": "2" } })).await;
        daemon.ready("late", json!({})).await;
        daemon.remove("gone").await;
        queue(&daemon, "late", b"x".to_vec()).await;
        let delete = daemon.api(Method::DELETE, "/system/secrets").json(&json!({ "name": "key" }));
        assert!(delete.send().await.expect("an answer").status().is_success());

        // What is no backup changes nothing.
        let whole = fs::read(&file).expect("readable");
        let cut = daemon.containerd.path().join("cut.tar");
        fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
        let refused = ingle(&daemon, &["restore", &cut.display().to_string()]).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("the backup"), "{refused:?}");
        assert_eq!(daemon.describe("late").await["phase"], "ready");

        let said = done(&daemon, &["restore", &name]).await;
        assert!(said.contains("2 functions"), "{said}");
        eventually!(
            within 30,
            daemon.client.get(daemon.url("/function/late")).send().await
                .is_ok_and(|answer| answer.status() == StatusCode::NOT_FOUND),
            "{}",
            daemon.log()
        );
        daemon.serves().await;
        assert_eq!(daemon.password(), password);
        for name in ["hello", "gone"] {
            eventually!(within 30, daemon.call(name).await.0 == StatusCode::OK, "{name}: {}", daemon.log());
        }
        let after = daemon.describe("hello").await;
        for field in ["revision", "envVars", "secrets", "createdAt", "revisions", "imageDigest"] {
            assert_eq!(after[field], before[field], "{field}: {after:#}");
        }
        assert_eq!(statuses(&daemon).await, calls);
        pause(&daemon, false).await;
        eventually!(
            statuses(&daemon).await.iter().all(|(_, status)| status == "done"),
            "{:?}",
            statuses(&daemon).await
        );
        eventually!(daemon.containers().len() == 2, "{:?} {}", daemon.containers(), daemon.log());
        for name in ["hello", "gone"] {
            daemon.remove(name).await;
        }
        daemon.nothing_left().await;
        daemon.end(Signal::SIGTERM);
    });
}
