//! Commands in images that know nothing of functions: the daemon brings the watchdog along.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::TemporaryDirectory;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, in_own_network, run};
use crate::support::{Item, busybox, write_archive};

pub(super) const IMAGE: &str = "docker.io/ingle-test/box:1";

/// What a program that was not built static needs beside itself. The one that is installed is static.
pub(super) fn libraries(program: &str) -> Vec<Item> {
    let listed = run("ldd", &[program]);
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/') && Path::new(word).is_file());
    let item = |path: &str| {
        let content = fs::read(path).expect("there");
        Item::File(path.trim_start_matches('/').to_owned().leak(), content, 0o755)
    };
    paths.map(item).collect()
}

/// A daemon whose watchdog would be at the path that comes with it, and an image of busybox and what the watchdog
/// needs, with this configuration.
pub(super) async fn daemon_with_box(config: Value) -> (Daemon, PathBuf, TemporaryDirectory) {
    let directory = TemporaryDirectory::new();
    let watchdog = directory.path().join("fwatchdog");
    let daemon = Daemon::start(&format!("[functions]\nwatchdog = {watchdog:?}\n")).await;
    let mut items = busybox();
    items.extend(["tr", "cat", "sleep"].map(|name| Item::Link(format!("bin/{name}").leak(), "busybox")));
    items.extend(libraries(crate::support::watchdog()));
    let archive = directory.path().join("box.tar");
    write_archive(&archive, IMAGE, &items, &config);
    daemon.load(&archive).await;
    (daemon, watchdog, directory)
}

#[test]
fn a_command_of_any_image_is_a_function() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        // Its own command would end at once.
        let (daemon, watchdog, _files) = daemon_with_box(json!({ "Cmd": ["/bin/sh"] })).await;
        let shout = json!({
            "image": IMAGE, "envProcess": "tr a-z A-Z", "annotations": { "ingle.pull-policy": "Never" },
            "readOnlyRootFilesystem": true,
        });

        let refused = daemon.deploy("shout", shout.clone()).await;
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let text = refused.text().await.expect("text");
        assert!(
            text.contains("functions.watchdog") && text.contains(&watchdog.display().to_string()),
            "{text}"
        );
        assert!(daemon.describe("shout").await.is_null(), "what was refused changed something");

        fs::copy(crate::support::watchdog(), &watchdog).expect("copied");
        daemon.ready("shout", shout.clone()).await;
        let call = async |body: &'static str| {
            let answer = daemon.client.post(daemon.url("/function/shout")).body(body).send().await;
            let answer = answer.expect("an answer");
            (answer.status(), answer.text().await.expect("text"))
        };
        assert_eq!(call("hello, world").await, (StatusCode::OK, "HELLO, WORLD".into()));
        // Another mode is another revision.
        let mut update = shout.clone();
        update["envProcess"] = "sh -c false".into();
        update["envVars"] = json!({ "mode": "serializing" });
        daemon.ready("shout", update).await;
        let failed = (StatusCode::INTERNAL_SERVER_ERROR, "exit status 1\n".to_owned());
        eventually!(call("x").await == failed, "{:#}", daemon.describe("shout").await);
        let back = async || {
            let answer = daemon.api(Method::POST, "/system/function/shout/rollback").send().await;
            let answer = answer.expect("an answer");
            (answer.status(), answer.text().await.expect("text"))
        };
        // Without it nothing would come up: the revision that serves stays, and no other is made.
        let gone = watchdog.with_extension("gone");
        fs::rename(&watchdog, &gone).expect("renamed");
        let (status, text) = back().await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
        assert!(text.contains("functions.watchdog"), "{text}");
        assert_eq!(daemon.describe("shout").await["revision"], 2);
        fs::rename(&gone, &watchdog).expect("renamed");
        let (status, text) = back().await;
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
        eventually!(call("again").await.1 == "AGAIN", "{:#}", daemon.describe("shout").await);
        daemon.remove("shout").await;
        daemon.nothing_left().await;
    });
}

/// A watchdog that has no room says so, and that costs a queued call no try.
#[test]
fn queued_calls_wait_for_a_watchdog_that_has_no_room() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        let (daemon, watchdog, _files) = daemon_with_box(json!({ "Cmd": ["/bin/sh"] })).await;
        fs::copy(crate::support::watchdog(), &watchdog).expect("installed");
        let naps = json!({
            "image": IMAGE, "envProcess": "sleep 0.2", "readOnlyRootFilesystem": true,
            "envVars": { "max_inflight": "1" },
            "annotations": {
                "ingle.pull-policy": "Never", "ingle.parallel-calls": "4", "com.openfaas.retry.attempts": "1",
            },
        });
        daemon.ready("naps", naps).await;
        for _ in 0..8 {
            let queued =
                daemon.client.post(daemon.url("/async-function/naps")).send().await.expect("an answer");
            assert_eq!(queued.status(), StatusCode::ACCEPTED);
        }
        let calls = async || {
            let answer = daemon.api(Method::GET, "/system/calls").send().await.expect("an answer");
            answer.json::<Vec<Value>>().await.expect("JSON")
        };
        let done = async || calls().await.iter().filter(|call| call["status"] == "done").count();
        eventually!(within 30, done().await == 8, "{:#?}", calls().await);
        assert!(calls().await.iter().all(|call| call["tries"] == 1), "{:#?}", calls().await);
        let refused = async || {
            let metrics = daemon.client.get(daemon.url("/metrics")).send().await.expect("metrics");
            metrics.text().await.expect("text").lines().any(|line| line.contains("code=\"429\""))
        };
        assert!(refused().await, "it had room all the time");
        daemon.remove("naps").await;
        daemon.nothing_left().await;
    });
}
