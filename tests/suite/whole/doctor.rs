//! `ingle doctor` beside a real daemon: well, and with one thing after the other broken.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, in_own_network};

/// What the doctor finds: its exit code and its findings.
async fn examine(daemon: &Daemon) -> (Option<i32>, Vec<Value>) {
    let config = daemon.containerd.path().join("config.toml");
    let mut command = tokio::process::Command::from(Command::new(env!("CARGO_BIN_EXE_ingle")));
    command.args(["doctor", "--json", "--config"]).arg(config).env("HOME", daemon.containerd.path());
    let output = command.env("INGLE_DAEMON_STATE_DIR", daemon.state_dir()).output().await.expect("it runs");
    let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), found)
}

/// How full the disk is and what the kernel brings is the machine's own affair, whichever runs the tests. How
/// they are judged is tested where they are.
const OF_THE_MACHINE: [&str; 2] = ["disk", "kernel"];

/// The faults that are found, as `check: text -> remedy`, without those of the machine.
async fn faults(daemon: &Daemon) -> Vec<String> {
    let (code, found) = examine(daemon).await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let (of_the_machine, faults): (Vec<&Value>, Vec<&Value>) = found
        .iter()
        .filter(|finding| finding["verdict"] == "fault")
        .partition(|fault| OF_THE_MACHINE.contains(&text(&fault["check"]).as_str()));
    assert_eq!(code, Some(i32::from(!faults.is_empty() || !of_the_machine.is_empty())), "{found:#?}");
    let words = |f: &Value| format!("{}: {} -> {}", text(&f["check"]), text(&f["text"]), text(&f["remedy"]));
    faults.into_iter().map(words).collect()
}

/// The one fault, which must be of `check` and have these words in it.
async fn one_fault(daemon: &Daemon, check: &str, words: &[&str]) {
    let faults = faults(daemon).await;
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].starts_with(&format!("{check}: ")), "{faults:#?}");
    for word in words {
        assert!(faults[0].contains(word), "no {word:?} in {faults:#?}");
    }
}

#[test]
fn what_is_wrong_is_found_and_what_is_well_is_not() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "ss", "python3");
    in_own_network(async {
        let mut daemon = Daemon::start("").await;
        daemon.ready("hello", json!({})).await;
        assert_eq!(faults(&daemon).await, [""; 0]);

        // A function that ends as soon as it starts.
        daemon.deploy("broken", json!({ "envVars": { "port": "not-a-port" } })).await;
        eventually!(
            within 30,
            daemon.describe("broken").await["restarts"].as_u64() > Some(0),
            "{:#}",
            daemon.describe("broken").await
        );
        one_fault(&daemon, "functions", &["broken", "exited with code 1", "ingle logs broken"]).await;
        daemon.remove("broken").await;
        eventually!(within 30, faults(&daemon).await.is_empty(), "a removed function is spoken of");

        // Somebody switches forwarding off.
        let forwarding = Path::new("/proc/sys/net/ipv4/ip_forward");
        fs::write(forwarding, "0").expect("of this network");
        one_fault(&daemon, "forwarding", &["internet", "sysctl -w net.ipv4.ip_forward=1"]).await;
        fs::write(forwarding, "1").expect("of this network");

        // A slip of the pen in the conflist, which the daemon that runs has read long ago.
        let conflist = daemon.containerd.path().join("ingle.conflist");
        let right = fs::read_to_string(&conflist).expect("it is there");
        fs::write(&conflist, right.replace("host-local", "host-lokal")).expect("written");
        one_fault(&daemon, "network configuration", &["host-lokal", "serve --check"]).await;
        fs::write(&conflist, right).expect("written");

        // The port of the admin listener is taken while the daemon is stopped.
        daemon.stop().await;
        let other = std::net::TcpListener::bind("127.0.0.1:8081").expect("bound");
        daemon.resume().await;
        let process = format!("process {}", std::process::id());
        one_fault(&daemon, "api", &["127.0.0.1:8081", "gateway.admin_listen", &process]).await;
        daemon.stop().await;
        drop(other);
        daemon.resume().await;
        eventually!(within 30, faults(&daemon).await.is_empty(), "{:#?}", faults(&daemon).await);

        daemon.containerd.pause();
        let found = faults(&daemon).await;
        assert!(found.iter().any(|fault| fault.starts_with("containerd: ")), "{found:#?}");
        assert!(found.iter().any(|fault| fault.contains("systemctl start containerd")), "{found:#?}");
        daemon.containerd.resume().await;

        daemon.stop().await;
        one_fault(&daemon, "gateway", &["is not running", "systemctl restart ingle"]).await;
        // Another user's program takes the port.
        let listen = "import socket, time; s = socket.create_server(('127.0.0.1', 8081)); time.sleep(60)";
        let mut python = Command::new("python3").args(["-c", listen]).uid(65534).spawn().expect("it runs");
        let process = format!("process {}", python.id());
        let found = async || faults(&daemon).await.into_iter().find(|fault| fault.starts_with("api: "));
        eventually!(within 10, found().await.is_some_and(|fault| fault.contains(&process)), "no {process}");
        python.kill().expect("it runs");
        python.wait().expect("it ends");
    });
}
