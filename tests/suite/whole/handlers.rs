//! Code that has no image of its own: handed over by `ingle deploy --handler`, mounted, updated, gone back from.

use std::fs;
use std::path::Path;

use reqwest::StatusCode;
use serde_json::json;

use super::commands::{IMAGE, daemon_with_box};
use super::moving::{done, ingle};
use crate::support::daemon::{Daemon, in_own_network};

/// Deploys the code of a directory.
async fn deploy(daemon: &Daemon, directory: &Path) {
    let image = ["--image", IMAGE, "--pull-policy", "Never"];
    let directory = directory.display().to_string();
    let code = ["--handler", &directory, "--fprocess", "sh function/greet.sh"];
    done(daemon, &[&["deploy", "greet"][..], &image, &code].concat()).await;
}

#[test]
fn code_without_an_image_runs_and_a_rollback_brings_the_old_one_back() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        let (mut daemon, watchdog, _files) =
            daemon_with_box(json!({ "Cmd": ["/bin/sh"], "User": "1234" })).await;
        fs::copy(crate::support::watchdog(), watchdog).expect("copied");
        let code = tempfile::tempdir().expect("a directory");
        let script = code.path().join("greet.sh");
        fs::create_dir(code.path().join("lib")).expect("made");
        fs::write(code.path().join("lib/name"), "you").expect("written");
        // Only for its owner here, who is nobody inside.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(code.path().join("lib"), mode).expect("set");
        fs::write(&script, "echo hello $(cat function/lib/name) from $PWD").expect("written");
        deploy(&daemon, code.path()).await;
        let text = async |daemon: &Daemon| daemon.call("greet").await;
        assert_eq!(text(&daemon).await, (StatusCode::OK, "hello you from /home/app\n".into()));

        fs::write(&script, "echo bye; echo x > function/lib/name || echo it stays").expect("written");
        deploy(&daemon, code.path()).await;
        eventually!(text(&daemon).await.1 == "bye\nit stays\n", "{:?}", text(&daemon).await);
        done(&daemon, &["rollback", "greet"]).await;
        eventually!(text(&daemon).await.1.starts_with("hello you"), "{:?}", text(&daemon).await);

        let said = ingle(&daemon, &["export"]).await;
        let note = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success() && note.contains("greet: its code is not in the file"), "{note}");

        // The daemon and the replica are killed: the code is there for the next one.
        daemon.end(nix::sys::signal::Signal::SIGKILL);
        for container in daemon.containers() {
            daemon.containerd.ctr(&["tasks", "kill", "--signal", "SIGKILL", &container]);
        }
        daemon.resume().await;
        eventually!(within 30, text(&daemon).await.1.starts_with("hello you"), "{:?}", text(&daemon).await);
        daemon.remove("greet").await;
        daemon.nothing_left().await;
    });
}
