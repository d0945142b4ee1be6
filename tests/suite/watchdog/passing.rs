//! Requests that are passed on to a server, and files that are sent.

use std::fs;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Watchdog, free_address};
use crate::support::TemporaryDirectory;

/// Answers each connection by hand: what it reads, up to the end of a head, and what it then says.
async fn answer_by_hand(listener: TcpListener, answer: impl Fn(&str) -> String) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut seen = String::new();
        loop {
            let mut piece = [0; 4096];
            let Ok(count @ 1..) = stream.read(&mut piece).await else { break };
            seen.push_str(&String::from_utf8_lossy(&piece[..count]));
            if seen.contains("\r\n\r\n") {
                let answer = answer(&seen);
                if stream.write_all(answer.as_bytes()).await.is_err() || answer.contains("close") {
                    break;
                }
                seen.clear();
            }
        }
    }
}

/// A watchdog in front of such a server, with a process that only waits.
async fn in_front_of(
    variables: &[(&str, &str)],
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Watchdog {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(answer_by_hand(listener, answer));
    let all: Vec<_> =
        [("mode", "http"), ("upstream_url", url.as_str())].iter().chain(variables).copied().collect();
    Watchdog::command("sleep 60", &all).await
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn requests_and_answers_are_passed_on_without_what_was_for_the_connection() {
    let watchdog = in_front_of(&[], |seen| {
        let head = seen.to_owned();
        let length = head.len();
        format!(
            "HTTP/1.1 201 Made\r\nX-Own: 1\r\nKeep-Alive: 5\r\nConnection: X-Mine\r\nX-Mine: 2\r\nSet-Cookie: a\r\n\
             Set-Cookie: b\r\nContent-Length: {length}\r\n\r\n{head}"
        )
    })
    .await;
    let request = watchdog.client.request(Method::DELETE, watchdog.url("/a%20b/../c?x=1"));
    let request = request.header("X-Call-Id", "7").header("TE", "gzip").header("Connection", "close");
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::CREATED);
    let headers = answer.headers();
    assert_eq!(headers["x-own"], "1");
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    assert!(headers.contains_key("x-duration-seconds"));
    assert!(!headers.contains_key("keep-alive") && !headers.contains_key("x-mine"), "{headers:?}");
    let seen = answer.text().await.expect("text");
    assert!(seen.starts_with("DELETE /c?x=1 HTTP/1.1\r\n"), "{seen}");
    let lower = seen.to_ascii_lowercase();
    assert!(lower.contains(&format!("host: {}\r\n", watchdog.address)), "{seen}");
    assert!(
        lower.contains("x-call-id: 7\r\n") && !lower.contains("te: ") && !lower.contains("connection:"),
        "{seen}"
    );
}

#[tokio::test]
async fn bodies_pass_in_both_directions_and_connections_are_kept() {
    // What a client library would do, so that both sides are real.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let served = axum::Router::new().fallback(|body: axum::body::Body| async { body });
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        let service = hyper_util::service::TowerToHyperService::new(served);
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service.clone());
            tokio::spawn(serving);
        }
    });
    for buffers in ["false", "true"] {
        let url = format!("http://{address}/");
        let variables = [("mode", "http"), ("http_upstream_url", url.as_str()), ("buffer_http", buffers)];
        let watchdog = Watchdog::command("sleep 60", &variables).await;
        let before = connections.load(std::sync::atomic::Ordering::Relaxed);
        for length in [0, 1, 100_000, 3_000_000] {
            let body = vec![b'x'; length];
            let answer = watchdog.send(Method::POST, "/", body.clone()).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert!(answer.bytes().await.expect("whole") == body, "{length} bytes");
        }
        let pieces = futures_util::stream::iter((0..50).map(|_| Ok::<_, std::io::Error>(vec![b'y'; 3000])));
        let answer = watchdog.send(Method::PUT, "/", reqwest::Body::wrap_stream(pieces)).await;
        assert!(answer.bytes().await.expect("whole") == vec![b'y'; 150_000]);
        let made = connections.load(std::sync::atomic::Ordering::Relaxed) - before;
        assert!(made <= 2, "{made} connections for five requests");
    }
}

