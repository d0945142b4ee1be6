//! The examples: functions in the languages that people write them in. Each is an image of Debian's packages, pushed
//! to a registry, pulled, and called through the gateway.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use serde_json::json;

use super::moving::ingle;
use crate::support::TemporaryDirectory;
use crate::support::daemon::{Daemon, in_own_network};
use crate::support::registry::{DockerRegistry, Setup, push_archive};

/// The archive of an example, which `examples/image` builds.
pub(super) fn archive(name: &str) -> Result<PathBuf, String> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let archive = project.join(format!("target/examples/{name}.tar"));
    if archive.is_file() {
        return Ok(archive);
    }
    Err(format!("{} is not there: sudo examples/image {name}", archive.display()))
}

/// Status, content type and body of the answer to a POST.
async fn post(daemon: &Daemon, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, String, Vec<u8>) {
    let answer = daemon.client.post(daemon.url(&format!("/function/{path}"))).body(body).send().await;
    let answer = answer.expect("an answer");
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
    (answer.status(), kind.unwrap_or_default(), answer.bytes().await.expect("a body").to_vec())
}

#[test]
fn each_language_answers_through_the_gateway() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "docker-registry", "skopeo");
    // What runs for each call, and what runs once and counts its calls.
    let greeters = [
        ("bash", "bash", false),
        ("python-fork", "Python", false),
        ("java-fork", "Java", false),
        ("rust", "Rust", false),
        ("python-http", "Python", true),
        ("node-http", "Node.js", true),
        ("python-afterburn", "Python", true),
        ("java-afterburn", "Java", true),
    ];
    for name in greeters.map(|(name, ..)| name).into_iter().chain(["imagemagick"]) {
        if let Err(reason) = archive(name) {
            return crate::support::cannot_run(&reason);
        }
    }
    in_own_network(async {
        let registry = DockerRegistry::start(Setup::default()).await;
        let mut daemon = Daemon::bare("").await;
        daemon.resume().await;
        let deploy = async |name: &str| {
            push_archive(&registry, &archive(name).expect("there"), &format!("examples/{name}:1"), &[]);
            let image = format!("{}/examples/{name}:1", registry.address());
            let annotations = json!({ "ingle.pull-policy": "Always" });
            daemon.ready(name, json!({ "image": image, "annotations": annotations })).await;
        };
        for (name, language, counts) in greeters {
            deploy(name).await;
            for call in 1..=2 {
                let call = if counts { format!(", call {call}") } else { String::new() };
                let wanted = format!("Hello, Ada, from {language}{call} (POST /greet)\n");
                let (status, _, body) = post(&daemon, &format!("{name}/greet?loud=no"), "Ada").await;
                let text = String::from_utf8_lossy(&body).replace("?loud=no", "");
                assert_eq!(
                    (status, text.as_str()),
                    (StatusCode::OK, wanted.as_str()),
                    "{name}: {}",
                    daemon.log()
                );
            }
            daemon.remove(name).await;
        }
        // An image goes in, 4 by 2 dots, and comes out half as large.
        deploy("imagemagick").await;
        let (status, kind, body) = post(&daemon, "imagemagick", "P1\n4 2\n0 1 0 1\n1 0 1 0\n").await;
        assert_eq!(
            (status, kind.as_str()),
            (StatusCode::OK, "image/png"),
            "{}",
            String::from_utf8_lossy(&body)
        );
        assert!(body.starts_with(b"\x89PNG\r\n\x1a\n"), "{body:?}");
        assert_eq!(body[16..24], [0, 0, 0, 2, 0, 0, 0, 1], "its width and height");
        // What is no image is the command's to refuse.
        let (status, _, body) = post(&daemon, "imagemagick", "no image").await;
        assert_eq!(
            (status, body.as_slice()),
            (StatusCode::INTERNAL_SERVER_ERROR, b"exit status 1\n".as_slice())
        );
        daemon.remove("imagemagick").await;
        daemon.nothing_left().await;
    });
}

/// Runs a program that must succeed.
pub(super) fn done(program: &str, arguments: &[&str]) {
    let output = std::process::Command::new(crate::support::tool(program).expect(program))
        .args(arguments)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_server_without_an_image_of_its_own_runs_in_that_of_its_language() {
    require_root!();
    require!("containerd", "runc", "ip", "nft", "docker-registry", "skopeo", "umoci");
    let archive = match archive("python-http") {
        Ok(archive) => archive,
        Err(reason) => return crate::support::cannot_run(&reason),
    };
    in_own_network(async {
        let registry = DockerRegistry::start(Setup::default()).await;
        // Python as its makers would ship it: nothing in its configuration says what a function is.
        let directory = TemporaryDirectory::new();
        let layout = format!("{}:1", directory.path().join("python").display());
        let (from, to) = (format!("docker-archive:{}", archive.display()), format!("oci:{layout}"));
        done("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &to]);
        let config = ["config", "--image", &layout, "--clear=config.env", "--config.cmd=python3"];
        done("umoci", &config);
        let image = format!("{}/library/python:3", registry.address());
        let pushed = format!("docker://{image}");
        done("skopeo", &["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &to, &pushed]);
        let mut daemon =
            Daemon::bare(&format!("[functions]\nwatchdog = {:?}\n", crate::support::watchdog())).await;
        daemon.resume().await;

        let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python-http").display().to_string();
        let server = ["--mode", "http", "--handler", &code, "--fprocess", "python3 function/handler.py"];
        let said = ingle(&daemon, &[&["deploy", "hello", "--image", &image][..], &server].concat()).await;
        assert!(said.status.success(), "{}{}", String::from_utf8_lossy(&said.stderr), daemon.log());
        for call in 1..=2 {
            let (status, _, body) = post(&daemon, "hello/greet", "Ada").await;
            let wanted = format!("Hello, Ada, from Python, call {call} (POST /greet)\n");
            assert_eq!((status, String::from_utf8_lossy(&body).into_owned()), (StatusCode::OK, wanted));
        }
        daemon.remove("hello").await;
        daemon.nothing_left().await;
    });
}
