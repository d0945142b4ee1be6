//! The daemon restarted, killed, and everything killed: functions run on, or come back.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::daemon::{Daemon, in_own_network};

#[test]
fn functions_run_on_across_a_restart_and_a_kill_of_the_daemon() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("one", json!({ "labels": { "com.openfaas.scale.min": "2" } })).await;
        daemon.ready("two", json!({})).await;
        eventually!(
            daemon.describe("one").await["availableReplicas"] == 2,
            "{:#}",
            daemon.describe("one").await
        );
        let mut containers = daemon.containers();
        containers.sort();
        assert_eq!(containers.len(), 3);
        for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM] {
            assert_eq!(daemon.call("two").await.0, StatusCode::OK);
            daemon.end(signal);
            daemon.resume().await;
            assert_eq!(daemon.call("one").await.0, StatusCode::OK);
            assert_eq!(daemon.call("two").await.0, StatusCode::OK);
            eventually!(
                daemon.describe("one").await["availableReplicas"] == 2,
                "{:#}",
                daemon.describe("one").await
            );
            let mut found = daemon.containers();
            found.sort();
            assert_eq!(found, containers, "the same containers serve after {signal}\n{}", daemon.log());
        }
        // Output written after the restart is still read.
        assert_eq!(daemon.call("two/log?text=after-the-restart").await.0, StatusCode::OK);
        eventually!(
            {
                let logs = daemon
                    .api(reqwest::Method::GET, "/system/logs?name=two")
                    .send()
                    .await
                    .expect("an answer");
                logs.text().await.expect("text").contains("after-the-restart")
            },
            "the line is not in the log"
        );
        assert_eq!(daemon.describe("two").await["restarts"], serde_json::Value::Null);
        daemon.remove("one").await;
        daemon.remove("two").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn counts_of_calls_survive_a_restart() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        for _ in 0..5 {
            assert_eq!(daemon.call("hello").await.0, StatusCode::OK);
        }
        daemon.end(Signal::SIGTERM);
        daemon.resume().await;
        assert_eq!(daemon.describe("hello").await["invocationCount"], 5);
        let metrics = daemon.client.get(daemon.url("/metrics")).send().await.expect("an answer");
        let metrics = metrics.text().await.expect("text");
        let line = "gateway_function_invocation_total{code=\"200\",function_name=\"hello.openfaas-fn\"} 5";
        let swapped = "gateway_function_invocation_total{function_name=\"hello.openfaas-fn\",code=\"200\"} 5";
        assert!(metrics.contains(line) || metrics.contains(swapped), "{metrics}");
    });
}

#[test]
fn after_everything_was_killed_the_functions_come_back() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("one", json!({})).await;
        daemon.ready("two", json!({})).await;
        daemon.end(Signal::SIGKILL);
        for (pid, _) in daemon.containerd.shims() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("kill a shim");
        }
        daemon.resume().await;
        assert_eq!(daemon.call("one").await.0, StatusCode::OK, "{}", daemon.log());
        assert_eq!(daemon.call("two").await.0, StatusCode::OK, "{}", daemon.log());
        eventually!(within 30, daemon.containers().len() == 2, "{:?}\n{}", daemon.containers(), daemon.log());
        daemon.remove("one").await;
        daemon.remove("two").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn a_start_that_the_daemon_did_not_live_to_see_leaves_nothing() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("keep", json!({})).await;
        let kept = daemon.containers();
        // Killed at some moment of a start, again and again: at another one each time.
        for round in 0..6u64 {
            let answer = daemon.deploy("half", json!({ "envVars": { "round": round.to_string() } })).await;
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            tokio::time::sleep(std::time::Duration::from_millis(round * 12)).await;
            daemon.end(Signal::SIGKILL);
            daemon.resume().await;
            assert_eq!(
                daemon.call("half").await.0,
                StatusCode::OK,
                "what was accepted runs\n{}",
                daemon.log()
            );
            daemon.remove("half").await;
            eventually!(
                within 30,
                daemon.containers() == kept,
                "{:?} is there, {kept:?} is owned\n{}",
                daemon.containers(),
                daemon.log()
            );
        }
        assert_eq!(daemon.describe("keep").await["restarts"], serde_json::Value::Null);
        daemon.remove("keep").await;
        daemon.nothing_left().await;
    });
}
