//! Our own client commands against the API itself, so that neither side's tests rest on what it believes
//! of the other.

use std::process::{Output, Stdio};

use tokio::net::TcpListener;
use tokio::process::Command;

use super::world::World;
use crate::support::TemporaryDirectory;

/// A world that can be reached over HTTP.
struct Served {
    world: World,
    url: String,
    home: TemporaryDirectory,
}

impl Served {
    async fn new() -> Self {
        let world = World::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind to loopback");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = world.router.clone();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { world, url, home: TemporaryDirectory::new() }
    }

    async fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ingle"))
            .args(line.split_whitespace())
            .env_clear()
            .env("HOME", self.home.path())
            .env("INGLE_DAEMON_STATE_DIR", self.home.path())
            .env("INGLE_GATEWAY", &self.url)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("run ingle")
    }

    /// Runs a command that succeeds, and returns what it prints.
    async fn ok(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(output.status.success(), "{line}: {output:#?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs a command that fails, and returns what it says.
    async fn fails(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(1), "{line}: {output:#?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }
}

#[tokio::test]
async fn a_function_lives_from_deploy_to_remove() {
    let served = Served::new().await;
    let out = served.ok("deploy env --image you/env:1 --env A=b --memory 64Mi").await;
    assert!(out.starts_with("env is ready (revision 1, image "), "{out}");
    assert_eq!(served.world.describe("env").await["envVars"]["A"], "b");

    let out = served.ok("list").await;
    assert_eq!(
        out.lines().nth(1).map(|row| row.split_whitespace().collect()),
        Some(vec!["env", "ready", "1/1", "0"])
    );
    let out = served.ok("describe env").await;
    assert!(out.contains("Limits:       64Mi memory") && out.contains("Usage:"), "{out}");
    assert_eq!(served.ok("logs env").await, "");
    assert_eq!(served.ok("scale env 2").await, "env is being scaled to 2\n");
    eventually!(served.world.describe("env").await["availableReplicas"] == 2, "never scaled");

    let out = served.ok("deploy env --image you/env:2").await;
    assert!(out.starts_with("env is ready (revision 2, "), "{out}");
    assert_eq!(served.ok("remove env").await, "env was removed\n");
    let text = served.fails("describe env").await;
    assert!(text.starts_with("ingle: function env"), "{text}");
}

#[tokio::test]
async fn a_failed_update_is_told_with_its_reason() {
    let served = Served::new().await;
    served.ok("deploy env --image you/env:1").await;
    let text = served.fails("deploy env --image you/exits:3").await;
    assert!(text.contains("function env could not be updated, and revision 1 goes on serving: "), "{text}");
    let out = served.ok("list").await;
    assert!(out.contains("ready (update failed)"), "{out}");
    let text = served.fails("deploy new --image you/exits:3").await;
    // What was under way comes first.
    assert!(text.contains("ingle: function new "), "{text}");
}

#[tokio::test]
async fn mistakes_come_back_in_the_apis_words() {
    let served = Served::new().await;
    for (line, part) in [
        ("deploy env --image you/env:1 --memory lots", "limits.memory"),
        ("deploy env --image you/env:1 --secret none", "secret none was not found"),
        ("deploy env --image you/env:1 -n none", "namespace none was not found"),
        ("remove none", "function none"),
        ("scale none 1", "function none"),
        ("secret remove none", "secret none"),
        ("namespace delete openfaas-fn", "openfaas-fn"),
        ("logs none", "none"),
    ] {
        let text = served.fails(line).await;
        assert!(text.starts_with("ingle: ") && text.contains(part), "{line}: {text}");
    }
}

#[tokio::test]
async fn secrets_and_namespaces_are_made_shown_and_removed() {
    let served = Served::new().await;
    served.ok("namespace create dev --label team=a").await;
    assert_eq!(served.ok("namespace list").await, "NAME\ndev\nopenfaas-fn\n");
    assert!(served.ok("namespace describe dev").await.contains("team=a"));
    served.ok("secret create key --from-literal v -n dev").await;
    assert_eq!(served.ok("secret list -n dev").await, "NAME  NAMESPACE\nkey   dev\n");
    served.ok("secret update key --from-literal w -n dev").await;
    served.ok("secret remove key -n dev").await;
    served.ok("namespace delete dev").await;
    assert!(served.ok("info").await.contains("ingle"));
    served.ok("image list").await;
}
