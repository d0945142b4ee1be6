//! Secrets of callers and admins reach no log, no metric and no stranger: a canary in each place, and the daemon at its
//! most verbose log level.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::TemporaryDirectory;
use crate::support::daemon::{Daemon, address, in_own_network};
use crate::support::registry::write_login;

/// Prefix of all canaries.
const CANARY: &str = "canary-";
/// Malformed requests, which the gateway refuses unread.
const BAD: [&str; 4] = [
    "GET /function/hello HTTP/1.1\r\nHost: a\r\nX-Bad: canary-bad-header\u{1}\r\n\r\n",
    "GET /function/hello?canary-no-host HTTP/1.1\r\n\r\n",
    "GET /function/hello?canary-version HTTP/3.0\r\n\r\n",
    "POST /function/hello?canary-chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\ncanary-no-chunk",
];

/// Starts a server that redirects to a signed URL, where it refuses everything: a registry, and a source of stack files.
fn redirecting() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let own = listener.local_addr().expect("bound").to_string();
    let at = own.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.expect("accepted"), Vec::new());
            let mut piece = [0; 4096];
            while !head.windows(4).any(|part| part == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(count) if count > 0 => head.extend_from_slice(&piece[..count]),
                    _ => break,
                }
            }
            let answer = if String::from_utf8_lossy(&head).contains("Signature=") {
                let body = r#"{"errors":[{"code":"UNSUPPORTED","message":"no"}]}"#;
                format!(
                    "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
            } else {
                format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{at}/blob?X-Amz-Signature=canary-signature\r\n\
                     Content-Length: 0\r\nConnection: close\r\n\r\n"
                )
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    own
}

/// Returns a call with a canary wherever one fits.
fn call(daemon: &Daemon, method: Method, path: &str) -> reqwest::RequestBuilder {
    daemon
        .client
        .request(method, daemon.url(&format!("{path}?token=canary-query")))
        .header("authorization", "Bearer canary-bearer")
        .header("cookie", "session=canary-cookie")
        .header("x-secret", "canary-header")
        .body("canary-body")
}

async fn status(request: reqwest::RequestBuilder) -> StatusCode {
    request.send().await.expect("an answer").status()
}

