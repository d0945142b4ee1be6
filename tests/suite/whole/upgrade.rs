//! An upgrade under load: what an older release left on disk and in containerd is taken over, and no call is lost.
//!
//! `INGLE_TESTS_FROM` names the older program; without it, this build takes over from itself.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::support::daemon::{Daemon, address, in_own_network};
use crate::support::load::{Connections, Load};

/// Calls before and after the upgrade, for each kind of clients.
const CALLS: u64 = 1_000;
/// Async calls that the older release accepts and the newer one makes.
const QUEUED: usize = 20;

#[test]
fn an_upgrade_under_load_loses_no_call_and_keeps_what_was_accepted() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(LocalSet::new().run_until(async {
        let mut daemon = Daemon::bare("").await;
        #[expect(clippy::disallowed_methods, reason = "what the test is asked for, not a setting")]
        let older = std::env::var("INGLE_TESTS_FROM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ingle").into());
        eprintln!("from {older}");
        daemon.run_as(older.into());
        daemon.keep_socket();
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        let secret =
            daemon.api(Method::POST, "/system/secrets").json(&json!({ "name": "key", "value": "v" }));
        assert!(secret.send().await.expect("an answer").status().is_success());
        let labels = json!({ "com.openfaas.scale.min": "2" });
        daemon.ready("hello", json!({ "labels": labels, "secrets": ["key"] })).await;
        eventually!(daemon.containers().len() == 2, "{:?}", daemon.containers());
        let first = daemon.containers();
        daemon.ready("hello", json!({ "labels": labels, "secrets": ["key"], "envVars": { "A": "1" } })).await;
        // What is accepted now, and made by the next one.
        let pause = async |daemon: &Daemon, paused: bool| {
            let change = daemon.api(Method::PUT, "/system/queues/default").json(&json!({ "paused": paused }));
            assert!(change.send().await.expect("an answer").status().is_success());
        };
        pause(&daemon, true).await;
        for number in 0..QUEUED {
            let call = daemon
                .client
                .post(daemon.url("/async-function/hello"))
                .header("X-Call-Id", format!("c{number}"));
            assert_eq!(call.body("x").send().await.expect("an answer").status(), StatusCode::ACCEPTED);
        }
        // Those of the first revision leave first.
        let mut containers;
        eventually!(
            {
                containers = daemon.containers();
                containers.len() == 2 && !containers.iter().any(|one| first.contains(one))
            },
            "{containers:?} after {first:?}"
        );
        let before = daemon.describe("hello").await;

        let mut kept = Load::start(address(), "GET", "/function/hello", 8, Connections::Kept);
        let mut new = Load::start(address(), "GET", "/function/hello", 4, Connections::New);
        tokio::join!(kept.more(CALLS), new.more(CALLS));
        daemon.stop().await;
        daemon.run_as(env!("CARGO_BIN_EXE_ingle").into());
        daemon.resume().await;
        tokio::join!(kept.more(CALLS), new.more(CALLS));
        let answered = kept.end().await + new.end().await;
        eprintln!("{answered} calls, none failed");

        let after = daemon.describe("hello").await;
        for field in
            ["revision", "replicas", "imageDigest", "createdAt", "revisions", "secrets", "labels", "restarts"]
        {
            assert_eq!(after[field], before[field], "{field}: {after:#}");
        }
        assert_eq!(
            (after["phase"].as_str(), after["restarts"].clone()),
            (Some("ready"), Value::Null),
            "{after:#}"
        );
        assert_eq!(daemon.containers(), containers, "functions were started again");
        assert!(after["invocationCount"].as_u64() >= Some(answered), "{after:#}");
        let calls = async |daemon: &Daemon, status: &str| {
            let path = format!("/system/calls?status={status}&limit=1000");
            let calls: Value =
                daemon.api(Method::GET, &path).send().await.expect("an answer").json().await.expect("JSON");
            calls.as_array().map_or(0, Vec::len)
        };
        assert_eq!(calls(&daemon, "queued").await, QUEUED, "the queue is paused still");
        pause(&daemon, false).await;
        eventually!(calls(&daemon, "done").await == QUEUED, "{}", daemon.log());
    }));
}
