//! Buffered bodies of large requests, and of many at once: memory and disk stay within their limits.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Watchdog;
use crate::support::TemporaryDirectory;

/// Size of a large upload in bytes, close to the gateway's default limit.
const LARGE: usize = 90 << 20;
/// Largest peak memory of a watchdog, in KiB.
const PEAK: u64 = 64 << 10;
/// A directory on disk.
const DISK: (&str, &str) = ("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
/// A process for `afterburn` that responds with the length and the digest of the body.
const AFTERBURN: &str = r#"
import hashlib, sys
requests, answers = sys.stdin.buffer, sys.stdout.buffer
while line := requests.readline():
    length = 0
    while (header := requests.readline()) not in (b"\r\n", b""):
        if header.lower().startswith(b"content-length:"):
            length = int(header.split(b":")[1])
    seen, digest = 0, hashlib.sha256()
    while seen < length:
        piece = requests.read(min(65536, length - seen))
        seen += len(piece)
        digest.update(piece)
    text = b"%d %s" % (seen, digest.hexdigest().encode())
    answers.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
    answers.flush()
"#;

/// Returns a watchdog for each mode that buffers bodies, with its response to a body of a given length.
async fn watchdogs(variables: &[(&str, &str)]) -> Vec<(&'static str, Watchdog, fn(usize) -> String)> {
    let with = |own: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> {
        own.iter().chain(variables).copied().collect()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let length = |body: axum::body::Body| async {
        let mut pieces = body.into_data_stream();
        let mut length = 0;
        while let Some(piece) = pieces.next().await {
            length += piece.expect("a piece").len();
        }
        length.to_string()
    };
    let router = axum::Router::new().fallback(length);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let buffers: Vec<_> = with(&[("mode", "http"), ("http_buffer_req_body", "true")])
        .into_iter()
        .chain([("upstream_url", &*url)])
        .collect();
    let directory = TemporaryDirectory::new();
    let handler = directory.path().join("handler.py");
    fs::write(&handler, AFTERBURN).expect("written");
    let command = format!("python3 {}", handler.display());
    let afterburn: Vec<_> =
        with(&[("mode", "afterburn")]).into_iter().chain([("fprocess", &*command)]).collect();
    let marshals = with(&[("mode", "classic"), ("marshal_request", "true"), ("cgi_headers", "false")]);
    vec![
        ("classic", Watchdog::command("wc -c", &with(&[("mode", "classic")])).await, |length| {
            format!("{length}\n")
        }),
        ("serializing", Watchdog::command("wc -c", &with(&[("mode", "serializing")])).await, |length| {
            format!("{length}\n")
        }),
        // The text around the base64 is shorter than the part that is cut off here.
        ("marshal_request", Watchdog::command("wc -c", &marshals).await, |length| {
            (length.div_ceil(3) * 4).to_string()
        }),
        ("afterburn", Watchdog::start(directory, &afterburn).await, |length| format!("{length} ")),
        ("http", Watchdog::command("sleep 600", &buffers).await, |length| length.to_string()),
    ]
}

/// Returns the peak memory of a watchdog, in KiB.
fn peak(watchdog: &Watchdog) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", watchdog.process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Counts the unnamed files that a watchdog holds in the directory of bodies.
fn files(watchdog: &Watchdog) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", watchdog.process.id())).expect("it runs");
    let links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with(DISK.1)).count()
}

/// Sends a body several times at once, and returns the count of each status and the texts of 200 responses.
async fn upload(watchdog: &Watchdog, times: usize, body: &Bytes) -> (BTreeMap<u16, usize>, Vec<String>) {
    let mut asked = JoinSet::new();
    for _ in 0..times {
        let request = watchdog.client.post(watchdog.url("/")).body(body.clone());
        asked.spawn(async move {
            let answer = request.send().await.expect("an answer");
            let (status, after) = (answer.status(), answer.headers().get("retry-after").cloned());
            assert_eq!(after.is_some(), status == StatusCode::SERVICE_UNAVAILABLE, "{status}");
            (status, answer.text().await.expect("text"))
        });
    }
    let (mut counts, mut texts) = (BTreeMap::new(), Vec::new());
    for (status, text) in asked.join_all().await {
        *counts.entry(status.as_u16()).or_default() += 1;
        if status == StatusCode::OK {
            texts.push(text);
        }
    }
    (counts, texts)
}