/// Returns everything that a command prints.
async fn printed(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::from(Command::new(env!("CARGO_BIN_EXE_ingle")));
    command.args(arguments).env("HOME", daemon.containerd.path());
    command.env("INGLE_DAEMON_RUN_DIR", daemon.containerd.path().join("run-ingle"));
    let output = command.env("INGLE_DAEMON_STATE_DIR", daemon.state_dir()).output().await.expect("it runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn secrets_of_callers_and_admins_reach_no_log_metric_or_stranger() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let server = redirecting();
        let logins = TemporaryDirectory::new();
        let login = logins.path().join("config.json");
        write_login(&login, &server, "tester", "canary-registry-password");
        let mut daemon = Daemon::bare(&format!(
            "[images]\ndocker_config = {login:?}\n[queue]\nretry_attempts = 1\ncallback_networks = \"127.0.0.0/8\"\n"
        ))
        .await;
        daemon.environment("INGLE_DAEMON_LOG", "trace");
        daemon.resume().await;
        daemon.load(&crate::support::sample_archive()).await;
        let api = |method, path: &str| daemon.api(method, path);
        let post = |path: &str| daemon.url(path);

        // Requests of an admin.
        let secret = json!({ "name": "key", "value": "canary-secret" });
        assert!(status(api(Method::POST, "/system/secrets").json(&secret)).await.is_success());
        let secret = json!({ "name": "key", "value": "canary-new-secret" });
        assert!(status(api(Method::PUT, "/system/secrets").json(&secret)).await.is_success());
        let confidential = json!({ "secrets": ["key"], "envVars": { "DATABASE": "canary-variable" } });
        daemon.ready("hello", confidential).await;
        let timer = json!({ "envVars": { "A": "canary-cron-variable" },
            "annotations": { "topic": "cron-function", "schedule": "@every 1s" } });
        daemon.ready("timer", timer).await;
        let crashing = json!({ "envVars": { "port": "none", "DATABASE": "canary-crashing-variable" } });
        assert_eq!(daemon.deploy("crashing", crashing).await.status(), StatusCode::ACCEPTED);
        let image = json!({ "service": "pulled", "image": format!("{server}/fn/a:1"),
            "envVars": { "A": "canary-pulled-variable" } });
        let answer = api(Method::POST, "/system/functions").json(&image).send().await.expect("an answer");
        let refusal = answer.text().await.expect("text");
        assert!(refusal.contains(&server), "{refusal}");
        for body in [
            "canary-no-json",
            r#"{"service":"canary-service","image":1}"#,
            r#"{"service":"x","image":"canary image"}"#,
        ] {
            let answer = api(Method::POST, "/system/functions?x=canary-api-query").body(body);
            assert_eq!(status(answer).await, StatusCode::BAD_REQUEST, "{body}");
        }
        let stack = format!("http://user:canary-url-password@{server}/stack.yml?token=canary-url-query");
        let deployed = printed(&daemon, &["deploy", "-f", &stack]).await;
        assert!(deployed.contains(&format!("stack file http://{server}/stack.yml")), "{deployed}");

        // Requests of callers.
        for way in ["/function/hello/echo", "/function/hello/status/500", "/async-function/hello/echo"] {
            let answer = status(call(&daemon, Method::POST, way)).await;
            assert!(answer.is_success() || answer == 500, "{way}: {answer}");
        }
        // Calls are given up at once, and so are their callbacks, which no receiver takes.
        let callback = "http://127.0.0.1:9/?token=canary-callback-query";
        for way in ["/async-function/hello/status/500", "/async-function/hello/echo", "/async-function/none"]
        {
            status(call(&daemon, Method::POST, way).header("x-callback-url", callback)).await;
        }
        let callback = "http://user:canary-callback-password@127.0.0.1:9/";
        let refused = call(&daemon, Method::POST, "/async-function/hello").header("x-callback-url", callback);
        assert_eq!(status(refused).await, StatusCode::BAD_REQUEST);
        let skill = r#"{"request":{"intent":{"name":"hello"}},"session":"canary-skill"}"#;
        status(daemon.client.post(post("/")).body(skill)).await;
        status(daemon.client.post(post("/?canary-skill-query")).body("canary-no-skill")).await;
        for (user, password) in [("admin", "canary-wrong-password"), ("canary-wrong-user", "x")] {
            let wrong = daemon.client.get(post("/system/functions")).basic_auth(user, Some(password));
            assert_eq!(status(wrong).await, StatusCode::UNAUTHORIZED);
        }
        let page = api(Method::GET, "/system/functions").header("origin", "http://canary-origin.example");
        assert_eq!(status(page).await, StatusCode::FORBIDDEN);
        for bad in BAD {
            let mut stream = TcpStream::connect(address()).expect("connected");
            stream.write_all(bad.as_bytes()).expect("sent");
            stream.shutdown(std::net::Shutdown::Write).expect("sent");
            let _ = stream.read_to_end(&mut Vec::new());
        }

        eventually!(within 60, daemon.describe("crashing").await["restarts"].as_u64() >= Some(4), "{}", daemon.log());
        eventually!(within 60, daemon.log().matches("is given up").count() >= 3, "{}", daemon.log());
        eventually!(
            within 60,
            daemon.describe("timer").await["cron"]["lastRun"]["outcome"] == "made",
            "{:#}", daemon.describe("timer").await
        );
        let begun = std::time::Instant::now();
        let unavailable = call(&daemon, Method::POST, "/function/crashing").send().await.expect("an answer");
        assert!(begun.elapsed().as_secs() < 20, "callers are held for {:?}", begun.elapsed());
        assert_eq!(unavailable.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            unavailable.headers().contains_key("retry-after")
                && unavailable.headers().contains_key("x-call-id")
        );
        let unavailable = unavailable.text().await.expect("text");
        assert_eq!(unavailable, "function crashing.openfaas-fn is not available\n");

        // The canaries that each audience may see.
        let config = daemon.containerd.path().join("config.toml").display().to_string();
        let doctor = printed(&daemon, &["doctor", "--json", "--config", &config]).await;
        assert!(doctor.contains("crashing"), "{doctor}");
        let invoked = printed(&daemon, &["invoke", "crashing", "-d", "canary-invoked"]).await;
        assert!(invoked.contains("exited with code"), "who may use the API is told why: {invoked}");
        let mut strangers = String::new();
        for path in
            ["/metrics", "/healthz", "/system/functions", "/system/calls", "/system/logs?name=hello", "/"]
        {
            strangers +=
                &daemon.client.get(post(path)).send().await.expect("an answer").text().await.expect("text");
        }
        assert!(strangers.contains("crashing"), "there are metrics of it");
        for (place, text) in [
            ("log", daemon.log()),
            ("doctor", doctor),
            ("strangers", strangers),
            ("refusal of an image", refusal),
            ("deploy", deployed),
            ("invoke", invoked),
        ] {
            let found: Vec<&str> = text.lines().filter(|line| line.contains(CANARY)).take(5).collect();
            let shown: Vec<String> = found.iter().map(|line| around(line)).collect();
            assert!(found.is_empty(), "the {place} has {shown:#?}");
        }
        assert!(daemon.log().contains("TRACE"), "it was at its loudest");
    });
}

/// Returns the part of a line around a canary, with enough before it to find its source.
fn around(line: &str) -> String {
    let at = line.find(CANARY).unwrap_or_default();
    let start: String = line.chars().take(160).collect();
    let word: String = line[at..].chars().take(40).collect();
    format!("{start} … {word}")
}
