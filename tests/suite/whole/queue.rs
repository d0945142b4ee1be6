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

/// Calls of one function that are made at the same time, unless it is set up otherwise.
const PLACES: usize = 10;
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
            // At its end: who is called twice has it twice.
            Kind::Plain | Kind::Told => format!("/async-function/hello/file?append=true&path=/tmp/{id}"),
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
            .args(["--follow-forks", "--decode-fds=path", "--string-limit=4096"])
            .arg("--trace=recvfrom,sendto,pwrite64,fdatasync,fsync")
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
            let call = daemon.client.post(url).header("X-Call-Id", "traced").body("x".repeat(length));
            assert_eq!(call.send().await.expect("an answer").status(), StatusCode::ACCEPTED);
            let place = |lines: &[String], text: &str| lines.iter().position(|line| line.contains(text));
            eventually!(place(&trace.lines(), "HTTP/1.1 202").is_some(), "{:#?}", trace.lines());
            let lines = trace.lines();
            let begin = place(&lines, "POST /async-function").expect("the request was read");
            let end = place(&lines, "HTTP/1.1 202").expect("it was answered");
            assert!(begin < end, "{lines:#?}");
            // Its row in the store's file, and then that file.
            let after = |from: usize, is_it: &dyn Fn(&str) -> bool| {
                from + lines[from..end].iter().position(|line| is_it(line)).unwrap_or_else(|| {
                    panic!(
                        "{length} bytes were accepted before they were on disk: {:#?}",
                        &lines[begin..=end]
                    )
                })
            };
            let is_store = |line: &str| line.contains("/db/db>");
            let row = after(begin, &|line| {
                line.contains(" pwrite64(") && is_store(line) && line.contains("traced")
            });
            let sync = after(row, &|line| line.contains(" fdatasync(") && is_store(line));
            after(sync, &|line| line.contains("fdatasync") && line.contains("= 0"));
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

