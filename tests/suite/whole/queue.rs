//! Queued calls are on disk when they are accepted, and none is lost when the daemon is killed again and again.

use std::fs::DirEntry;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::moving::ingle;
use crate::support::daemon::{Daemon, in_own_network};
use crate::support::long::{Chance, VARIABLE, long};

/// Kills in the short form, which `tests/run` runs.
const ROUNDS: u32 = 6;
/// Clients that queue calls of each kind.
const CLIENTS: usize = 2;

/// Calls that each of them queues in a round: what 200 rounds write must have room in the function's /tmp.
const CALLS: usize = 10;

/// What a client queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Calls that leave a file.
    Plain,
    /// The same, with a callback to the function, which leaves another.
    Told,
    /// Calls that fail, and are given up after another try.
    Failing,
    /// Calls of a queue that is paused; every second is cancelled.
    Held,
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::Told, Kind::Failing, Kind::Held];

/// What the daemon has acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    accepted: Vec<(Kind, String)>,
    cancelled: Vec<String>,
    /// Nobody knows whether they were: the daemon was killed before it could say so.
    perhaps_cancelled: Vec<String>,
}

/// Queues calls until the daemon does not answer, or there were enough.
async fn queue(daemon: &Daemon, kind: Kind, client: usize, round: u32, acknowledged: &Mutex<Acknowledged>) {
    let http = daemon.client.clone();
    for number in 0..CALLS {
        let id = format!("call-{kind:?}-{round}-{client}-{number}");
        let path = match kind {
            Kind::Plain | Kind::Told => format!("/async-function/hello/file?path=/tmp/{id}"),
            Kind::Failing => "/async-function/hello/status/500".to_owned(),
            Kind::Held => format!("/async-function/held/file?path=/tmp/{id}"),
        };
        let mut call = http.post(daemon.url(&path)).header("X-Call-Id", &id).body(body(&id));
        if kind == Kind::Told {
            let url = format!("http://gateway:8080/function/hello/file?path=/tmp/told-{id}");
            call = call.header("X-Callback-Url", url);
        }
        let Ok(answer) = call.send().await else { return };
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        acknowledged.lock().expect("no panic").accepted.push((kind, id.clone()));
        if kind == Kind::Held && number % 2 == 0 {
            let cancelled = daemon.api(Method::DELETE, &format!("/system/calls/{id}")).send().await;
            let mut acknowledged = acknowledged.lock().expect("no panic");
            match cancelled {
                Ok(answer) => {
                    assert_eq!(answer.status(), StatusCode::ACCEPTED, "{id} is queued");
                    acknowledged.cancelled.push(id);
                }
                Err(_) => {
                    acknowledged.perhaps_cancelled.push(id);
                    return;
                }
            }
        }
    }
}

/// What the queues and the directory of bodies hold.
async fn left(daemon: &Daemon) -> (Value, usize) {
    let queues = daemon.api(Method::GET, "/system/queues").send().await.expect("an answer");
    let bodies = std::fs::read_dir(daemon.state_dir().join("queue")).expect("there").count();
    (queues.json().await.expect("JSON"), bodies)
}

/// What a call has its function write into a file: every tenth goes through a file on its way, too.
fn body(id: &str) -> String {
    id.repeat(if id.ends_with('0') { 250 } else { 1 })
}

/// Follows the system calls of a daemon; ended when it is dropped.
struct Trace {
    strace: Child,
    file: NamedTempFile,
}

impl Trace {
    async fn start(daemon: &Daemon) -> Self {
        Self::attach(daemon, &[]).await
    }

    /// The same, and fdatasync fails as it does when a disk does.
    async fn failing(daemon: &Daemon) -> Self {
        Self::attach(daemon, &["--inject=fdatasync:error=EIO"]).await
    }

