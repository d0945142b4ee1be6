//! A state directory that is not there, or is damaged, while functions run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::support::daemon::{Daemon, in_own_network};

/// Runs the command line on the daemon's machine, as root.
async fn ingle(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ingle"));
    let directory = daemon.containerd.path();
    command.env("INGLE_DAEMON_STATE_DIR", daemon.state_dir()).env("HOME", directory);
    command.env("INGLE_DAEMON_RUN_DIR", directory.join("run-ingle"));
    command.args(arguments).output().await.expect("run ingle")
}

/// Sends a request through the local socket, as root, who needs no password there.
async fn local(daemon: &Daemon, method: &str, path: &str, body: &str) -> String {
    let socket = daemon.containerd.path().join("run-ingle/api.sock");
    let output = Command::new("curl")
        .args(["-sS", "-m", "60", "-w", " %{http_code}", "-X", method, "-d", body, "--unix-socket"])
        .arg(socket)
        .arg(format!("http://localhost{path}"))
        .output()
        .await
        .expect("run curl");
    String::from_utf8(output.stdout).expect("text")
}

async fn health(daemon: &Daemon) -> (u16, String) {
    match daemon.client.get(daemon.url("/healthz")).send().await {
        Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
        Err(error) => (0, error.to_string()),
    }
}

/// Puts the state directory away, as if its disk were not mounted; returns where it is.
fn unmount(daemon: &Daemon) -> PathBuf {
    let away = daemon.containerd.path().join("state-elsewhere");
    fs::rename(daemon.state_dir(), &away).expect("renamed");
    fs::create_dir(daemon.state_dir()).expect("an empty mount point");
    away
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("listed").next().is_none()
}

#[test]
fn nothing_is_changed_while_the_state_directory_is_missing() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "curl");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let containers = daemon.containers();
        daemon.stop().await;
        let away = unmount(&daemon);
        daemon.spawn();
        let says_why = "is empty, and containers of another one (identity ";
        eventually!(within 30, health(&daemon).await.0 == 503, "{:?} {}", health(&daemon).await, daemon.log());
        let (_, text) = health(&daemon).await;
        assert!(text.contains(says_why) && text.contains("ingle store adopt"), "{text}");
        assert!(daemon.log().contains(says_why), "{}", daemon.log());
        // What runs is called as before.
        eventually!(daemon.call("hello").await.0 == 200, "{:?}", daemon.call("hello").await);
        // Nothing is accepted, and nothing is written.
        let deployment = json!({ "service": "new", "image": "examples/hello:latest" }).to_string();
        for (method, path, body) in [
            ("POST", "/system/functions", deployment.as_str()),
            ("DELETE", "/system/functions", r#"{"functionName":"hello"}"#),
            ("POST", "/system/secrets", r#"{"name":"a","value":"b"}"#),
            ("POST", "/system/scale-function/hello", r#"{"replicas":2}"#),
            ("POST", "/system/prune", ""),
            ("POST", "/async-function/hello", "later"),
        ] {
            let answer = local(&daemon, method, path, body).await;
            assert!(answer.ends_with(" 503") && answer.contains(says_why), "{method} {path}: {answer}");
        }
        let check = ingle(&daemon, &["store", "check"]).await;
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(!check.status.success() && said.contains(says_why), "{check:?}");
        assert!(is_empty(&daemon.state_dir()), "something was written");
        assert_eq!(daemon.containers(), containers);

        // The disk is mounted.
        fs::remove_dir(daemon.state_dir()).expect("still empty");
        fs::rename(&away, daemon.state_dir()).expect("renamed");
        daemon.serves().await;
        eventually!(daemon.call("hello").await.0 == 200, "{}", daemon.log());
        assert_eq!(daemon.containers(), containers, "functions were started again");
        assert_eq!(daemon.describe("hello").await["phase"], "ready");
        daemon.ready("other", json!({})).await;
        daemon.stop().await;

        // It is lost for good: what runs is gone on with.
        fs::remove_dir_all(unmount(&daemon)).expect("removed");
        let containers = daemon.containers();
        daemon.spawn();
        eventually!(within 30, health(&daemon).await.0 == 503, "{}", daemon.log());
        let adopted = ingle(&daemon, &["store", "adopt"]).await;
        assert!(adopted.status.success(), "{adopted:?}");
        daemon.serves().await;
        for path in ["hello", "other"] {
            eventually!(daemon.call(path).await.0 == 200, "{path} {}", daemon.log());
        }
        assert_eq!(daemon.containers(), containers, "functions were started again");
        assert_eq!(daemon.describe("other").await["revision"], 1);
        daemon.ready("third", json!({})).await;
        daemon.stop().await;

        // And once more: nobody wants what is left.
        fs::remove_dir_all(unmount(&daemon)).expect("removed");
        daemon.spawn();
        eventually!(within 30, health(&daemon).await.0 == 503, "{}", daemon.log());
        let pruned = ingle(&daemon, &["system", "prune", "--orphans"]).await;
        assert!(pruned.status.success(), "{pruned:?}");
        daemon.serves().await;
        daemon.nothing_left().await;

        // A layer that a start has left is no container, and keeps nobody from beginning.
        daemon.stop().await;
        fs::remove_dir_all(unmount(&daemon)).expect("removed");
        for words in
            [["prepare", "left-0000000001"].as_slice(), &["label", "left-0000000001", "ingle/function=left"]]
        {
            let made = daemon.containerd.ctr(&[&["snapshots"], words].concat());
            assert!(made.status.success(), "{made:?}");
        }
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        daemon.ready("hello", json!({})).await;
        assert_eq!(daemon.describe("hello").await["revision"], 1);
        daemon.end(nix::sys::signal::Signal::SIGTERM);
    });
}