/// After one sync that failed nobody knows what is on the disk, so nothing is promised any more until the store was
/// opened anew.
#[test]
fn nothing_is_accepted_after_a_sync_that_failed_until_the_store_is_open_again_and_nothing_is_lost() {
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
            assert!(text.contains("opened anew"), "{text}");
        };
        refused(send(&daemon, "failed").await);
        // As long as the disk is not well, and whatever is asked for.
        refused(send(&daemon, "meanwhile").await);
        refused(change(&daemon, Method::PUT, queues, json!({ "paused": false })).await);
        let health = daemon.client.get(daemon.url("/healthz")).send().await.expect("an answer");
        assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(daemon.call("hello/status/200").await.0, StatusCode::OK, "functions run on");
        drop(trace);
        // The disk is well again: nobody need do anything.
        daemon.serves().await;
        assert_eq!(send(&daemon, "after").await, (StatusCode::ACCEPTED, String::new()));
        for id in ["failed", "meanwhile"] {
            let path = format!("/system/calls/{id}");
            let call = async || change(&daemon, Method::GET, &path, json!(null)).await.0;
            eventually!(call().await == StatusCode::NOT_FOUND, "{id} was refused: {}", daemon.log());
        }
        daemon.end(Signal::SIGKILL);
        daemon.resume().await;
        let (status, text) = change(&daemon, Method::PUT, queues, json!({ "paused": false })).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        for id in ["before-1", "before-20", "after"] {
            let path = format!("hello/file?path=/tmp/{id}");
            eventually!(daemon.call(&path).await == (StatusCode::OK, body(id)), "{}", daemon.log());
        }
        // That whose sync failed may be found by the next start, if the daemon is killed before it is taken back.
        let (status, text) = daemon.call("hello/file?path=/tmp/meanwhile").await;
        assert_ne!(status, StatusCode::OK, "it was refused, and is made: {text}");
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
        let written = async |daemon: &Daemon, id: &str| {
            let (status, text) = daemon.call(&format!("hello/file?path=/tmp/{id}")).await;
            if status == StatusCode::OK { text.len() / body(id).len() } else { 0 }
        };
        // How often those were called that had ended: they are called no more, whatever comes.
        let (mut ended, mut looked_at): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
        for round in 0..rounds {
            let accepted = acknowledged.lock().expect("no panic").accepted.clone();
            for (_, id) in
                accepted[looked_at..].iter().filter(|(kind, _)| matches!(kind, Kind::Plain | Kind::Told))
            {
                let shown =
                    daemon.api(Method::GET, &format!("/system/calls/{id}")).send().await.expect("an answer");
                if shown.json::<Value>().await.expect("JSON")["status"] == "done" {
                    ended.push((id.clone(), written(&daemon, id).await));
                }
            }
            looked_at = accepted.len();
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
            // Also while it starts.
            for _ in 0..chance.below(3) {
                daemon.spawn();
                tokio::time::sleep(Duration::from_millis(chance.below(150))).await;
                daemon.end(Signal::SIGKILL);
            }
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
        // Those that were being made when the daemon was killed.
        let mut again = 0;
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
            let (status, found) = daemon.call(&format!("{function}/file?path=/tmp/{id}")).await;
            if ended == "cancelled" {
                assert_eq!(status, StatusCode::NOT_FOUND, "{id} was cancelled, and made");
                continue;
            }
            assert_eq!(status, StatusCode::OK, "{id} of {} was lost: {}", accepted.len(), daemon.log());
            let times = found.len() / body(id).len();
            assert!(times > 0 && found == body(id).repeat(times), "{id} was made with another body");
            again += times - 1;
            if *kind == Kind::Told {
                let (status, told) = daemon.call(&format!("hello/file?path=/tmp/told-{id}")).await;
                assert_eq!((status, told.as_str()), (StatusCode::OK, "written\n"), "{id} was not told of");
            }
        }
        for (id, times) in &ended {
            assert_eq!(written(&daemon, id).await, *times, "{id} had ended, and was called again");
        }
        assert!(ended.len() > rounds as usize / 2, "hardly any had ended before a kill");
        assert!(again <= rounds as usize * PLACES, "{again} calls too many in {rounds} rounds");
        let count = |kind: Kind| accepted.iter().filter(|(other, _)| *other == kind).count();
        for kind in KINDS {
            assert!(count(kind) > rounds as usize / 2, "hardly any {kind:?} was queued");
        }
        println!(
            "{} calls accepted, {} of them told of, {} given up, {} cancelled: none lost, none changed, {again} made \
             again that were being made, none of {} that had ended",
            accepted.len(),
            count(Kind::Told),
            count(Kind::Failing),
            cancelled.len(),
            ended.len(),
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

/// The lines of a command's table, by columns.
async fn table(daemon: &Daemon, arguments: &[&str]) -> Vec<Vec<String>> {
    let output = ingle(daemon, arguments).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn calls_that_were_given_up_are_looked_after_by_command_and_counted() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        let once = json!({ "com.openfaas.retry.attempts": "2", "com.openfaas.retry.min_wait": "10ms" });
        daemon.ready("hello", json!({ "annotations": once })).await;
        let send = async |id: &str, path: &str| {
            let url = daemon.url(&format!("/async-function/hello{path}"));
            let answer = daemon.client.post(url).header("X-Call-Id", id).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
        };
        let said = async |arguments: &[&str], words: &str| {
            let output = ingle(&daemon, arguments).await;
            let text = [output.stdout.as_slice(), &output.stderr].concat();
            let text = String::from_utf8(text).expect("text");
            assert!(text.contains(words), "{arguments:?} says {text}");
        };
        let queue = async || table(&daemon, &["queue", "list"]).await;
        let dead = async || table(&daemon, &["queue", "dead"]).await;

        said(&["queue", "pause", "default"], "queue default is paused: calls are accepted and kept\n").await;
        send("waits", "/echo").await;
        assert_eq!(queue().await, [["default", "paused", "1", "0", "0"]]);
        said(&["queue", "resume", "default"], "queue default goes on\n").await;
        eventually!(queue().await == [["default", "active", "0", "0", "0"]], "{:?}", queue().await);

        for id in ["one", "two", "three"] {
            send(id, "/status/500").await;
            eventually!(dead().await.first().is_some_and(|first| first[1] == id), "{:?}", dead().await);
        }
        assert_eq!(dead().await.len(), 3);
        let newest = dead().await[0][0].clone();
        said(&["queue", "show", &newest], "the function answered 500").await;
        said(&["queue", "show", &newest], "three").await;
        said(&["queue", "replay", &newest], "was queued again").await;
        let replayed = async || dead().await.iter().all(|call| call[0] != newest) && dead().await.len() == 3;
        eventually!(replayed().await, "{:?}", dead().await);
        let oldest = dead().await[2][0].clone();
        said(&["queue", "purge", &oldest], "was thrown away").await;
        said(&["queue", "purge", &oldest], "no call").await;
        assert_eq!(dead().await.len(), 2);
        said(&["queue", "replay", "--all", "--function", "hello"], "2 calls were queued again").await;
        eventually!(dead().await.len() == 2, "{:?}", dead().await);
        said(&["queue", "purge", "--all"], "2 calls were thrown away").await;
        assert!(dead().await.is_empty());
        // What is not meant as it stands there changes nothing, and says what is meant.
        said(&["queue", "purge"], "<NUMBER|--all>").await;
        said(&["queue", "replay", "one"], "'ingle queue dead' lists").await;

        let metrics = daemon.client.get(daemon.url("/metrics")).send().await.expect("metrics");
        let metrics = metrics.text().await.expect("text");
        for line in [
            // Four that were sent, and three that were queued again.
            "queue_worker_messages_submitted_total 7",
            "queue_worker_messages_processed_total 7",
            "queue_worker_pending_messages 0",
            // One of each that failed.
            "ingle_queue_retries_total 6",
            "ingle_queue_given_up_total 6",
            "ingle_queue_callbacks_total 0",
            "ingle_queue_callbacks_given_up_total 0",
            "ingle_queue_dead_calls 0",
            "ingle_queue_dead_bytes 0",
            "ingle_queue_oldest_call_seconds 0",
            "ingle_queue_calls{queue_name=\"default\",state=\"ready\"} 0",
            "ingle_queue_paused{queue_name=\"default\"} 0",
        ] {
            assert!(metrics.lines().any(|found| found == line), "no {line} in {metrics}");
        }
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}

/// A function that hangs has half of all places at most, and others are made meanwhile.
#[test]
fn a_slow_function_does_not_hold_up_others() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("[queue]\nparallel_calls = 4\n").await;
        for name in ["slow", "quick"] {
            daemon.ready(name, json!({})).await;
        }
        let send = async |id: &str, path: &str| {
            let url = daemon.url(&format!("/async-function/{path}"));
            let answer = daemon.client.post(url).header("X-Call-Id", id).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
        };
        let count = async |function: &str, status: &str| {
            table(&daemon, &["calls", "list", "--function", function, "--status", status]).await.len()
        };
        for number in 0..10 {
            send(&format!("slow-{number}"), "slow/hang").await;
        }
        eventually!(count("slow", "running").await == 2, "{} run", count("slow", "running").await);
        for number in 0..20 {
            send(&format!("quick-{number}"), "quick/echo").await;
        }
        eventually!(count("quick", "done").await == 20, "{} are done", count("quick", "done").await);
        assert_eq!((count("slow", "running").await, count("slow", "queued").await), (2, 8));
        // Those that wait first: who runs makes room for them.
        for number in (0..10).rev() {
            let output = ingle(&daemon, &["calls", "cancel", &format!("slow-{number}")]).await;
            assert!(output.status.success(), "{output:?}");
        }
        for name in ["slow", "quick"] {
            daemon.remove(name).await;
        }
        daemon.nothing_left().await;
    });
}

