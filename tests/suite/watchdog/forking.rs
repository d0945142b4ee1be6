//! A process for each request.

use std::fs;
use std::time::{Duration, Instant};

use base64::Engine as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Watchdog, runs};
use crate::support::TemporaryDirectory;

/// Bytes of all values, in no order that a text would have.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn what_goes_in_comes_out_byte_by_byte() {
    for mode in ["streaming", "serializing", "classic"] {
        let watchdog = Watchdog::command("cat", &[("mode", mode)]).await;
        for length in [0, 1, 70_000, 5_000_000] {
            let body = bytes(length);
            let answer = watchdog.send(Method::POST, "/", body.clone()).await;
            assert_eq!(answer.status(), StatusCode::OK, "{mode}");
            assert!(answer.bytes().await.expect("whole") == body, "{mode}: {length} bytes");
        }
        // Of unknown length, piece by piece.
        let pieces = futures_util::stream::iter((0..50).map(|_| Ok::<_, std::io::Error>(bytes(3000))));
        let answer = watchdog.send(Method::PUT, "/", reqwest::Body::wrap_stream(pieces)).await;
        assert!(answer.bytes().await.expect("whole") == bytes(3000).repeat(50), "{mode}");
        eventually!(watchdog.log().contains("Wrote 150000 Bytes"), "{}", watchdog.log());
        assert!(watchdog.log().contains("Forking fprocess"));
    }
}

