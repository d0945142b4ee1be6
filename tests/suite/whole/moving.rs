//! Functions to and from stack files: export, apply, and the directory of the first boot.

use std::fs;
use std::process::Output;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, SAMPLE, in_own_network};

/// Runs a client command against the daemon.
async fn ingle(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ingle"));
    command.args(arguments).env("HOME", daemon.containerd.path());
    command.env("INGLE_GATEWAY", daemon.url("")).env("INGLE_PASSWORD", daemon.password());
    command.output().await.expect("it runs")
}

/// The same, of a command that must succeed: what it printed.
async fn done(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = ingle(daemon, arguments).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn what_is_exported_can_be_applied_and_applied_again() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        done(&daemon, &["namespace", "create", "dev", "--label", "team=blue"]).await;
        let full = json!({
            "envVars": { "greeting": "${HOME} and $5" }, "labels": { "com.openfaas.scale.min": "1" },
            "limits": { "memory": "64Mi" }, "readOnlyRootFilesystem": true,
        });
        daemon.ready("hello", full).await;
        let answer = daemon.deploy("hello", json!({ "namespace": "dev" })).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let file = daemon.containerd.path().join("functions.yml").display().to_string();
        done(&daemon, &["export", "--output", &file]).await;
        let exported = done(&daemon, &["export"]).await;
        assert_eq!(fs::read_to_string(&file).expect("written"), exported);

        // As it is: nothing is done.
        let said = done(&daemon, &["apply", "-f", &file]).await;
        assert_eq!(said.matches("hello is unchanged").count(), 2, "{said}");
        assert_eq!(daemon.describe("hello").await["revision"], 1);

        // Elsewhere: all of it comes back.
        done(&daemon, &["remove", "hello"]).await;
        done(&daemon, &["remove", "hello", "-n", "dev"]).await;
        daemon.nothing_left().await;
        done(&daemon, &["namespace", "delete", "dev"]).await;
        let said = done(&daemon, &["apply", "-f", &file]).await;
        assert!(said.contains("namespace dev was created"), "{said}");
        assert_eq!(said.matches("hello is ready").count(), 2, "{said}");
        assert_eq!(done(&daemon, &["export"]).await, exported);
        assert_eq!(daemon.call("hello.dev").await.0, StatusCode::OK);

        // One word changed: that function alone is updated.
        let changed = exported.replace("and $5", "and $6");
        assert_ne!(changed, exported);
        fs::write(&file, changed).expect("written");
        let said = done(&daemon, &["apply", "-f", &file]).await;
        assert!(said.contains("hello is unchanged") && said.contains("hello is ready (revision 2"), "{said}");
        assert_eq!(daemon.describe("hello").await["envVars"]["greeting"], "${HOME} and $6");

        // A mistake in one file of several: nothing is sent.
        let directory = daemon.containerd.path().join("several");
        fs::create_dir(&directory).expect("made");
        fs::write(directory.join("1.yml"), exported).expect("written");
        fs::write(directory.join("2.yaml"), "functions: {broken: {}}").expect("written");
        let refused = ingle(&daemon, &["apply", "-f", &directory.display().to_string()]).await;
        assert_eq!(refused.status.code(), Some(64));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("2.yaml") && said.contains("functions.broken.image"), "{said}");
        assert_eq!(daemon.describe("hello").await["revision"], 2);

        let digest = daemon.describe("hello").await["imageDigest"].as_str().expect("a digest").to_owned();
        assert!(done(&daemon, &["export", "--digests"]).await.contains(&format!("{SAMPLE}@{digest}")));
    });
}

#[test]
fn the_first_boot_deploys_its_directory_once() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let directory = tempfile::tempdir().expect("a directory");
        let mut daemon = Daemon::bare(&format!("[functions]\nfirst_boot = {:?}\n", directory.path())).await;
        let stack = format!(
            "namespaces: {{dev: }}\nfunctions:\n  hello:\n    image: {SAMPLE}\n    namespace: dev\n    \
             annotations: {{ingle.pull-policy: Never}}\n"
        );
        fs::write(directory.path().join("1.yml"), stack).expect("written");
        fs::write(directory.path().join("2.yml"), "functions: {broken: {}}").expect("written");
        fs::write(directory.path().join("readme.txt"), "not a stack file").expect("written");
        daemon.resume().await;
        // The image is not here yet, and a file has a mistake: both are said, and tried again.
        eventually!(
            within 10,
            [SAMPLE, "2.yml", "functions.broken.image"].iter().all(|part| daemon.log().contains(part)),
            "{}",
            daemon.log()
        );
        daemon.load(&crate::support::sample_archive()).await;
        eventually!(within 30, daemon.call("hello.dev").await.0 == StatusCode::OK, "{}", daemon.log());
        let mark = daemon.state_dir().join("first-boot.done");
        assert!(!mark.exists(), "not all was done");
        fs::remove_file(directory.path().join("2.yml")).expect("it is there");
        eventually!(within 90, mark.exists(), "{}", daemon.log());

        // Once: what is removed later stays removed.
        let body = json!({ "functionName": "hello", "namespace": "dev" });
        let answer = daemon.api(Method::DELETE, "/system/functions").json(&body).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        daemon.nothing_left().await;
        daemon.stop().await;
        daemon.resume().await;
        let list =
            daemon.api(Method::GET, "/system/functions?namespace=dev").send().await.expect("an answer");
        assert_eq!(list.json::<Vec<Value>>().await.expect("JSON"), Vec::<Value>::new());
        let log = daemon.log();
        let served = log.matches("first boot's functions are deployed").count();
        assert_eq!(served, 1, "{log}");
    });
}
