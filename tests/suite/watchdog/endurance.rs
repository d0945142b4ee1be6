//! Many requests, of which many go wrong, in one process: nothing of them stays.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use reqwest::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Watchdog;
use crate::support::long::{self, Chance};

/// Requests of the short form. The full one is `INGLE_TESTS_LONG=1000000`.
const REQUESTS: u32 = 3000;
/// Clients at the same time.
const CLIENTS: u32 = 8;
/// KiB that the watchdog may have grown by: what the allocator keeps differs from run to run.
const GROWTH: u64 = 1024;

/// What a command does, by the header X-Fault.
const SCRIPT: &str = r#"
case $Http_X_Fault in
    exit) exit 3 ;;
    kill) kill -9 $$ ;;
    part) printf part; kill -9 $$ ;;
    deaf) exec <&-; printf deaf ;;
    orphan) sleep 0.3 & printf orphan ;;
    large) head -c 300000 /dev/zero ;;
    noisy) head -c 70000 /dev/zero >&2; printf noisy ;;
    late) trap '' TERM; sleep 9 ;;
    *) cat ;;
esac
"#;

/// What can happen, and how often of 1000 requests; the rest is as it should be.
const FAULTS: [(&str, u64); 9] = [
    ("exit", 60),
    ("kill", 60),
    ("part", 60),
    ("deaf", 60),
    ("orphan", 30),
    ("large", 30),
    ("noisy", 5),
    ("late", 2),
    ("hang-up", 60),
];

fn choose(chance: &mut Chance) -> &'static str {
    let mut left = chance.below(1000);
    for (name, share) in FAULTS {
        if left < share {
            return name;
        }
        left -= share;
    }
    ""
}

/// Sends a part of a request, and leaves.
async fn hang_up(address: SocketAddr, long_body: bool) {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let length = if long_body { 100_000 } else { 4 };
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nhalf");
    stream.write_all(head.as_bytes()).await.expect("sent");
}

async fn request(watchdog: &Watchdog, fault: &str, body: String) {
    let sent =
        watchdog.client.post(watchdog.url("/")).header("X-Fault", fault).body(body.clone()).send().await;
    let answer = sent.unwrap_or_else(|error| panic!("{fault}: {error:?}"));
    let status = answer.status();
    let read = answer.text().await;
    let text = read.as_deref().unwrap_or_default();
    match fault {
        "exit" | "kill" => assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{fault}: {text}"),
        // The status is out before the command dies; what follows must not look whole.
        "part" => assert!(status == StatusCode::INTERNAL_SERVER_ERROR || read.is_err(), "{status} {text}"),
        "deaf" | "orphan" | "noisy" => assert_eq!((status, text), (StatusCode::OK, fault)),
        "large" => assert_eq!((status, text.len()), (StatusCode::OK, 300_000)),
        "late" => assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}"),
        _ => assert_eq!((status, text), (StatusCode::OK, body.as_str())),
    }
}

/// Processes below this one, and those that it would have to reap.
fn children(of: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{of}/task")).expect("it runs");
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.map(|list| list.split_whitespace().count()).sum()
}

fn open_files(of: u32) -> u32 {
    let count = fs::read_dir(format!("/proc/{of}/fd")).expect("it runs").count();
    u32::try_from(count).expect("few")
}

/// KiB.
fn resident(of: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{of}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_of_requests_that_went_wrong() {
    let asked = long::long();
    let requests = asked.map_or(REQUESTS, |long| long.rounds.max(REQUESTS));
    let seed = asked.and_then(|long| long.seed).unwrap_or_else(Chance::any_seed);
    eprintln!("{requests} requests with seed {seed}");
    let variables = [("exec_timeout", "2s"), ("prefix_logs", "true"), ("write_timeout", "20s")];
    let watchdog = Arc::new(Watchdog::script(SCRIPT, &variables).await);
    let process = watchdog.process.id();
    let settled = async |what: &str| {
        eventually!(within 15, children(process) == 0, "{what}: {} processes are left", children(process));
        watchdog.client.get(watchdog.url("/_/health")).send().await.expect("an answer");
    };
    let mut before = (0, 0);
    // What is kept for later is there after a part of them; from then on nothing may be added.
    for (part, share) in [("warm", requests / 3), ("all", requests - requests / 3)] {
        let done = Arc::new(AtomicU32::new(0));
        let clients = (0..CLIENTS).map(|client| {
            let (watchdog, done) = (watchdog.clone(), done.clone());
            let mut chance = Chance::new(seed ^ (u64::from(client) << 32) ^ u64::from(share));
            tokio::spawn(async move {
                while done.fetch_add(1, Relaxed) < share {
                    match choose(&mut chance) {
                        "hang-up" => hang_up(watchdog.address, chance.below(2) == 0).await,
                        fault => request(&watchdog, fault, format!("body {}", chance.below(1 << 40))).await,
                    }
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("no client failed");
        }
        settled(part).await;
        let found = (open_files(process), resident(process));
        eprintln!("{part}: {} files, {} KiB", found.0, found.1);
        if part == "warm" {
            before = found;
            // The log is read by nobody: it need not be kept.
            fs::write(watchdog.path("log"), "").expect("emptied");
        } else {
            // Connections that clients keep come and go.
            assert!(found.0 <= before.0 + CLIENTS, "{} files, before {}", found.0, before.0);
            assert!(found.1 <= before.1 + GROWTH, "{} KiB, before {}", found.1, before.1);
        }
    }
}