fn is_answer(mode: &str, text: &str, wanted: &str) -> bool {
    if mode != "marshal_request" {
        return text.starts_with(wanted);
    }
    let (found, wanted): (u64, u64) =
        (text.trim().parse().expect("a number"), wanted.parse().expect("a number"));
    (wanted..wanted + 1000).contains(&found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_uploads_are_answered_in_bounded_memory_in_every_mode() {
    require!("python3", "wc");
    let body = Bytes::from(vec![b'x'; LARGE]);
    for (mode, watchdog, answer) in watchdogs(&[DISK]).await {
        let (counts, texts) = upload(&watchdog, 3, &body).await;
        assert_eq!(counts, BTreeMap::from([(200, 3)]), "{mode}: {}", watchdog.log());
        for text in &texts {
            assert!(is_answer(mode, text, &answer(LARGE)), "{mode}: {text}");
        }
        assert!(peak(&watchdog) < PEAK, "{mode}: {} KiB", peak(&watchdog));
        eventually!(files(&watchdog) == 0, "{mode}: {} files are held", files(&watchdog));
    }
    // Bodies of actions are JSON, and never that large.
    let watchdog = Watchdog::command("wc -c", &[("mode", "openwhisk"), DISK]).await;
    let json = Bytes::from(format!("{{\"value\": \"{}\"}}", "x".repeat(LARGE)));
    assert_eq!(upload(&watchdog, 3, &json).await.0, BTreeMap::from([(413, 3)]));
    assert!(peak(&watchdog) < PEAK, "{} KiB", peak(&watchdog));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_without_room_get_503_with_retry_after() {
    require!("python3", "wc");
    let length = 30 << 20;
    let body = Bytes::from(vec![b'x'; length]);
    for (mode, watchdog, answer) in watchdogs(&[DISK, ("max_body_disk", "64Mi")]).await {
        let (counts, texts) = upload(&watchdog, 20, &body).await;
        assert!(texts.iter().all(|text| is_answer(mode, text, &answer(length))), "{mode}: {texts:?}");
        let [done, busy] = [200, 503].map(|status| counts.get(&status).copied().unwrap_or_default());
        assert!(done > 0 && busy > 0 && done + busy == 20, "{mode}: {counts:?}");
        assert!(peak(&watchdog) < PEAK, "{mode}: {} KiB", peak(&watchdog));
        // The room is free again.
        assert_eq!(upload(&watchdog, 1, &body).await.0, BTreeMap::from([(200, 1)]), "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_disk_bodies_are_held_in_memory_up_to_the_limit() {
    require!("python3", "wc");
    // A directory in memory does not count as disk, nor does one that is not writable.
    for place in [("TMPDIR", "/dev/shm"), ("TMPDIR", "/proc"), ("max_body_disk", "0")] {
        for (mode, watchdog, answer) in watchdogs(&[place, ("max_body_memory", "8Mi")]).await {
            for (length, wanted) in [(3 << 20, 200), (9 << 20, 413)] {
                let body = Bytes::from(vec![b'x'; length]);
                let (counts, texts) = upload(&watchdog, 1, &body).await;
                assert_eq!(counts, BTreeMap::from([(wanted, 1)]), "{mode}, {place:?}: {}", watchdog.log());
                assert!(texts.iter().all(|text| is_answer(mode, text, &answer(length))), "{mode}: {texts:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffered_body_arrives_unchanged_wherever_it_was_held() {
    let bytes = |length: usize| -> Vec<u8> {
        let digits = (0_u32..).flat_map(|number| number.to_be_bytes());
        digits.take(length).collect()
    };
    for mode in ["classic", "serializing"] {
        let watchdog = Watchdog::command("cat", &[("mode", mode), DISK]).await;
        for length in [49_151, 49_152, 49_153, 1 << 20, (1 << 20) + 1, 3_333_333] {
            let answer = watchdog.send(Method::POST, "/", bytes(length)).await;
            assert_eq!(answer.status(), StatusCode::OK, "{mode}: {length} bytes");
            assert!(answer.bytes().await.expect("whole") == bytes(length), "{mode}: {length} bytes");
            // A body without an announced length.
            let pieces = bytes(length)
                .chunks(10_000)
                .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
                .collect::<Vec<_>>();
            let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
            let answer = watchdog.send(Method::POST, "/", body).await;
            assert!(
                answer.bytes().await.expect("whole") == bytes(length),
                "{mode}: {length} bytes in chunks"
            );
        }
    }
    let watchdog =
        Watchdog::command("cat", &[("mode", "serializing"), ("marshal_request", "true"), DISK]).await;
    for length in [0, 1, 2, 3, 49_151, 49_152, 49_153, 3_333_333] {
        let answer = watchdog.send(Method::POST, "/", bytes(length)).await;
        let value: Value = answer.json().await.expect("JSON");
        let raw = value["body"]["raw"].as_str().expect("text");
        let decoded =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, raw).expect("base64");
        assert!(decoded == bytes(length), "{length} bytes in base64");
        assert_eq!(value["header"]["Host"][0], watchdog.address.to_string());
    }
}
