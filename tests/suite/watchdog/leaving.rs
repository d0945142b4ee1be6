//! Limits, health, metrics, and the end.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};

use super::{Watchdog, free_address};
use crate::support::TemporaryDirectory;

#[tokio::test]
async fn an_idle_watchdog_leaves_at_once() {
    let mut watchdog = Watchdog::command("cat", &[("healthcheck_interval", "30s")]).await;
    assert_eq!(watchdog.post("x").await.0, StatusCode::OK);
    let began = Instant::now();
    watchdog.signal(Signal::SIGTERM);
    assert_eq!(watchdog.ended(5).await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn requests_in_flight_finish_and_health_is_denied_meanwhile() {
    let script = "read -r time; sleep $time; echo slept";
    let variables = [("healthcheck_interval", "600ms"), ("write_timeout", "20s")];
    let mut watchdog = Watchdog::script(script, &variables).await;
    let flying: Vec<_> = ["1", "1.2"]
        .map(|time| {
            let request = watchdog.client.post(watchdog.url("/")).body(format!("{time}\n"));
            tokio::spawn(async move { request.send().await?.text().await })
        })
        .into();
    eventually!(watchdog.log().matches("Forking").count() == 2, "{}", watchdog.log());
    watchdog.signal(Signal::SIGTERM);
    eventually!(
        watchdog.get("/_/health").await.0 == StatusCode::SERVICE_UNAVAILABLE,
        "it is said to be well"
    );
    assert_eq!(watchdog.get("/_/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    // Until the interval is over, whoever did not hear of it is served.
    assert_eq!(watchdog.post("0\n").await, (StatusCode::OK, "slept\n".into()));
    for request in flying {
        assert_eq!(request.await.expect("no panic").expect("an answer"), "slept\n");
    }
    assert_eq!(watchdog.ended(5).await.code(), Some(0), "{}", watchdog.log());
    assert!(watchdog.client.get(watchdog.url("/_/health")).send().await.is_err(), "somebody still answers");
}

#[tokio::test]
async fn write_timeout_bounds_what_is_waited_for() {
    let variables = [("healthcheck_interval", "1ms"), ("write_timeout", "1s"), ("exec_timeout", "60s")];
    let mut watchdog = Watchdog::script("echo $$ > child; sleep 60", &variables).await;
    let request = watchdog.client.post(watchdog.url("/")).send();
    let asked = tokio::spawn(request);
    eventually!(watchdog.path("child").exists(), "{}", watchdog.log());
    watchdog.signal(Signal::SIGTERM);
    assert_eq!(watchdog.ended(4).await.code(), Some(0));
    let answer = asked.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(answer.text().await.expect("text").contains("write_timeout"));
    eventually!(!super::runs(&watchdog.path("child")), "it runs on");
}

#[tokio::test]
async fn no_more_requests_are_taken_than_may_be() {
    let watchdog = Watchdog::script("read -r _; echo done", &[("max_inflight", "2")]).await;
    assert_eq!(watchdog.get("/_/ready").await.0, StatusCode::OK);
    // They wait for bodies that do not end yet.
    let (open, waiting): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Result<&'static str, std::io::Error>>(1);
            let body = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let request = watchdog.client.post(watchdog.url("/")).body(reqwest::Body::wrap_stream(body));
            (sender, tokio::spawn(request.send()))
        })
        .unzip();
    eventually!(watchdog.get("/_/ready").await.0 == StatusCode::TOO_MANY_REQUESTS, "{}", watchdog.log());
    let answer = watchdog.send(Method::GET, "/", "").await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["x-openfaas-internal"], "faas-middleware");
    let text = answer.text().await.expect("text");
    assert_eq!(text.trim_end(), "Concurrent request limit exceeded. Max concurrent requests: 2");
    assert_eq!(watchdog.get("/_/health").await.0, StatusCode::OK, "busy is not ill");
    for sender in open {
        sender.send(Ok("\n")).await.expect("it is read");
    }
    for request in waiting {
        let answer = request.await.expect("no panic").expect("an answer");
        assert_eq!(answer.text().await.expect("text"), "done\n");
    }
    eventually!(watchdog.get("/_/ready").await.0 == StatusCode::OK, "{}", watchdog.log());
}

#[tokio::test]
async fn metrics_are_such_as_prometheus_reads() {
    require!("promtool");
    let watchdog = Watchdog::script("read -r code; exit $code", &[]).await;
    assert_eq!(watchdog.post("0\n").await.0, StatusCode::OK);
    assert_eq!(watchdog.post("1\n").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let text = watchdog
        .counted(&[
            "http_requests_total{code=\"200\",method=\"POST\"} 1",
            "http_requests_total{code=\"500\",method=\"POST\"} 1",
            "http_requests_in_flight 0",
        ])
        .await;
    let path = watchdog.path("metrics");
    std::fs::write(&path, text).expect("written");
    let input = std::fs::File::open(path).expect("there");
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn the_program_says_its_version_its_health_and_its_mistakes() {
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(crate::support::watchdog());
        let output =
            command.args(arguments).env_clear().envs(variables.iter().copied()).output().expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    for argument in ["--version", "-version"] {
        let (code, text) = run(&[argument], &[]);
        assert_eq!(code, Some(0));
        assert!(text.starts_with(&format!("fwatchdog {}", env!("CARGO_PKG_VERSION"))), "{text}");
    }
    assert_eq!(run(&["--serve"], &[]).0, Some(64));
    let (code, text) = run(&[], &[("exec_timeout", "soon")]);
    assert_eq!(code, Some(64));
    assert!(text.contains("exec_timeout: ") && text.contains("fprocess: "), "{text}");
    let watchdog = Watchdog::command("cat", &[]).await;
    let port = watchdog.address.port().to_string();
    let health = |port: &str| run(&["--run-healthcheck"], &[("fprocess", "cat"), ("port", port)]);
    assert_eq!(health(&port).0, Some(0));
    drop(watchdog);
    let (code, text) = health(&port);
    assert_eq!(code, Some(1));
    assert!(text.contains("unhealthy"), "{text}");
}

#[tokio::test]
async fn the_lock_file_is_there_as_long_as_requests_are_taken() {
    let lock = Path::new("/tmp/.lock");
    let mut watchdog = Watchdog::command("cat", &[("suppress_lock", "false")]).await;
    assert!(lock.exists());
    watchdog.signal(Signal::SIGTERM);
    watchdog.ended(5).await;
    assert!(!lock.exists());
}

#[tokio::test]
async fn as_process_1_it_reaps_what_others_leave() {
    require_root!();
    require!("unshare");
    let directory = TemporaryDirectory::new();
    // Each request leaves a process behind, which ends by itself when nobody is its parent any more.
    let script = "(sleep 0.1 &) ; cat /proc/[0-9]*/stat | grep -c ') Z '; true";
    std::fs::write(directory.path().join("fn.sh"), script).expect("written");
    let watchdog = format!("sh {}", directory.path().join("fn.sh").display());
    let command = format!("unshare --pid --fork --kill-child --mount-proc {}", crate::support::watchdog());
    let mut outer = Command::new("sh");
    let (address, metrics) = (super::free_address(), super::free_address());
    let mut outer = outer
        .args(["-c", &format!("exec {command}")])
        .envs([("fprocess", watchdog.as_str()), ("suppress_lock", "true"), ("prefix_logs", "false")])
        .envs([("port", address.port().to_string()), ("metrics_port", metrics.port().to_string())])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let client = super::client();
    let ask = async || client.post(format!("http://{address}/")).send().await.ok()?.text().await.ok();
    eventually!(ask().await.is_some(), "it does not answer");
    for _ in 0..20 {
        ask().await.expect("an answer");
    }
    eventually!(ask().await.as_deref() == Some("0\n"), "processes that have ended are left");
    outer.kill().expect("it runs");
    outer.wait().expect("waited");
}

#[tokio::test]
async fn a_command_that_is_not_there_is_the_end_and_is_said() {
    for mode in ["http", "afterburn"] {
        let mut command = tokio::process::Command::new(crate::support::watchdog());
        let ports = [free_address(), free_address()].map(|address| address.port().to_string());
        command
            .env_clear()
            .env("mode", mode)
            .env("fprocess", "/no/such --program")
            .env("suppress_lock", "true");
        command.env("port", &ports[0]).env("metrics_port", &ports[1]).kill_on_drop(true);
        let ended = tokio::time::timeout(Duration::from_secs(10), command.output()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{mode}: it hangs")).expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains("/no/such: No such file"), "{mode}: {said}");
    }
}
