//! `/metrics`, as Prometheus reads it.

use std::io::Write;
use std::process::{Command, Stdio};

use super::world::World;
use crate::support::TemporaryDirectory;

/// Whether a line of the text is exactly this one.
fn has(text: &str, line: &str) -> bool {
    text.lines().any(|found| found == line)
}

async fn counted() -> (World, String) {
    let world = World::new().await;
    world.deploy("env").await;
    let entry = world.fleet.directory().find("env").expect("deployed");
    for (code, seconds) in [(200, 0.004), (200, 0.2), (500, 0.004)] {
        entry.stats.started();
        entry.stats.finished(code, seconds);
    }
    entry.stats.started();
    let answer = world.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    (world, answer.body)
}

#[tokio::test]
async fn calls_and_replicas_have_the_names_that_dashboards_read() {
    let (world, text) = counted().await;
    for line in [
        r#"gateway_function_invocation_total{function_name="env.openfaas-fn",code="200"} 2"#,
        r#"gateway_function_invocation_total{function_name="env.openfaas-fn",code="500"} 1"#,
        r#"gateway_functions_seconds_bucket{function_name="env.openfaas-fn",code="200",le="0.005"} 1"#,
        r#"gateway_functions_seconds_bucket{function_name="env.openfaas-fn",code="200",le="+Inf"} 2"#,
        r#"gateway_functions_seconds_sum{function_name="env.openfaas-fn",code="200"} 0.204"#,
        r#"gateway_functions_seconds_count{function_name="env.openfaas-fn",code="200"} 2"#,
        r#"gateway_function_invocation_started{function_name="env.openfaas-fn"} 4"#,
        r#"gateway_invocation_function_invocation_inflight{function_name="env.openfaas-fn"} 1"#,
        r#"gateway_service_count{function_name="env.openfaas-fn"} 1"#,
        r#"gateway_service_ready_count{function_name="env.openfaas-fn"} 1"#,
        r#"gateway_service_min{function_name="env.openfaas-fn"} 1"#,
        r#"pod_cpu_usage_seconds_total{function_name="env.openfaas-fn",namespace="openfaas-fn"} 0.01"#,
        r#"pod_memory_working_set_bytes{function_name="env.openfaas-fn",namespace="openfaas-fn"} 1048576"#,
        r#"http_requests_total{code="202",method="POST",path="/system/functions"} 1"#,
    ] {
        assert!(has(&text, line), "{line} is not in\n{text}");
    }
    assert_eq!(world.describe("env").await["invocationCount"], 3);
}

#[tokio::test]
async fn what_clients_make_up_does_not_become_a_label() {
    let world = World::new().await;
    world.get("/system/function/secret-name").await;
    world.get("/made/up").await;
    world.send("BREW", "/made/up", "").await;
    let text = world.get("/metrics").await.body;
    assert!(!text.contains("secret-name") && !text.contains("made/up") && !text.contains("BREW"), "{text}");
    for line in [
        r#"http_requests_total{code="404",method="GET",path="/system/function/{name}"} 1"#,
        r#"http_requests_total{code="404",method="GET",path="other"} 1"#,
        r#"http_requests_total{code="404",method="other",path="other"} 1"#,
    ] {
        assert!(has(&text, line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn prometheus_can_read_it() {
    require!("promtool");
    let (_world, text) = counted().await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let complaints = String::from_utf8_lossy(&output.stderr);
    // It can be parsed; what is left are names that dashboards of this field read and that Prometheus
    // would have chosen otherwise.
    let mut complaints: Vec<_> = complaints.lines().collect();
    complaints.sort_unstable();
    assert_eq!(
        complaints,
        [
            "gateway_function_invocation_started counter metrics should have \"_total\" suffix",
            "gateway_service_count non-histogram and non-summary metrics should not have \"_count\" suffix",
            "gateway_service_ready_count non-histogram and non-summary metrics should not have \"_count\" suffix",
        ]
    );
}

/// A Prometheus that asks one address for metrics; it ends with this.
struct Prometheus {
    process: std::process::Child,
    port: u16,
    directory: TemporaryDirectory,
}

impl Prometheus {
    fn start(target: std::net::SocketAddr) -> Self {
        let directory = TemporaryDirectory::new();
        let config = format!(
            "global: {{scrape_interval: 200ms}}\nscrape_configs:\n- job_name: ingle\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(directory.path().join("config.yml"), config).expect("written");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let process = Command::new("prometheus")
            .arg("--config.file=config.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log")).expect("a file"))
            .spawn()
            .expect("prometheus starts");
        Self { process, port, directory }
    }

    /// The value of the first series that an expression gives.
    async fn value(&self, expression: &str) -> Option<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let query = percent_encoding::utf8_percent_encode(expression, percent_encoding::NON_ALPHANUMERIC);
        let request = format!("GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        Some(body["data"]["result"][0]["value"][1].as_str()?.to_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn prometheus_scrapes_it() {
    require!("prometheus");
    let (world, _) = counted().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = listener.local_addr().expect("an address");
    let router = world.router.clone();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let prometheus = Prometheus::start(target);
    for (expression, expected) in [
        ("up", "1"),
        (r#"gateway_function_invocation_total{function_name="env.openfaas-fn",code="200"}"#, "2"),
        (r#"gateway_function_invocation_started{function_name="env.openfaas-fn"}"#, "4"),
        (r#"histogram_quantile(1, gateway_functions_seconds_bucket{code="200"})"#, "0.25"),
        (r#"sum(gateway_service_count)"#, "1"),
    ] {
        eventually!(
            within 30,
            prometheus.value(expression).await.as_deref() == Some(expected),
            "{expression} is {:?}; prometheus says\n{}",
            prometheus.value(expression).await,
            prometheus.log()
        );
    }
    server.abort();
}