/// The largest body there may be, many times at once: written to the disk as it comes, and sent from there.
#[test]
fn long_bodies_are_not_held_in_memory() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        const LARGEST: usize = 10 << 20;
        const CALLS: usize = 16;
        let daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        // The most that it has had, in bytes.
        let peak = || {
            let pid = daemon.pid().expect("it runs");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
            line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
        };
        let send = async |id: String, size: usize| {
            let url = daemon.url("/async-function/hello/echo");
            let call = daemon.client.post(url).header("X-Call-Id", id).header("X-Keep-Result", "1h");
            call.body(vec![b'x'; size]).send().await.expect("an answer").status()
        };
        assert_eq!(send("over".to_owned(), LARGEST + 1).await, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(send("first".to_owned(), 10).await, StatusCode::ACCEPTED);
        let before = peak();
        let sent = (0..CALLS).map(|number| send(format!("long-{number}"), LARGEST));
        for status in futures_util::future::join_all(sent).await {
            assert_eq!(status, StatusCode::ACCEPTED);
        }
        let done = async || {
            let listed = table(&daemon, &["calls", "list", "--status", "done"]).await;
            listed.iter().filter(|call| call[0].starts_with("long-")).count()
        };
        eventually!(within 60, done().await == CALLS, "{} are done", done().await);
        let grown = peak() - before;
        assert!(grown < CALLS * LARGEST / 4, "{grown} bytes for {} that passed", CALLS * LARGEST);
        println!("{} bytes in and out, {grown} more in memory", CALLS * LARGEST);
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}