#[tokio::test]
async fn a_server_that_starts_slowly_is_waited_for() {
    let address = free_address();
    let url = format!("http://{address}");
    let watchdog = Watchdog::command("sleep 60", &[("mode", "http"), ("upstream_url", &url)]).await;
    assert_eq!(watchdog.get("/_/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = TcpListener::bind(address).await.expect("free still");
        answer_by_hand(listener, |_| ok("at last")).await;
    };
    let asked = watchdog.get("/");
    tokio::select! {
        () = later => {}
        (status, text) = asked => assert_eq!((status, text.as_str()), (StatusCode::OK, "at last")),
    }
}

#[tokio::test]
async fn readiness_is_the_servers_own_where_it_can_be_asked() {
    let watchdog = in_front_of(&[("ready_path", "/ready")], |seen| {
        assert!(seen.starts_with("GET /ready HTTP/1.1\r\n"), "{seen}");
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into()
    })
    .await;
    assert_eq!(watchdog.get("/_/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let watchdog = in_front_of(&[("ready_path", "/ready")], |_| ok("")).await;
    assert_eq!(watchdog.get("/_/ready").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_server_has_as_long_as_the_settings_and_the_caller_say() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let variables = [("mode", "http"), ("upstream_url", url.as_str()), ("exec_timeout", "400ms")];
    let watchdog = Watchdog::command("sleep 60", &variables).await;
    for (asked, least, most) in [(None, 400, 2000), (Some("100ms"), 100, 390), (Some("60s"), 400, 2000)] {
        let request = watchdog.client.get(watchdog.url("/"));
        let request = asked.iter().fold(request, |request, time| request.header("X-Timeout", *time));
        let began = Instant::now();
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(answer.headers()["x-openfaas-internal"], "faas-middleware");
        let took = began.elapsed().as_millis();
        assert!((least..most).contains(&took), "{asked:?}: {took} ms");
    }
    drop(listener);
}

#[tokio::test]
async fn what_a_server_does_wrong_is_said() {
    for (answer, words) in [
        ("nonsense\r\n\r\n", "cannot be read"),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "cannot be read"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
            "without being asked",
        ),
    ] {
        let watchdog = in_front_of(&[], move |_| answer.to_owned()).await;
        let (status, text) = watchdog.get("/").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{answer:?}");
        assert!(text.contains(words), "{answer:?}: {text}");
    }
    // Cut within the body: so is what the caller gets, if it has got anything by then.
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-A: close\r\n\r\nhalf";
    let watchdog = in_front_of(&[], move |_| cut.to_owned()).await;
    let answer = watchdog.send(Method::GET, "/", "").await;
    assert!(answer.status() == StatusCode::BAD_GATEWAY || answer.text().await.is_err(), "it looks whole");
}

#[tokio::test]
async fn a_head_is_asked_for_alone() {
    let watchdog = in_front_of(&[], |seen| {
        assert!(seen.starts_with("HEAD "), "{seen}");
        "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".into()
    })
    .await;
    for _ in 0..2 {
        let answer = watchdog.send(Method::HEAD, "/", "").await;
        assert_eq!(answer.headers()["content-length"], "1234");
        assert_eq!(answer.text().await.expect("nothing"), "");
    }
}

#[tokio::test]
async fn a_connection_that_changes_its_protocol_is_a_tunnel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut seen = vec![0; 4096];
        let count = stream.read(&mut seen).await.expect("a head");
        let head = String::from_utf8_lossy(&seen[..count]).to_ascii_lowercase();
        assert!(head.contains("upgrade: echo\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhi";
        stream.write_all(switch).await.expect("sent");
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.expect("echoed");
    });
    let watchdog = Watchdog::command("sleep 60", &[("mode", "http"), ("upstream_url", &url)]).await;
    let mut stream = TcpStream::connect(watchdog.address).await.expect("connected");
    let request = b"GET / HTTP/1.1\r\nHost: fn\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut seen = String::new();
    while !seen.contains("\r\n\r\nhi") {
        let mut piece = [0; 1024];
        let count = stream.read(&mut piece).await.expect("read");
        assert!(count > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    assert!(
        seen.starts_with("HTTP/1.1 101 Switching Protocols\r\n") && seen.contains("Upgrade: echo"),
        "{seen}"
    );
    stream.write_all(b"\x00ping").await.expect("sent");
    stream.shutdown().await.expect("said all");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("its end");
    assert_eq!(rest, b"\x00ping");
}

#[tokio::test]
async fn the_end_of_the_server_is_the_end_of_the_watchdog() {
    let address = free_address();
    let url = format!("http://{address}");
    let variables = [("mode", "http"), ("upstream_url", url.as_str()), ("prefix_logs", "true")];
    let mut watchdog = Watchdog::script("echo started; sleep 0.5; echo bye >&2; exit 0", &variables).await;
    let status = watchdog.ended(5).await;
    assert_eq!(status.code(), Some(1), "also when it says that all is well: {}", watchdog.log());
    let log = watchdog.log();
    for words in ["stdout: started", "stderr: bye", "the process has ended (exit status 0)"] {
        assert!(log.contains(words), "no {words:?} in {log}");
    }
}

#[tokio::test]
async fn files_are_sent_with_their_type() {
    let directory = TemporaryDirectory::new();
    let path = directory.path().display().to_string();
    fs::create_dir(directory.path().join("sub")).expect("made");
    fs::write(directory.path().join("index.html"), "<p>home").expect("written");
    fs::write(directory.path().join(".env"), "PASSWORD=x").expect("written");
    fs::create_dir(directory.path().join(".well-known")).expect("made");
    fs::write(directory.path().join(".well-known/security.txt"), "x").expect("written");
    fs::write(directory.path().join("sub/a.json"), "{}").expect("written");
    fs::write(directory.path().join("large"), vec![7; 300_000]).expect("written");
    let watchdog = Watchdog::command("", &[("mode", "static"), ("static_path", &path)]).await;
    for (path, kind, body) in [
        ("/", "text/html; charset=utf-8", b"<p>home".to_vec()),
        ("/sub/a.json?v=1", "application/json", b"{}".to_vec()),
        ("/large", "application/octet-stream", vec![7; 300_000]),
    ] {
        let answer = watchdog.send(Method::GET, path, "").await;
        assert_eq!(
            (answer.status(), &answer.headers()["content-type"]),
            (StatusCode::OK, &kind.parse().expect("valid"))
        );
        assert!(answer.bytes().await.expect("whole") == body, "{path}");
    }
    let answer = watchdog.send(Method::HEAD, "/large", "").await;
    assert_eq!(answer.headers()["content-length"], "300000");
    // A part of it, and not again what the client has.
    let ask = async |name: &str, value: &str| {
        let request = watchdog.client.get(watchdog.url("/")).header(name, value);
        let answer = request.send().await.expect("an answer");
        let range =
            answer.headers().get("content-range").map(|range| range.to_str().expect("text").to_owned());
        (answer.status().as_u16(), range.unwrap_or_default(), answer.text().await.expect("text"))
    };
    assert_eq!(ask("Range", "bytes=3-5").await, (206, "bytes 3-5/7".into(), "hom".into()));
    assert_eq!(ask("Range", "bytes=+3-+5").await, (200, String::new(), "<p>home".into()));
    let answer = watchdog.client.head(watchdog.url("/")).header("Range", "bytes=3-5");
    let answer = answer.send().await.expect("an answer");
    assert_eq!((answer.status(), &answer.headers()["content-length"]), (StatusCode::OK, &7.into()));
    assert_eq!(ask("Range", "bytes=-2").await, (206, "bytes 5-6/7".into(), "me".into()));
    let (status, range, _) = ask("Range", "bytes=7-").await;
    assert_eq!((status, range.as_str()), (416, "bytes */7"));
    let answer = watchdog.send(Method::GET, "/", "").await;
    let modified = answer.headers()["last-modified"].to_str().expect("text").to_owned();
    assert_eq!(ask("If-Modified-Since", &modified).await, (304, String::new(), String::new()));
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(ask("If-Modified-Since", long_ago).await.0, 200);
    let changed =
        watchdog.client.get(watchdog.url("/")).header("Range", "bytes=0-1").header("If-Range", long_ago);
    assert_eq!(changed.send().await.expect("an answer").status(), StatusCode::OK, "it is another file now");

    assert_eq!(watchdog.get("/.env").await.0, StatusCode::NOT_FOUND);
    assert_eq!(watchdog.get("/.well-known/security.txt").await.0, StatusCode::OK);
    assert_eq!(watchdog.get("/none").await.0, StatusCode::NOT_FOUND);
    assert_eq!(watchdog.get("/sub").await.0, StatusCode::NOT_FOUND, "there is no list");
    assert_eq!(watchdog.post("x").await.0, StatusCode::METHOD_NOT_ALLOWED);
}