#[test]
fn functions_are_served_whatever_becomes_of_the_queues_store() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "curl");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let containers = daemon.containers();
        // Moved away: it begins anew, and functions are not in it.
        daemon.stop().await;
        fs::rename(daemon.state_dir().join("db"), daemon.containerd.path().join("db-away")).expect("renamed");
        daemon.resume().await;
        eventually!(daemon.call("hello").await.0 == 200, "{}", daemon.log());
        assert_eq!(daemon.containers(), containers);
        // Damaged: it is out of service until somebody has looked.
        daemon.stop().await;
        fs::remove_file(daemon.state_dir().join("db/conf")).expect("removed");
        fs::create_dir(daemon.state_dir().join("db/conf")).expect("something that sled cannot read");
        daemon.spawn();
        eventually!(within 30, health(&daemon).await.0 == 503, "{:?} {}", health(&daemon).await, daemon.log());
        let (_, text) = health(&daemon).await;
        assert!(text.contains("ingle store repair"), "{text}");
        eventually!(daemon.call("hello").await.0 == 200, "{}", daemon.log());
        let later = daemon.client.post(daemon.url("/async-function/hello")).body("x");
        assert_eq!(later.send().await.expect("an answer").status(), 503);
        // A deploy needs the files alone.
        daemon.ready("other", json!({})).await;
        assert_eq!(daemon.containers().len(), 2);
        let repaired = ingle(&daemon, &["store", "repair"]).await;
        let said = String::from_utf8_lossy(&repaired.stdout).into_owned();
        assert!(repaired.status.success() && said.contains("db.damaged-1"), "{repaired:?}");
        assert_eq!(health(&daemon).await.0, 200);
        let later =
            daemon.client.post(daemon.url("/async-function/hello")).header("X-Call-Id", "after").body("x");
        assert_eq!(later.send().await.expect("an answer").status(), 202);
        let call = async || daemon.api(Method::GET, "/system/calls/after").send().await.expect("an answer");
        eventually!(call().await.text().await.is_ok_and(|text| text.contains("done")), "{}", daemon.log());
        assert!(!ingle(&daemon, &["store", "repair"]).await.status.success(), "there is nothing to repair");
        daemon.end(nix::sys::signal::Signal::SIGTERM);
    });
}