#[tokio::test]
async fn a_process_learns_of_its_request_by_variables() {
    let watchdog = Watchdog::command("env", &[("greeting", "hello")]).await;
    let request = watchdog.client.post(watchdog.url("/a%20b?x=1")).header("x-call-id", "7").body("abc");
    let text = request.send().await.expect("an answer").text().await.expect("text");
    let host = format!("Http_Host={}", watchdog.address);
    for line in ["greeting=hello", "Http_X_Call_Id=7", "Http_Path=/a b", "Http_Query=x=1", "Http_Method=POST"]
    {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    for line in ["Http_ContentLength=3", "Http_Content_Length=3", &host] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    let watchdog = Watchdog::command("env", &[("cgi_headers", "false")]).await;
    assert!(!watchdog.post("").await.1.contains("Http_"));
}

#[tokio::test]
async fn a_request_sets_no_variable_that_controls_programs() {
    require!("python3");
    let script = "import json, os, urllib.request\n\
                  print(json.dumps([urllib.request.getproxies(), sorted(os.environ)]))";
    let directory = TemporaryDirectory::new();
    fs::write(directory.path().join("env.py"), script).expect("written");
    let command = format!("python3 {}", directory.path().join("env.py").display());
    for mode in ["streaming", "serializing", "classic"] {
        let watchdog = Watchdog::command(&command, &[("mode", mode)]).await;
        let ask = async |names: &[&str]| {
            let request = watchdog.client.get(watchdog.url("/"));
            let request = names.iter().fold(request, |request, name| request.header(*name, "http://evil:1"));
            let answer = request.send().await.expect("an answer").text().await.expect("text");
            serde_json::from_str::<Value>(&answer).expect("JSON")
        };
        let plain = ask(&[]).await;
        assert_eq!(plain[0], json!({}), "{mode}");
        let names =
            ["Proxy", "X_Call_Id", "X.A", "BASH_FUNC_a%%", "A!", "A'B", "A`B", "A|B", "A$B", "A#B", "A&B"];
        assert_eq!(ask(&names).await, plain, "{mode}");
        assert_eq!(
            ask(&["LD-PRELOAD", "No-Proxy"]).await[0],
            json!({ "http_no": "http://evil:1" }),
            "{mode}"
        );
    }
}

#[tokio::test]
async fn a_request_that_exceeds_the_environment_is_refused() {
    for mode in ["streaming", "serializing", "classic"] {
        let watchdog = Watchdog::command("cat", &[("mode", mode)]).await;
        let large = "x".repeat(200_000);
        for (path, values) in [
            // One header longer than any variable can be, and many whose sum is too large.
            ("/".to_owned(), vec![large.clone()]),
            (format!("/{large}"), vec![]),
            (format!("/?{large}"), vec![]),
            ("/".to_owned(), vec!["x".repeat(9_000); 110]),
        ] {
            let mut head = format!("POST {path} HTTP/1.1\r\nHost: fn\r\nContent-Length: 1\r\n");
            for (number, value) in values.iter().enumerate() {
                head += &format!("X-Large-{number}: {value}\r\n");
            }
            let mut stream = TcpStream::connect(watchdog.address).await.expect("connected");
            stream.write_all(format!("{head}Connection: close\r\n\r\nx").as_bytes()).await.expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("text");
            // 110 of them fit if the limit of the stack is large.
            let wanted = if values.len() > 1 { ["431", "200"] } else { ["431", "431"] };
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(wanted.contains(&status), "{mode}: {answer}");
        }
        assert_eq!(watchdog.post("fine").await, (StatusCode::OK, "fine".into()), "{mode}");
    }
}

#[tokio::test]
async fn output_is_passed_on_as_it_comes_and_cut_when_the_process_fails() {
    let watchdog = Watchdog::script("echo first; read -r line; echo $line; exit $line", &[]).await;
    let mut stream = TcpStream::connect(watchdog.address).await.expect("connected");
    let head = b"POST / HTTP/1.1\r\nHost: fn\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    let mut text = String::new();
    let read = async |stream: &mut TcpStream, text: &mut String, wanted: &str| {
        while !text.contains(wanted) {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await.expect("read");
            assert!(count > 0, "no {wanted:?} in {text:?}");
            text.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    // Before it has got its input.
    read(&mut stream, &mut text, "first\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"), "{text}");
    stream.write_all(b"2\r\n3\n\r\n0\r\n\r\n").await.expect("sent");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("it is closed");
    let rest = String::from_utf8_lossy(&rest);
    assert!(
        rest.contains("3\n") && !rest.ends_with("0\r\n\r\n"),
        "an answer of a failure looks whole: {rest:?}"
    );
    eventually!(watchdog.log().contains("exit status 3"), "{}", watchdog.log());
}

/// Most commands end at once: then all is known before anything is sent.
#[tokio::test]
async fn a_process_that_ends_at_once_is_answered_whole() {
    let watchdog = Watchdog::command("cat", &[]).await;
    // As much as is given to it before it starts, and more, and more than a pipe holds.
    for length in [0, 1, 4096, 4097, 70_000, 1_000_000] {
        let body = "x".repeat(length);
        let answer = watchdog.send(Method::POST, "/", body.clone()).await;
        assert_eq!(answer.status(), StatusCode::OK, "{length}");
        assert!(answer.text().await.expect("text") == body, "{length} bytes came back otherwise");
    }
    eventually!(
        watchdog.log().contains("Wrote 1000000 Bytes"),
        "{}",
        watchdog.log().lines().rev().take(3).collect::<String>()
    );
    let mut whole = 0;
    for _ in 0..20 {
        let answer = watchdog.send(Method::POST, "/", "four").await;
        whole += usize::from(answer.content_length() == Some(4));
        assert_eq!(answer.text().await.expect("text"), "four");
    }
    // A busy machine may need longer for some.
    assert!(whole > 0, "none of 20 had its length: {}", watchdog.log());
}

#[tokio::test]
async fn a_process_that_fails_is_an_error_with_its_reason() {
    for mode in ["streaming", "serializing", "classic"] {
        let script = "case $Http_Path in /kill) kill -9 $$;; *) exit 3;; esac";
        let watchdog = Watchdog::script(script, &[("mode", mode)]).await;
        for (path, reason) in [("/", "exit status 3\n"), ("/kill", "signal: killed\n")] {
            let answer = watchdog.send(Method::GET, path, "").await;
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{mode}");
            assert_eq!(answer.headers()["x-openfaas-internal"], "faas-middleware");
            assert_eq!(answer.text().await.expect("text"), reason, "{mode}");
        }
    }
    // As the first watchdog has it; the log is not the caller's.
    let script = "cat; echo to stderr >&2; exit 3";
    let watchdog = Watchdog::script(script, &[("mode", "classic")]).await;
    let (status, text) = watchdog.post("secret\n").await;
    assert_eq!((status, &*text), (StatusCode::INTERNAL_SERVER_ERROR, "exit status 3\nsecret\nto stderr\n"));
    assert!(!watchdog.log().contains("secret"), "{}", watchdog.log());
    let watchdog = Watchdog::command("/no/such/command", &[]).await;
    let (status, text) = watchdog.post("x").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text.contains("could not be started") && text.contains("No such file"), "{text}");
}

/// What processes do that nobody expects: none of it holds anything up, and nothing is lost.
#[tokio::test]
async fn no_process_hangs_its_caller() {
    for mode in ["streaming", "serializing", "classic"] {
        let check = async |script: &str, body: Vec<u8>, wanted: &[u8]| {
            let watchdog = Watchdog::script(script, &[("mode", mode), ("combine_output", "false")]).await;
            let began = Instant::now();
            let answer = watchdog.send(Method::POST, "/", body).await;
            assert_eq!(answer.status(), StatusCode::OK, "{mode}: {script}");
            let found = answer.bytes().await.expect("whole");
            assert!(found == wanted, "{mode}: {script}: {} bytes", found.len());
            assert!(began.elapsed() < Duration::from_millis(2500), "{mode}: {script}: {:?}", began.elapsed());
        };
        // Writes nothing, and reads nothing of what is more than a pipe holds.
        check("exit 0", bytes(1_000_000), b"").await;
        // Closes its input early.
        check("exec <&-; sleep 0.1; echo done", bytes(1_000_000), b"done\n").await;
        // Writes before it reads, more than a pipe holds.
        check("head -c 200000 /dev/zero; cat >/dev/null", bytes(200_000), &vec![0; 200_000]).await;
        // Leaves somebody behind who holds its output open.
        check("sleep 3 & echo done", Vec::new(), b"done\n").await;
        // Fills the pipe of its errors, in lines without an end.
        check("head -c 3000000 /dev/zero >&2; echo done", Vec::new(), b"done\n").await;
        // Closes its output, and goes on for a while.
        check("echo done; exec >&- 2>&-; sleep 0.2", Vec::new(), b"done\n").await;
    }
}

#[tokio::test]
async fn at_the_limit_the_whole_group_dies() {
    let script =
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > grandchild; sleep 60' & echo $$ > child; sleep 60";
    for (mode, status, text) in [
        ("classic", StatusCode::REQUEST_TIMEOUT, "Killed process.\n"),
        (
            "serializing",
            StatusCode::GATEWAY_TIMEOUT,
            "the process was killed: it did not end within exec_timeout\n",
        ),
        (
            "streaming",
            StatusCode::GATEWAY_TIMEOUT,
            "the process was killed: it did not end within exec_timeout\n",
        ),
    ] {
        let watchdog = Watchdog::script(script, &[("mode", mode), ("exec_timeout", "500ms")]).await;
        let began = Instant::now();
        assert_eq!(watchdog.post("").await, (status, text.to_owned()), "{mode}");
        assert!(began.elapsed() < Duration::from_secs(5), "{mode}: {:?}", began.elapsed());
        for name in ["child", "grandchild"] {
            let path = watchdog.path(name);
            assert!(path.exists(), "{mode}: it did not come so far");
            eventually!(!runs(&path), "{mode}: its {name} runs on");
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_process_with_it_once_it_writes() {
    let script = "echo $$ > child; while echo more; do sleep 0.02; done";
    let watchdog = Watchdog::script(script, &[]).await;
    let mut stream = TcpStream::connect(watchdog.address).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: fn\r\n\r\n").await.expect("sent");
    assert!(stream.read(&mut [0; 1024]).await.expect("read") > 0);
    drop(stream);
    eventually!(!runs(&watchdog.path("child")), "it runs on");
}

#[tokio::test]
async fn the_first_watchdogs_ways_are_kept() {
    let script = "echo out; echo err >&2; echo out again";
    let watchdog = Watchdog::script(script, &[("write_debug", "false")]).await;
    let answer = watchdog.send(Method::POST, "/", "").await;
    assert_eq!(answer.headers()["content-type"], "text/plain");
    assert!(answer.headers().contains_key("x-duration-seconds"));
    assert_eq!(answer.headers()["content-length"], "18");
    assert_eq!(answer.text().await.expect("text"), "out\nerr\nout again\n", "in its order");

    let watchdog = Watchdog::script(script, &[("combine_output", "false"), ("log_callid", "true")]).await;
    let request =
        watchdog.client.post(watchdog.url("/")).header("X-Call-Id", "id-7").header("Content-Type", "a/b");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "a/b", "the request's");
    assert_eq!(answer.text().await.expect("text"), "out\nout again\n");
    eventually!(watchdog.log().contains("stderr: err [id-7]"), "{}", watchdog.log());

    let watchdog = Watchdog::command("cat", &[("marshal_request", "true"), ("content_type", "c/d")]).await;
    let request = watchdog.client.post(watchdog.url("/")).header("x-a", "1").header("x-a", "2").body("body");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "c/d");
    let value: Value = answer.json().await.expect("JSON");
    assert_eq!(value["header"]["X-A"], json!(["1", "2"]));
    let raw = base64::engine::general_purpose::STANDARD.encode("body");
    assert_eq!(value["body"]["raw"], raw);
}

#[tokio::test]
async fn long_lines_are_cut_and_nothing_stops() {
    let script = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2";
    let watchdog = Watchdog::script(script, &[("log_buffer_size", "30000")]).await;
    assert_eq!(watchdog.post("").await.0, StatusCode::OK);
    eventually!(watchdog.log().contains("stderr: last"), "{}", watchdog.log());
    let log = watchdog.log();
    let lengths: Vec<usize> =
        log.lines().filter_map(|line| line.split_once("stderr: x")).map(|(_, rest)| rest.len() + 1).collect();
    assert_eq!(lengths, [30_000, 30_000, 30_000, 10_000]);
    // Without a prefix, what a process writes is passed on as it is.
    let watchdog = Watchdog::script("printf 'a\\n\\nb' >&2", &[("prefix_logs", "false")]).await;
    assert_eq!(watchdog.post("").await.0, StatusCode::OK);
    eventually!(watchdog.log().contains("\na\n\nb"), "{}", watchdog.log());
}

#[tokio::test]
async fn one_that_is_left_behind_and_writes_for_ever_holds_nothing_up() {
    for script in ["yes & echo $! >left; echo done", "yes >&2 & echo $! >left; echo done"] {
        let watchdog = Watchdog::script(script, &[("mode", "serializing")]).await;
        let answered = tokio::time::timeout(Duration::from_secs(10), watchdog.post("")).await;
        // Before the next: it may go on after the watchdog has gone. Or it has ended already, as nobody reads it.
        let left = fs::read_to_string(watchdog.path("left")).expect("it was started");
        let _ = kill(Pid::from_raw(left.trim().parse().expect("a number")), Signal::SIGKILL);
        let (status, text) = answered.unwrap_or_else(|_| panic!("{script}: it hangs"));
        assert_eq!(status, StatusCode::OK, "{script}");
        assert!(text.contains("done"), "{script}");
    }
}

#[tokio::test]
async fn what_a_killed_process_said_last_is_logged_and_counted() {
    let watchdog =
        Watchdog::script("printf 'waiting for the database' >&2; sleep 9", &[("exec_timeout", "300ms")])
            .await;
    assert_eq!(watchdog.post("").await.0, StatusCode::GATEWAY_TIMEOUT);
    eventually!(watchdog.log().contains("stderr: waiting for the database"), "{}", watchdog.log());
    // The other limit is counted, too.
    let watchdog = Watchdog::script("sleep 9", &[("write_timeout", "300ms")]).await;
    assert_eq!(watchdog.post("").await.0, StatusCode::GATEWAY_TIMEOUT);
    watchdog.counted(&["http_requests_total{code=\"504\",method=\"POST\"} 1"]).await;
}
