//! A function from a registry: pulled, run, called, refused by the registry's own words, and started
//! again while the registry is away.

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::TemporaryDirectory;
use crate::support::daemon::{Daemon, in_own_network};
use crate::support::registry::{DockerRegistry, PASSWORD, Setup, USER, push_archive, write_login};

/// Pushes the sample as `fn/hello:1`.
fn push_sample(registry: &DockerRegistry, options: &[&str]) {
    push_archive(registry, &crate::support::sample_archive(), "fn/hello:1", options);
}

#[test]
fn a_function_is_pulled_run_called_and_started_again_without_the_registry() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "docker-registry", "skopeo");
    in_own_network(async {
        let mut registry = DockerRegistry::start(Setup::default()).await;
        push_sample(&registry, &[]);
        let mut daemon = Daemon::bare("").await;
        daemon.resume().await;
        let image = format!("{}/fn/hello:1", registry.address());
        let from_registry = json!({ "image": image, "annotations": { "ingle.pull-policy": "Always" } });
        daemon.ready("pulled", from_registry.clone()).await;
        assert_eq!(daemon.call("pulled").await.0, StatusCode::OK);
        let found = daemon.describe("pulled").await;
        assert_eq!(found["image"], image);
        assert!(
            found["imageDigest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")),
            "{found:#}"
        );

        // A name that nobody pushed is refused at once, with the name.
        let unknown = json!({ "image": format!("{}/fn/other:1", registry.address()),
            "annotations": { "ingle.pull-policy": "Always" } });
        let answer = daemon.deploy("unknown", unknown).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let text = answer.text().await.expect("text");
        assert!(text.contains("fn/other:1") && text.contains("was not found"), "{text}");
        assert_eq!(daemon.describe("unknown").await, Value::Null);

        // From here on there is no registry: what was deployed is started all the same.
        registry.stop();
        let scaled = json!({ "serviceName": "pulled", "replicas": 2 });
        let answer = daemon.api(Method::POST, "/system/scale-function/pulled").json(&scaled).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
        eventually!(daemon.describe("pulled").await["availableReplicas"] == 2, "{}", daemon.log());
        let answer = daemon.deploy("late", from_registry).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        daemon.end(Signal::SIGKILL);
        daemon.resume().await;
        assert_eq!(daemon.call("pulled").await.0, StatusCode::OK);
        daemon.remove("pulled").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn a_rollback_serves_what_served_before_also_after_a_restart_and_without_the_registry() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "docker-registry", "skopeo");
    in_own_network(async {
        let mut registry = DockerRegistry::start(Setup::default()).await;
        push_sample(&registry, &[]);
        let mut daemon = Daemon::bare("").await;
        daemon.resume().await;
        let version = |version: &str| {
            json!({ "image": format!("{}/fn/hello:1", registry.address()), "envVars": { "version": version },
                "annotations": { "ingle.pull-policy": "Always" } })
        };
        daemon.ready("hello", version("one")).await;
        daemon.ready("hello", version("two")).await;
        // The first one is ready as well, until the second takes its place.
        eventually!(within 30, daemon.describe("hello").await["revision"] == 2, "{}", daemon.log());
        assert!(daemon.call("hello/env").await.1.contains("version=two"));

        registry.stop();
        for (number, text) in [(3, "one"), (4, "two")] {
            let answer =
                daemon.api(Method::POST, "/system/function/hello/rollback").send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::ACCEPTED);
            assert_eq!(answer.headers()["x-revision"], number.to_string().as_str());
            eventually!(
                within 30,
                daemon.describe("hello").await["revision"] == number,
                "{:#}\n{}",
                daemon.describe("hello").await,
                daemon.log()
            );
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                assert!(daemon.call("hello/env").await.1.contains(&format!("version={text}")));
                daemon.end(signal);
                daemon.resume().await;
            }
            assert!(daemon.call("hello/env").await.1.contains(&format!("version={text}")));
        }
        let found = daemon.describe("hello").await;
        let kept = found["revisions"].as_array().expect("revisions").iter();
        assert!(kept.map(|kept| &kept["revision"]).eq([4, 3, 2, 1].iter()), "{found:#}");
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn credentials_are_those_of_docker() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "docker-registry", "skopeo", "htpasswd");
    in_own_network(async {
        let registry = DockerRegistry::start(Setup { password: true, ..Setup::default() }).await;
        push_sample(&registry, &[&format!("--dest-creds={USER}:{PASSWORD}")]);
        let logins = TemporaryDirectory::new();
        let file = logins.path().join("config.json");
        let mut daemon = Daemon::bare(&format!("[images]\ndocker_config = {file:?}\n")).await;
        daemon.resume().await;
        let private = json!({ "image": format!("{}/fn/hello:1", registry.address()),
            "annotations": { "ingle.pull-policy": "Always" } });
        let answer = daemon.deploy("private", private.clone()).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let text = answer.text().await.expect("text");
        assert!(text.contains(&registry.address()) && text.contains("docker login"), "{text}");
        assert_eq!(daemon.describe("private").await, Value::Null);
        // No restart is needed after a login.
        write_login(&file, &registry.address(), USER, PASSWORD);
        daemon.ready("private", private).await;
        assert_eq!(daemon.call("private").await.0, StatusCode::OK);
    });
}
