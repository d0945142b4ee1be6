//! Bad input: the status, the reason that names the thing, and that nothing was changed.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, SAMPLE, in_own_network};
use crate::support::image;

#[test]
fn a_bad_deploy_is_refused_with_a_reason_and_changes_nothing() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        let archive = daemon.containerd.path().join("empty.tar");
        image::write_archive(&archive, "test/no-command:1", &image::busybox(), &json!({}));
        daemon.load(&archive).await;
        daemon.ready("keep", json!({})).await;
        let kept = daemon.containers();
        let never = json!({ "ingle.pull-policy": "Never" });
        let cases: Vec<(Value, StatusCode, &[&str])> = vec![
            (json!({ "service": "a/b", "image": SAMPLE }), StatusCode::BAD_REQUEST, &["service", "a/b"]),
            (json!({ "service": "..", "image": SAMPLE }), StatusCode::BAD_REQUEST, &["service"]),
            (json!({ "service": "x", "image": "" }), StatusCode::BAD_REQUEST, &["image"]),
            (
                json!({ "service": "x", "image": "not a name" }),
                StatusCode::BAD_REQUEST,
                &["image", "not a name"],
            ),
            (
                json!({ "service": "x", "image": "test/unknown:1", "annotations": never }),
                StatusCode::BAD_REQUEST,
                &["test/unknown:1", "image load"],
            ),
            (
                json!({ "service": "x", "image": "127.0.0.1:1/x:1" }),
                StatusCode::BAD_GATEWAY,
                &["127.0.0.1:1", "could not be reached"],
            ),
            (
                json!({ "service": "x", "image": "test/no-command:1", "annotations": never }),
                StatusCode::BAD_REQUEST,
                &["test/no-command:1", "no entrypoint"],
            ),
            (
                json!({ "service": "x", "image": SAMPLE, "limits": { "memory": "lots" } }),
                StatusCode::BAD_REQUEST,
                &["limits.memory", "lots"],
            ),
            (
                json!({ "service": "x", "image": SAMPLE, "secrets": ["nobody-made-this"] }),
                StatusCode::BAD_REQUEST,
                &["nobody-made-this"],
            ),
            (
                json!({ "service": "x", "image": SAMPLE, "secrets": ["../../etc/shadow"] }),
                StatusCode::BAD_REQUEST,
                &["secret"],
            ),
            (
                json!({ "service": "x", "image": SAMPLE, "namespace": "nowhere" }),
                StatusCode::NOT_FOUND,
                &["namespace", "nowhere"],
            ),
            (
                json!({ "service": "x", "image": SAMPLE, "labels": { "faas_function": "y" } }),
                StatusCode::BAD_REQUEST,
                &["faas_function"],
            ),
        ];
        for (body, status, parts) in cases {
            let answer =
                daemon.api(Method::POST, "/system/functions").json(&body).send().await.expect("an answer");
            let found = answer.status();
            let text = answer.text().await.expect("text");
            assert_eq!(found, status, "{body}: {text}");
            for part in parts {
                assert!(text.contains(part), "{body}: {part:?} is not in {text:?}");
            }
            assert!(text.ends_with('\n'), "{text:?}");
        }
        for body in ["", "{", "[]", "{\"service\": 7}", "nonsense"] {
            let request = daemon.api(Method::POST, "/system/functions").body(body);
            let answer = request.header("content-type", "application/json").send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body:?}");
        }
        let unknown = json!({ "service": "x", "image": SAMPLE, "annotations": never });
        let answer =
            daemon.api(Method::PUT, "/system/functions").json(&unknown).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "an update of nothing");

        let list = daemon.api(Method::GET, "/system/functions").send().await.expect("an answer");
        let list: Value = list.json().await.expect("JSON");
        assert_eq!(list.as_array().expect("an array").len(), 1, "{list:#}");
        assert_eq!(daemon.containers(), kept);
        daemon.remove("keep").await;
        daemon.nothing_left().await;
    });
}

#[test]
fn an_image_for_another_architecture_is_said_before_anything_starts() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        let archive = daemon.containerd.path().join("other.tar");
        image::write_archive_for(
            "s390x",
            &archive,
            "test/other:1",
            &image::busybox(),
            &json!({ "Cmd": ["/bin/sh"] }),
        );
        let body = std::fs::read(&archive).expect("read the archive");
        let answer = daemon.api(Method::POST, "/system/images").body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        let text = answer.text().await.expect("text");
        assert!(text.contains("linux/s390x"), "{text}");
        daemon.nothing_left().await;
    });
}

#[test]
fn limits_of_time_and_size_say_which_one_was_reached() {
    require_root!();
    require!("containerd", "runc", "ip", "nft");
    in_own_network(async {
        let daemon = Daemon::start("").await;
        let annotations =
            json!({ "ingle.timeout": "1s", "ingle.body-limit": "1Ki", "ingle.pull-policy": "Never" });
        daemon.ready("tight", json!({ "annotations": annotations })).await;
        let (status, text) = daemon.call("tight/hang").await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
        assert!(text.contains("tight") && text.contains("ingle.timeout"), "{text}");
        let request = daemon.client.post(daemon.url("/function/tight")).body(vec![b'x'; 2048]);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(daemon.call("tight").await.0, StatusCode::OK);
        let (status, text) = daemon.call("nobody").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(text.contains("nobody"), "{text}");
    });
}
