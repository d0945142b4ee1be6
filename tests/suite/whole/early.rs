//! Images whose own watchdog says that it is ready before the server behind it is: no call is answered by it alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::TemporaryDirectory;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::languages::{archive, done};
use crate::support::daemon::{Daemon, address, in_own_network};
use crate::support::image::{Item, write_archive};
use crate::support::load::{Connections, Load};
use crate::support::long::long;

/// How late a server is, in milliseconds, beside what its language takes.
const LATE: u32 = 700;
/// Cold calls: of the short form, which `tests/run` runs, and of the long one.
const COLD: (u32, u32) = (4, 50);
/// Updates, and calls during each of them, at least: 120 together in the long form.
const UPDATES: (u32, u32) = (3, 12);
const DURING: u64 = 10;
/// How long those calls may take.
const PROGRESS: Duration = Duration::from_secs(10);
/// The image of every server, once it was loaded.
const IMAGE: &str = "examples/early:latest";

/// A server in Go, as small as they are.
const GO: &str = r#"package main

import (
	"io"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	panic(http.ListenAndServe("127.0.0.1:5000", nil))
}
"#;

/// The watchdog, built in a directory.
fn watchdog(directory: &TemporaryDirectory) -> PathBuf {
    let built = directory.path().join("fwatchdog");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/whole/early/watchdog.rs");
    let (source, path) = (source.display().to_string(), built.display().to_string());
    // Static, as it has nothing beside it in an image.
    let how = ["--edition=2024", "-Copt-level=1", "-Cpanic=abort", "-Ctarget-feature=+crt-static"];
    done("rustc", &[&how[..], &["-o", &path, &source]].concat());
    built
}

/// An archive with an image of that watchdog and perhaps a server, which runs `command`.
fn plain(directory: &TemporaryDirectory, command: &str, server: Option<Vec<u8>>) -> PathBuf {
    let mut items =
        vec![Item::File("usr/bin/fwatchdog", fs::read(watchdog(directory)).expect("built"), 0o755)];
    items.extend(server.map(|server| Item::File("usr/bin/server", server, 0o755)));
    let config = json!({ "Cmd": ["fwatchdog"], "Env": [
        "mode=http", "upstream_url=http://127.0.0.1:5000",
        format!("fprocess=fwatchdog after {LATE} {command}"),
    ] });
    let file = directory.path().join("image.tar");
    write_archive(&file, IMAGE, &items, &config);
    file
}

fn go(directory: &TemporaryDirectory) -> PathBuf {
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("main.go"), GO).expect("written");
    let (cache, built, source) = (path("cache"), path("server"), path("main.go"));
    let words = ["CGO_ENABLED=0", &format!("GOCACHE={cache}"), "go", "build", "-o", &built, &source];
    done("env", &words);
    plain(directory, "server", Some(fs::read(built).expect("built")))
}

/// An archive with an example's image, and that watchdog in the place of ours.
fn example(directory: &TemporaryDirectory, name: &str) -> PathBuf {
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (layout, file) = (format!("{}:1", path(name)), path("image.tar"));
    let from = format!("docker-archive:{}", archive(name).expect("looked for").display());
    let (at, to) = (format!("oci:{layout}"), format!("docker-archive:{file}:{IMAGE}"));
    done("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &at]);
    let watchdog = watchdog(directory).display().to_string();
    done("umoci", &["insert", "--image", &layout, &watchdog, "/usr/bin/fwatchdog"]);
    done("skopeo", &["--insecure-policy", "copy", "--quiet", &at, &to]);
    file.into()
}

/// The deployment of an example, beside what its image says.
fn late(command: &str) -> Value {
    json!({ "image": IMAGE, "envVars": { "fprocess": format!("fwatchdog after {LATE} {command}") } })
}

/// Calls a function while it is not there, and while it is updated.
async fn no_call_fails(daemon: &Daemon, what: &str, archive: &Path, deployment: Value) {
    let (cold, updates) = if long().is_some() { (COLD.1, UPDATES.1) } else { (COLD.0, UPDATES.0) };
    daemon.load(archive).await;
    let version = |version: u32| {
        let mut deployment = deployment.clone();
        deployment["envVars"]["version"] = version.to_string().into();
        deployment
    };
    daemon.ready("early", version(1)).await;
    let began = Instant::now();
    for call in 1..=cold {
        let stop = json!({ "serviceName": "early", "replicas": 0 });
        let answer = daemon.api(Method::POST, "/system/scale-function/early").json(&stop).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        eventually!(daemon.containers().is_empty(), "it is not stopped");
        let (status, body) = daemon.call("early").await;
        assert_eq!(status, StatusCode::OK, "{what}, cold call {call}: {body}\n{}", daemon.log());
    }
    let (took, mut during) = (began.elapsed(), 0);
    let mut loads =
        ["GET", "POST"].map(|method| Load::start(address(), method, "/function/early", 2, Connections::Kept));
    for update in 2..=updates + 1 {
        let before: u64 = loads.iter().map(Load::answered).sum();
        daemon.ready("early", version(update)).await;
        for load in &mut loads {
            let more = tokio::time::timeout(PROGRESS, load.more(DURING)).await;
            assert!(more.is_ok(), "{what}: no progress after update {update}: {load:?}");
        }
        during += loads.iter().map(Load::answered).sum::<u64>() - before;
    }
    for load in loads {
        load.end().await;
    }
    println!("{what}: {cold} cold calls in {took:?}, {during} calls during {updates} updates, none failed");
    daemon.remove("early").await;
    daemon.nothing_left().await;
}

#[test]
fn no_call_is_answered_by_a_watchdog_that_is_ready_before_its_server() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "rustc");
    if long().is_some() {
        require!("go", "skopeo", "umoci");
        for name in ["python-http", "node-http"] {
            if let Err(reason) = archive(name) {
                return crate::support::cannot_run(&reason);
            }
        }
    }
    let directory = || TemporaryDirectory::new();
    in_own_network(LocalSet::new().run_until(async {
        // Nobody handles SIGTERM in these images.
        let mut daemon = Daemon::bare("[functions]\nstop_grace = \"100ms\"\n").await;
        daemon.resume().await;
        if long().is_none() {
            let directory = directory();
            let image = plain(&directory, "fwatchdog serve 5000", None);
            return no_call_fails(&daemon, "a static server", &image, json!({ "image": IMAGE })).await;
        }
        let examples = [
            ("Python", "python-http", "python3 /home/app/handler.py"),
            ("Node.js", "node-http", "node /home/app/handler.js"),
        ];
        for (language, name, command) in examples {
            let directory = directory();
            no_call_fails(&daemon, language, &example(&directory, name), late(command)).await;
        }
        let directory = directory();
        no_call_fails(&daemon, "Go", &go(&directory), json!({ "image": IMAGE })).await;
    }));
}
