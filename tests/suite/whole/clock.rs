//! The clock of the machine jumps, as when a Raspberry Pi without a battery finds the network.

use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, address, in_own_network};
use crate::support::load::{Connections, Load};

/// Where libfaketime is, which answers for the clock; what counts seconds since the start is left alone.
fn library() -> Result<PathBuf, String> {
    let directories =
        ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|name| format!("/usr/lib/{name}/faketime"));
    let mut paths = directories.iter().map(|directory| PathBuf::from(directory).join("libfaketimeMT.so.1"));
    paths
        .find(|path| path.exists())
        .ok_or_else(|| "libfaketime is not installed (package libfaketime)".into())
}

/// The years between now and a time in the API's JSON.
fn years_off(time: &Value) -> i64 {
    let time: Timestamp = time.as_str().expect("a time").parse().expect("a time");
    let hours = time.duration_since(Timestamp::now()).as_hours();
    // Half a year up or down: what is asked is which clock it was.
    (hours + (hours.signum() * 12 * 365)) / (24 * 365)
}

/// Files of libfaketime's that are shared between processes: it removes them itself when its process ends, but not
/// when that is killed.
struct Shared(u32);

impl Shared {
    /// Those of the daemon's process.
    fn of(daemon: &Daemon) -> Self {
        Self(daemon.pid().expect("it runs"))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for name in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = fs::remove_file(format!("/dev/shm/{name}{}", self.0));
        }
    }
}

#[test]
fn a_clock_that_jumps_disturbs_nothing() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    let library = match library() {
        Ok(library) => library,
        Err(reason) => return crate::support::cannot_run(&reason),
    };
    in_own_network(async {
        let mut daemon = Daemon::bare("").await;
        let clock = daemon.containerd.path().join("clock");
        let jump = |by: &str| fs::write(&clock, by).expect("written");
        jump("+0");
        daemon.environment("LD_PRELOAD", &library.display().to_string());
        daemon.environment("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string());
        for (name, value) in [("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")] {
            daemon.environment(name, value);
        }
        daemon.environment("DONT_FAKE_MONOTONIC", "1");
        daemon.resume().await;
        let _first = Shared::of(&daemon);
        daemon.load(&crate::support::sample_archive()).await;
        daemon.ready("steady", json!({})).await;
        daemon.ready("hello", json!({})).await;
        // A queued call that runs all the time: no clock takes it away from whoever makes it.
        daemon.ready("waits", json!({})).await;
        let queued =
            daemon.client.post(daemon.url("/async-function/waits/hang")).header("X-Call-Id", "waits");
        assert_eq!(queued.send().await.expect("an answer").status(), StatusCode::ACCEPTED);
        let call = async |daemon: &Daemon| {
            let shown = daemon.api(Method::GET, "/system/calls/waits").send().await.expect("an answer");
            let status = shown.json::<Value>().await.expect("JSON")["status"].as_str().map(str::to_owned);
            let metrics = daemon.client.get(daemon.url("/metrics")).send().await.expect("metrics");
            let metrics = metrics.text().await.expect("text");
            let started = "gateway_function_invocation_started{function_name=\"waits.openfaas-fn\"} ";
            (status, metrics.lines().find_map(|line| line.strip_prefix(started)).map(str::to_owned))
        };
        let runs = (Some("running".to_owned()), Some("1".to_owned()));
        eventually!(call(&daemon).await == runs, "{:?}", call(&daemon).await);
        let tasks = tokio::task::LocalSet::new();
        let work = async {
            let mut load = Load::start(address(), "GET", "/function/steady", 2, Connections::Kept);
            let (mut revision, mut restarts) = (1, 0);
            for (by, years) in [("+3650d", 10), ("-7300d", -20), ("+20d", 0), ("-20d", 0)] {
                jump(by);
                load.more(200).await;
                // A crash is mended as fast as ever, and noted with the time that it is now.
                let _ = daemon.client.post(daemon.url("/function/hello/crash?code=3")).send().await;
                restarts += 1;
                eventually!(
                    daemon.call("hello").await.0 == StatusCode::OK
                        && daemon.describe("hello").await["restarts"] == restarts,
                    "{by}: {:#}",
                    daemon.describe("hello").await
                );
                let described = daemon.describe("hello").await;
                assert_eq!(years_off(&described["lastExit"]["at"]), years, "{by}: {described:#}");

                // So is an update made.
                revision += 1;
                restarts = 0;
                daemon.ready("hello", json!({ "envVars": { "number": revision.to_string() } })).await;
                assert_eq!(daemon.describe("hello").await["revision"], revision, "{by}");

                // Lines stand in the order in which they were written, and have the time that it is now.
                let text = format!("after-{revision}");
                assert_eq!(daemon.call(&format!("hello/log?text={text}")).await.0, StatusCode::OK);
                eventually!(
                    logs(&daemon).await.last().is_some_and(|line| line.1.contains(&text)),
                    "{by}: {:?}",
                    logs(&daemon).await
                );
                let (newest, _) = logs(&daemon).await.pop().expect("a line");
                assert_eq!(years_off(&newest.to_string().into()), years, "{by}");

                // What nobody uses goes when asked, what somebody uses stays.
                let pruned = daemon.api(Method::POST, "/system/prune").send().await.expect("an answer");
                assert_eq!(pruned.status(), StatusCode::OK, "{by}");
            }
            load.more(200).await;
            load.end().await;
        };
        tasks.run_until(work).await;
        assert_eq!(call(&daemon).await, runs, "it was called again");
        let cancelled = daemon.api(Method::DELETE, "/system/calls/waits").send().await.expect("an answer");
        assert_eq!(cancelled.status(), StatusCode::ACCEPTED);
        daemon.remove("waits").await;
        eventually!(daemon.containers().len() == 2, "{:?}", daemon.containers());
        // A daemon that begins in the past finds what one from the future left.
        let containers = daemon.containers();
        jump("-7300d");
        daemon.end(Signal::SIGKILL);
        daemon.resume().await;
        let _second = Shared::of(&daemon);
        for function in ["steady", "hello"] {
            assert_eq!(daemon.call(function).await.0, StatusCode::OK, "{function}: {}", daemon.log());
        }
        assert_eq!(daemon.containers(), containers, "{}", daemon.log());
        assert!(!daemon.log().contains("panic"), "{}", daemon.log());
    });
}

/// The times and texts of all lines of `hello` that are kept.
async fn logs(daemon: &Daemon) -> Vec<(Timestamp, String)> {
    let answer = daemon.api(Method::GET, "/system/logs?name=hello").send().await.expect("an answer");
    let text = answer.text().await.expect("text");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let field = |line: &Value, name: &str| line[name].as_str().expect("text").to_owned();
    lines.map(|line| (field(&line, "timestamp").parse().expect("a time"), field(&line, "text"))).collect()
}
