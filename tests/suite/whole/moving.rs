//! Functions to and from stack files: export, apply, and the directory of the first boot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::TemporaryDirectory;
use crate::support::daemon::{Daemon, SAMPLE, in_own_network};

/// Runs a client command against the daemon.
pub(super) async fn ingle(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ingle"));
    command.args(arguments).env("HOME", daemon.containerd.path());
    command.env("INGLE_GATEWAY", daemon.url("")).env("INGLE_PASSWORD", daemon.password());
    command.output().await.expect("it runs")
}

/// The same, of a command that must succeed: what it printed.
pub(super) async fn done(daemon: &Daemon, arguments: &[&str]) -> String {
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

/// Runs a program that asks for a passphrase at its terminal, and gives it as often as it is asked.
fn at_terminal(command: &str, passphrase: &str) {
    use std::io::Write as _;
    let mut script = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", command, "/dev/null"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("script runs");
    let mut typed = script.stdin.take().expect("piped");
    typed.write_all(format!("{passphrase}\n{passphrase}\n").as_bytes()).expect("typed");
    let output = script.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn secrets_move_in_a_file_that_a_passphrase_closes() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "age", "script");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        let directory = TemporaryDirectory::new();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let value = |name: &str| fs::read(daemon.state_dir().join("function-secrets").join(name)).ok();
        done(&daemon, &["namespace", "create", "dev"]).await;
        done(&daemon, &["secret", "create", "api-key", "--from-literal", "tresor-4711"]).await;
        fs::write(path("bytes"), [0xff, 0x00, b'\n']).expect("written");
        done(&daemon, &["secret", "create", "tls", "--from-file", &path("bytes"), "-n", "dev"]).await;

        fs::write(path("passphrase"), "correct horse\n").expect("written");
        let (file, passphrase) = (path("secrets.age"), path("passphrase"));
        let closed = ["--secrets", &file, "--passphrase-file", &passphrase];
        let stack = done(&daemon, &[&["export"], &closed[..]].concat()).await;
        let sealed = fs::read(&file).expect("written");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        for text in [stack.as_bytes(), &sealed] {
            assert!(!String::from_utf8_lossy(text).contains("tresor"), "a value is there in clear");
        }

        // Gone, or changed: it comes back as it was, and once more.
        done(&daemon, &["secret", "remove", "api-key"]).await;
        done(&daemon, &["secret", "update", "tls", "--from-literal", "other", "-n", "dev"]).await;
        let said = done(&daemon, &[&["apply"], &closed[..]].concat()).await;
        assert!(
            said.contains("api-key.openfaas-fn was created") && said.contains("tls.dev was set"),
            "{said}"
        );
        done(&daemon, &[&["apply"], &closed[..]].concat()).await;
        assert_eq!(value("openfaas-fn/api-key").as_deref(), Some(&b"tresor-4711"[..]));
        assert_eq!(value("dev/tls").as_deref(), Some(&[0xff, 0x00, b'\n'][..]));

        // What age itself reads and writes is the same.
        at_terminal(&format!("age -d -o {} {file}", path("shown")), "correct horse");
        let secrets: Value =
            serde_json::from_slice(&fs::read(path("shown")).expect("written")).expect("JSON");
        assert_eq!(secrets[0]["name"], "tls", "{secrets}");
        assert_eq!(
            secrets[1],
            json!({"name": "api-key", "namespace": "openfaas-fn", "rawValue": "dHJlc29yLTQ3MTE="})
        );
        fs::write(path("plain"), r#"[{"name": "by-hand", "value": "1"}]"#).expect("written");
        at_terminal(&format!("age -p -o {} {}", path("by-hand.age"), path("plain")), "correct horse");
        let by_hand = ["apply", "--secrets", &path("by-hand.age"), "--passphrase-file", &passphrase];
        done(&daemon, &by_hand).await;
        assert_eq!(value("openfaas-fn/by-hand").as_deref(), Some(&b"1"[..]));
        // At the terminal, like age.
        let ingle = format!(
            "env INGLE_GATEWAY={} INGLE_PASSWORD={} {}",
            daemon.url(""),
            daemon.password(),
            env!("CARGO_BIN_EXE_ingle")
        );
        at_terminal(&format!("{ingle} export -o {} --secrets {file}", path("s.yml")), "battery staple");
        at_terminal(&format!("{ingle} apply --secrets {file}"), "battery staple");

        // What is wrong is said, and nothing is sent.
        let refused = async |arguments: &[&str], part: &str| {
            let output = ingle_fails(&daemon, arguments).await;
            assert!(output.contains(part), "{arguments:?}: {output}");
        };
        done(&daemon, &["secret", "remove", "by-hand"]).await;
        fs::write(path("wrong"), "incorrect horse").expect("written");
        refused(&["apply", "--secrets", &path("by-hand.age"), "--passphrase-file", &path("wrong")], "wrong")
            .await;
        fs::write(path("short"), "horse").expect("written");
        refused(&["export", "--secrets", &file, "--passphrase-file", &path("short")], "8 to 1024 bytes")
            .await;
        refused(&["apply", "--secrets", &path("plain"), "--passphrase-file", &passphrase], "age").await;
        refused(&["export", "--secrets", &file], "--passphrase-file").await;
        let same = ["export", "--secrets", &file, "--output", &file, "--passphrase-file", &passphrase];
        refused(&same, "the same file").await;
        for (plain, words) in [
            (r#"[{"name": "fine", "value": "1"}, {"name": "bad", "rawValue": "?"}]"#, "secret bad: rawValue"),
            (r#"[{"name": "a", "value": "1"}, {"name": "a", "namespace": "dev", "value": "2"}]"#, "twice"),
            (r#"{"name": "a"}"#, "something else than secrets"),
        ] {
            fs::write(path("plain"), plain).expect("written");
            at_terminal(&format!("age -p -o {} {}", path("bad.age"), path("plain")), "correct horse");
            let arguments =
                ["apply", "-n", "dev", "--secrets", &path("bad.age"), "--passphrase-file", &passphrase];
            refused(&arguments, words).await;
        }
        assert_eq!(value("dev/fine"), None, "nothing is sent");
        assert_eq!(value("openfaas-fn/by-hand"), None);
    });
}

/// What a command that must be refused says.
async fn ingle_fails(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = ingle(daemon, arguments).await;
    assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_first_boot_deploys_its_directory_once() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let directory = TemporaryDirectory::new();
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

        // What is removed meanwhile stays removed, also after a restart.
        let body = json!({ "functionName": "hello", "namespace": "dev" });
        let answer = daemon.api(Method::DELETE, "/system/functions").json(&body).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        daemon.nothing_left().await;
        let functions = async |daemon: &Daemon| {
            let path = "/system/functions?namespace=dev";
            let list = daemon.api(Method::GET, path).send().await.expect("an answer");
            list.json::<Vec<Value>>().await.expect("JSON")
        };
        daemon.stop().await;
        daemon.resume().await;
        eventually!(within 30, daemon.log().matches("2.yml").count() >= 2, "{}", daemon.log());
        assert_eq!(functions(&daemon).await, Vec::<Value>::new());
        fs::remove_file(directory.path().join("2.yml")).expect("it is there");
        eventually!(within 90, mark.exists(), "{}", daemon.log());

        // Once, for all of them.
        assert_eq!(functions(&daemon).await, Vec::<Value>::new());
        daemon.stop().await;
        daemon.resume().await;
        assert_eq!(functions(&daemon).await, Vec::<Value>::new());
        let log = daemon.log();
        let served = log.matches("first boot's functions are deployed").count();
        assert_eq!(served, 1, "{log}");
    });
}
