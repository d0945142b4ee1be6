//! Many queued calls, of all kinds: when they have been made, nothing has grown.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::support::daemon::{Daemon, in_own_network};
use crate::support::long::{VARIABLE, long};

/// Calls in the short form, which `tests/run` runs.
const CALLS: u32 = 6000;
/// Clients that queue them.
const CLIENTS: u32 = 16;
/// Memory that may come and go: caches, buffers, and what the allocator holds on to.
const MEMORY: u64 = 12 << 20;
/// Bytes of the store that may come and go: what is deleted of a log is taken away in parts.
const DISK: u64 = 24 << 20;
/// Descriptors that may come and go: connections to a replica are kept for a moment.
const DESCRIPTORS: usize = 32;

/// What a daemon holds.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    /// Resident memory in bytes.
    memory: u64,
    descriptors: usize,
    /// Bytes under its state directory.
    disk: u64,
    files: usize,
}

impl Holdings {
    fn of(daemon: &Daemon) -> Self {
        let process = Path::new("/proc").join(daemon.pid().expect("it runs").to_string());
        let status = std::fs::read_to_string(process.join("status")).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
        let (mut disk, mut files) = (0, 0);
        tally(&daemon.state_dir(), &mut disk, &mut files);
        Self {
            memory: kilobytes << 10,
            descriptors: std::fs::read_dir(process.join("fd")).expect("it runs").count(),
            disk,
            files,
        }
    }
}

/// Adds up what is under a directory. Files may go meanwhile.
fn tally(directory: &Path, disk: &mut u64, files: &mut usize) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => tally(&entry.path(), disk, files),
            Ok(found) => {
                *disk += found.len();
                *files += 1;
            }
            Err(_) => {}
        }
    }
}

/// Queues calls until `next` has given out all numbers.
async fn client(daemon: &Daemon, next: &Mutex<std::ops::Range<u32>>) {
    loop {
        let Some(number) = next.lock().await.next() else { return };
        let path = if number % 50 == 0 { "status/404" } else { "echo" };
        let body = "x".repeat(if number % 10 == 0 { 6000 } else { 200 });
        loop {
            let mut call = daemon.client.post(daemon.url(&format!("/async-function/hello/{path}")));
            if number % 20 == 0 {
                call = call.header("X-Keep-Result", "1h");
            }
            if number % 40 == 0 {
                call = call.header("X-Callback-Url", "http://gateway:8080/function/hello/echo");
            }
            let answer = call.body(body.clone()).send().await.expect("it runs");
            match answer.status() {
                StatusCode::ACCEPTED => break,
                // The function is slower than the clients: that is what a full queue is for.
                StatusCode::TOO_MANY_REQUESTS => tokio::time::sleep(Duration::from_millis(100)).await,
                status => panic!("{status}: {}", answer.text().await.unwrap_or_default()),
            }
        }
    }
}

/// Queues so many calls and waits until they and their callbacks have been made.
async fn made(daemon: &Daemon, numbers: std::ops::Range<u32>) {
    let next = Mutex::new(numbers);
    futures_util::future::join_all((0..CLIENTS).map(|_| client(daemon, &next))).await;
    let is_empty = |queue: &Value| ["ready", "waiting", "running"].iter().all(|state| queue[state] == 0);
    eventually!(
        within 3600,
        {
            let queues = daemon.api(Method::GET, "/system/queues").send().await.expect("an answer");
            let queues: Vec<Value> = queues.json().await.expect("JSON");
            queues.iter().all(is_empty)
        },
        "calls are left"
    );
}

#[test]
fn nothing_grows_with_the_calls_that_were_queued() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let calls = long().map_or(CALLS, |long| long.rounds.max(3));
        println!("{calls} calls: {VARIABLE}={calls}");
        let limits =
            "max_calls = 20000\nmax_records = 1000\nmax_results_size = \"1Mi\"\nretry_attempts = 1\n";
        let daemon = Daemon::start(&format!("[queue]\n{limits}")).await;
        daemon.ready("hello", json!({})).await;
        let started = Instant::now();
        let mut third = None;
        for part in 0..3 {
            made(&daemon, part * calls / 3..(part + 1) * calls / 3).await;
            let holds = Holdings::of(&daemon);
            println!(
                "after {} calls, {:.0} s: {holds:?}",
                (part + 1) * calls / 3,
                started.elapsed().as_secs_f64()
            );
            third.get_or_insert(holds);
        }
        let third = third.expect("there were calls");
        // What is thrown away in parts may take a moment.
        eventually!(
            within 90,
            {
                let end = Holdings::of(&daemon);
                end.memory <= third.memory + MEMORY
                    && end.disk <= third.disk + DISK
                    && end.descriptors <= third.descriptors + DESCRIPTORS
                    // The answers of a thousand records, and the store's own.
                    && end.files <= third.files.max(150) + 20
            },
            "after a third {third:?}, at the end {:?}",
            Holdings::of(&daemon)
        );
        // And all of them were made.
        let metrics = daemon.client.get(daemon.url("/metrics")).send().await.expect("metrics");
        let metrics = metrics.text().await.expect("text");
        for (name, value) in [
            ("queue_worker_messages_submitted_total", calls),
            ("queue_worker_messages_processed_total", calls),
            ("queue_worker_pending_messages", 0),
            ("ingle_queue_given_up_total", 0),
            ("ingle_queue_callbacks_total", calls.div_ceil(40)),
            ("ingle_queue_callbacks_given_up_total", 0),
            ("ingle_queue_dead_calls", 0),
        ] {
            assert!(
                metrics.lines().any(|line| line == format!("{name} {value}")),
                "{name} {value}: {metrics}"
            );
        }
        let listed = daemon.api(Method::GET, "/system/calls?limit=1000").send().await.expect("an answer");
        assert!(listed.json::<Vec<Value>>().await.expect("JSON").len() >= 1000.min(calls as usize));
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}