    async fn attach(daemon: &Daemon, more: &[&str]) -> Self {
        let pid = daemon.pid().expect("it runs");
        let file = NamedTempFile::new().expect("a file");
        let strace = Command::new("strace")
            .args(["--follow-forks", "--string-limit=64", "--trace=recvfrom,sendto,fdatasync,fsync"])
            .args(more)
            .arg("--output")
            .arg(file.path())
            .args(["--attach", &pid.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        let traced = || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
            let status =
                |task: DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            tasks.flatten().map(status).all(|status| !status.contains("TracerPid:\t0\n"))
        };
        eventually!(traced(), "it is not followed");
        Self { strace, file }
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read(self.file.path()).expect("readable");
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// What is promised is on disk: between the request and its 202, as many syncs as it takes have ended.
#[test]
fn a_call_is_synced_before_it_is_accepted() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "strace");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        // The row; and for a long body its file, and the directory of that, before it.
        for (length, fdatasyncs, fsyncs) in [(10, 1, 0), (100_000, 2, 1)] {
            let trace = Trace::start(&daemon).await;
            let url = daemon.url("/async-function/hello");
            let answer = daemon.client.post(url).body("x".repeat(length)).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            let place = |lines: &[String], text: &str| lines.iter().position(|line| line.contains(text));
            eventually!(place(&trace.lines(), "HTTP/1.1 202").is_some(), "{:#?}", trace.lines());
            let lines = trace.lines();
            let begin = place(&lines, "POST /async-function").expect("the request was read");
            let end = place(&lines, "HTTP/1.1 202").expect("it was answered");
            assert!(begin < end, "{lines:#?}");
            let ended = |call: &str| {
                let said = [format!(" {call}("), format!(" {call} resumed>")];
                let ended =
                    |line: &&String| line.contains("= 0") && said.iter().any(|said| line.contains(said));
                lines[begin..end].iter().filter(ended).count()
            };
            assert!(
                ended("fdatasync") >= fdatasyncs && ended("fsync") >= fsyncs,
                "{length} bytes were accepted before they were on disk: {:#?}",
                &lines[begin..=end]
            );
        }
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}

/// After one sync that failed nobody knows what is on the disk, so nothing is promised any more until the next start.
#[test]
fn nothing_is_accepted_after_a_sync_that_failed_and_nothing_is_lost() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "strace");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let send = async |daemon: &Daemon, id: &str| {
            let url = daemon.url(&format!("/async-function/hello/file?path=/tmp/{id}"));
            let answer = daemon.client.post(url).header("X-Call-Id", id).body(body(id)).send().await;
            let answer = answer.expect("an answer");
            (answer.status(), answer.text().await.expect("a text"))
        };
        let change = async |daemon: &Daemon, method: Method, path: &str, change: Value| {
            let answer = daemon.api(method, path).json(&change).send().await.expect("an answer");
            (answer.status(), answer.text().await.expect("a text"))
        };
        let queues = "/system/queues/default";
        let (status, text) = change(&daemon, Method::PUT, queues, json!({ "paused": true })).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        for id in ["before-1", "before-20"] {
            assert_eq!(send(&daemon, id).await, (StatusCode::ACCEPTED, String::new()));
        }
        let trace = Trace::failing(&daemon).await;
        let refused = |(status, text): (StatusCode, String)| {
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
            assert!(text.contains("systemctl restart ingle"), "{text}");
        };
        refused(send(&daemon, "failed").await);
        drop(trace);
        // The disk is well again, as far as anybody can see.
        refused(send(&daemon, "after").await);
        refused(change(&daemon, Method::DELETE, "/system/calls/before-1", json!(null)).await);
        refused(change(&daemon, Method::PUT, queues, json!({ "paused": false })).await);
        assert_eq!(daemon.call("hello/status/200").await.0, StatusCode::OK, "functions run on");
        daemon.end(Signal::SIGTERM);
        daemon.resume().await;
        let (status, text) = change(&daemon, Method::PUT, queues, json!({ "paused": false })).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        for id in ["before-1", "before-20"] {
            let path = format!("hello/file?path=/tmp/{id}");
            eventually!(daemon.call(&path).await == (StatusCode::OK, body(id)), "{}", daemon.log());
        }
        let (status, text) = change(&daemon, Method::GET, "/system/calls/after", json!(null)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "nothing of it was begun: {text}");
        eventually!(left(&daemon).await.1 == 0, "files are left of calls that are gone");
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn what_was_accepted_is_made_however_often_the_daemon_is_killed() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let asked = long();
        let rounds = asked.map_or(ROUNDS, |long| long.rounds);
        let seed = asked.and_then(|long| long.seed).unwrap_or_else(Chance::any_seed);
        println!("{rounds} rounds with seed {seed}: {VARIABLE}={rounds},{seed}");
        let mut chance = Chance::new(seed);
        let mut daemon = Daemon::start("[queue]\nmax_dead = 1000000\nmax_records = 1000000\n").await;
        let quick = json!({
            "com.openfaas.retry.attempts": "2",
            "com.openfaas.retry.min_wait": "10ms",
            "com.openfaas.retry.max_wait": "50ms",
        });
        daemon.ready("hello", json!({ "readOnlyRootFilesystem": true, "annotations": quick })).await;
        let held = json!({ "com.openfaas.queue": "held" });
        daemon.ready("held", json!({ "readOnlyRootFilesystem": true, "annotations": held })).await;
        let pause = async |daemon: &Daemon, paused: bool| {
            let change = daemon.api(Method::PUT, "/system/queues/held").json(&json!({ "paused": paused }));
            assert_eq!(change.send().await.expect("an answer").status(), StatusCode::OK);
        };
        pause(&daemon, true).await;
        let acknowledged = Mutex::new(Acknowledged::default());
        for round in 0..rounds {
            let clients = KINDS.into_iter().flat_map(|kind| (0..CLIENTS).map(move |client| (kind, client)));
            let queueing = clients.map(|(kind, client)| queue(&daemon, kind, client, round, &acknowledged));
            let kill = async {
                tokio::time::sleep(Duration::from_millis(20 + chance.below(400))).await;
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(daemon.pid().expect("it runs").try_into().expect("a pid")),
                    Signal::SIGKILL,
                )
                .expect("it runs");
            };
            futures_util::future::join(futures_util::future::join_all(queueing), kill).await;
            daemon.end(Signal::SIGKILL);
            daemon.resume().await;
        }
        pause(&daemon, false).await;
        let Acknowledged { accepted, cancelled, perhaps_cancelled } =
            acknowledged.into_inner().expect("no panic");
        let is_empty = |queue: &Value| ["ready", "waiting", "running"].iter().all(|state| queue[state] == 0);
        eventually!(
            within 300,
            {
                let (queues, _) = left(&daemon).await;
                queues.as_array().expect("a list").iter().all(is_empty)
            },
            "{:?}",
            left(&daemon).await
        );
        let dead = daemon.api(Method::GET, "/system/dead?limit=1000").send().await.expect("an answer");
        let dead: Vec<Value> = dead.json().await.expect("JSON");
        assert!(dead.iter().all(|call| call["path"] == "/status/500"), "given up: {dead:#?}");
        for (kind, id) in &accepted {
            let function = if *kind == Kind::Held { "held" } else { "hello" };
            let shown =
                daemon.api(Method::GET, &format!("/system/calls/{id}")).send().await.expect("an answer");
            let shown: Value = shown.json().await.expect("JSON");
            let ended = match kind {
                Kind::Failing => "failed",
                Kind::Held if cancelled.contains(id) => "cancelled",
                Kind::Held if perhaps_cancelled.contains(id) && shown["status"] == "cancelled" => "cancelled",
                _ => "done",
            };
            assert_eq!(shown["status"], ended, "{id} of {}: {shown:#} {}", accepted.len(), daemon.log());
            if *kind == Kind::Failing {
                continue;
            }
            let (status, written) = daemon.call(&format!("{function}/file?path=/tmp/{id}")).await;
            if ended == "cancelled" {
                assert_eq!(status, StatusCode::NOT_FOUND, "{id} was cancelled, and made");
                continue;
            }
            assert_eq!(status, StatusCode::OK, "{id} of {} was lost: {}", accepted.len(), daemon.log());
            assert!(written == body(id), "{id} was made with another body");
            if *kind == Kind::Told {
                let (status, told) = daemon.call(&format!("hello/file?path=/tmp/told-{id}")).await;
                assert_eq!((status, told.as_str()), (StatusCode::OK, "written\n"), "{id} was not told of");
            }
        }
        let count = |kind: Kind| accepted.iter().filter(|(other, _)| *other == kind).count();
        for kind in KINDS {
            assert!(count(kind) > rounds as usize / 2, "hardly any {kind:?} was queued");
        }
        println!(
            "{} calls accepted, {} of them told of, {} given up, {} cancelled: none lost, none changed",
            accepted.len(),
            count(Kind::Told),
            count(Kind::Failing),
            cancelled.len(),
        );
        let purged = daemon.api(Method::DELETE, "/system/dead").send().await.expect("an answer");
        let purged: Value = purged.json().await.expect("JSON");
        // Some were accepted that nobody was told of any more.
        let purged = purged["count"].as_u64().expect("a count");
        assert!(purged >= count(Kind::Failing) as u64, "{purged} given up");
        assert_eq!(left(&daemon).await.1, 0, "files are left of calls that are gone");
        daemon.remove("hello").await;
        daemon.remove("held").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn a_queued_call_can_be_followed_to_its_answer() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        let send = async |id: &str, path: &str, body: String| {
            let url = daemon.url(&format!("/async-function/hello{path}"));
            let call = daemon.client.post(url).header("X-Call-Id", id).header("X-Keep-Result", "1h");
            let answer = call.body(body).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::ACCEPTED, "{}", answer.text().await.unwrap_or_default());
        };
        let status = async |id: &str| {
            let shown =
                daemon.api(Method::GET, &format!("/system/calls/{id}")).send().await.expect("an answer");
            shown.json::<Value>().await.expect("JSON")["status"].as_str().expect("a status").to_owned()
        };
        for (id, size) in [("short", 10), ("long", 300_000)] {
            let body = "x".repeat(size);
            send(id, "/echo", body.clone()).await;
            eventually!(status(id).await == "done", "{id} is {}", status(id).await);
            let path = format!("/system/calls/{id}/answer");
            let answer = daemon.api(Method::GET, &path).send().await.expect("an answer");
            assert_eq!(answer.headers()["x-function-status"], "200");
            assert!(answer.text().await.expect("text") == body);
            let output = ingle(&daemon, &["calls", "answer", id]).await;
            assert!(output.status.success() && output.stdout == body.as_bytes(), "{output:?}");
        }
        send("slow", "/hang", String::new()).await;
        eventually!(status("slow").await == "running", "slow is {}", status("slow").await);
        let output = ingle(&daemon, &["calls", "cancel", "slow"]).await;
        assert!(output.status.success(), "{output:?}");
        let output = ingle(&daemon, &["calls", "show", "slow"]).await;
        assert!(String::from_utf8_lossy(&output.stdout).contains("cancelled"), "{output:?}");
        let output = ingle(&daemon, &["calls", "list", "--status", "done"]).await;
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(listed.contains("short") && listed.contains("long") && !listed.contains("slow"), "{listed}");
        let output = ingle(&daemon, &["calls", "cancel", "long"]).await;
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("call long has ended: it is done"),
            "{output:?}"
        );
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}
