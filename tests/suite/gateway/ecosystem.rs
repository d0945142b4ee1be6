//! Published servers behind every road, and published clients in front of them: `tests/ecosystem/run`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use super::roads::Road;
use crate::watchdog::free_address;

const SERVERS: [&str; 5] = ["express", "fastify", "gunicorn", "uvicorn", "waitress"];
const CLIENTS: [&str; 5] = ["aiohttp", "eventsource", "httpx", "requests", "undici"];
const WEBSOCKETS: [&str; 2] = ["websockets", "ws"];
/// Longer than any client takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program of `tests/ecosystem`, in the language of the package that it uses.
fn program(packages: &Path, kind: &str, package: &str) -> Command {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ecosystem");
    let is_node = ["express", "fastify", "ws", "undici", "eventsource"].contains(&package);
    let (interpreter, ending) =
        if is_node { ("node".into(), "mjs") } else { (packages.join("python/bin/python"), "py") };
    let mut command = Command::new(interpreter);
    command.arg(directory.join(format!("{kind}.{ending}"))).arg(package).env("PACKAGES", packages);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "packages of PyPI and npm are needed: tests/ecosystem/run"]
async fn published_servers_and_clients_speak_on_every_road() {
    #[expect(clippy::disallowed_methods, reason = "a variable of the tests, not a setting")]
    let packages = std::env::var_os("PACKAGES").expect("tests/ecosystem/run sets it");
    let packages = Path::new(&packages);
    let all = SERVERS.into_iter().chain(WEBSOCKETS).map(|server| speak(packages, server));
    let wrong = futures_util::future::join_all(all).await.concat();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Has every client speak to a server; returns what went wrong.
async fn speak(packages: &Path, server: &str) -> Vec<String> {
    let address = free_address();
    let mut process = program(packages, "server", server)
        .arg(address.port().to_string())
        .spawn()
        .unwrap_or_else(|error| panic!("{server}: {error}"));
    eventually!(TcpStream::connect(address).await.is_ok(), "{server} does not listen");
    let roads = Road::all(address, super::PATIENCE).await;
    let clients: &[&str] = if WEBSOCKETS.contains(&server) { &WEBSOCKETS } else { &CLIENTS };
    let mut wrong = Vec::new();
    for road in &roads {
        for client in clients {
            let url = format!("http://{}/function/env", road.address);
            let output = timeout(PATIENCE, program(packages, "client", client).arg(url).output()).await;
            let text = match output {
                Ok(Ok(output)) => {
                    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no end after {PATIENCE:?}"),
            };
            let line = format!("{client} -> {} -> {server}: {text}", road.name);
            println!("{line}");
            if !text.starts_with("tried ") {
                wrong.push(line);
            }
        }
    }
    process.kill().await.expect("it ends");
    wrong
}
