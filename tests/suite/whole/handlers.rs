//! Code that has no image of its own: handed over by `ingle deploy --handler`, mounted, updated, gone back from.

use std::fs;
use std::path::Path;

use reqwest::StatusCode;
use serde_json::json;

use super::commands::{IMAGE, daemon_with_box};
use super::moving::{done, ingle};
use crate::support::TemporaryDirectory;
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
        let code = TemporaryDirectory::new();
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

#[test]
fn code_without_an_image_moves_with_its_function() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        let (daemon, watchdog, files) = daemon_with_box(json!({ "Cmd": ["/bin/sh"] })).await;
        fs::copy(crate::support::watchdog(), watchdog).expect("copied");
        let path = |name: &str| files.path().join(name);
        let shown = |name: &str| path(name).display().to_string();
        fs::create_dir(path("code")).expect("made");
        fs::write(path("code/greet.sh"), "echo hello").expect("written");
        deploy(&daemon, &path("code")).await;
        let said = ingle(&daemon, &["export"]).await;
        let note = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success() && note.contains("greet: its code is not in the file"), "{note}");
        let (stack, handlers, empty) = (shown("functions.yml"), shown("handlers"), shown("empty"));
        let export = ["export", "-o", &stack, "--handlers", &handlers];
        done(&daemon, &export).await;
        done(&daemon, &export).await;
        let apply = ["apply", "-f", &stack];
        let carrying = |directory| [&apply[..], &["--handlers", directory]].concat();
        let said = done(&daemon, &carrying(&handlers)).await;
        assert!(said.contains("greet is unchanged"), "{said}");

        // Another machine has neither.
        daemon.remove("greet").await;
        let kept = fs::read_dir(daemon.state_dir().join("handlers")).expect("there").next().expect("one");
        fs::remove_dir_all(kept.expect("readable").path()).expect("removed");
        fs::create_dir(path("empty")).expect("made");
        let refused = async |arguments: &[&str], part: &str| {
            let output = ingle(&daemon, arguments).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(part), "{arguments:?}: {said}");
            assert_eq!(daemon.describe("greet").await, serde_json::Value::Null);
        };
        refused(&apply, "apply --handlers DIR").await;
        refused(&carrying(&empty), "neither at the gateway nor in").await;
        let archive = fs::read_dir(&handlers).expect("there").next().expect("one").expect("readable").path();
        fs::copy(&archive, path("good.tar")).expect("copied");
        fs::write(&archive, "changed").expect("written");
        refused(&carrying(&handlers), "it was changed").await;
        fs::rename(path("good.tar"), &archive).expect("renamed");
        done(&daemon, &carrying(&handlers)).await;
        assert_eq!(daemon.call("greet").await, (StatusCode::OK, "hello\n".into()));
        daemon.remove("greet").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn code_of_a_stack_file_runs_in_an_image_that_has_none() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "busybox", "ldd");
    in_own_network(async {
        let (daemon, watchdog, files) = daemon_with_box(json!({ "Cmd": ["/bin/sh"] })).await;
        fs::copy(crate::support::watchdog(), watchdog).expect("copied");
        let stack = files.path().join("stack.yml");
        fs::create_dir(files.path().join("code")).expect("made");
        fs::write(files.path().join("code/greet.sh"), "echo \"$PASSWORD\"").expect("written");
        let text = format!(
            "functions:
  greet:
    image: {IMAGE}
    handler: ./code
    fprocess: sh function/greet.sh
    environment: {{PASSWORD: 'pa$$word'}}
    annotations: {{ingle.pull-policy: Never}}
"
        );
        fs::write(&stack, text).expect("written");
        let apply = ["apply", "-f", &stack.display().to_string()];
        done(&daemon, &apply).await;
        assert_eq!(daemon.call("greet").await, (StatusCode::OK, "pa$word\n".into()));
        let said = done(&daemon, &apply).await;
        assert!(said.contains("greet is unchanged"), "{said}");
        daemon.remove("greet").await;
        daemon.nothing_left().await;
    });
}
