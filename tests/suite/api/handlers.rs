//! Code that is handed over beside an image.

use model::function::HandlerDigest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::world::World;

/// An archive with one file, and its digest.
fn archive(path: &str, content: &str) -> (Vec<u8>, String) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, content.as_bytes()).expect("appended");
    let bytes = builder.into_inner().expect("an archive");
    let digest = HandlerDigest::of(&Sha256::digest(&bytes).into()).to_string();
    (bytes, digest)
}

impl World {
    async fn hand_over(&self, digest: &str, archive: Vec<u8>) -> (u16, String) {
        let answer = self.send("PUT", &format!("/system/handlers/{digest}"), archive).await;
        (answer.status, answer.body)
    }

    /// Returns when this revision serves.
    async fn serves(&self, name: &str, revision: u64) {
        eventually!(
            {
                let status = self.describe(name).await;
                status["phase"] == "ready" && status["revision"] == revision
            },
            "revision {revision} of {name} never served"
        );
    }

    /// What the state directory has of handlers, whole or not.
    fn handlers(&self) -> usize {
        let count = |name| std::fs::read_dir(self.state_dir().join(name)).expect("there").count();
        count("handlers") + count("archives")
    }
}

fn deployment(digest: &str) -> String {
    let annotations = json!({ "ingle.handler": digest });
    json!({ "service": "env", "image": "you/env:1", "annotations": annotations }).to_string()
}

#[tokio::test]
async fn a_function_gets_the_handler_that_it_names() {
    let world = World::new().await;
    let (bytes, digest) = archive("handler.py", "print(1)");
    let path = format!("/system/handlers/{digest}");
    assert_eq!(world.get(&path).await.status, 404);
    let answer = world.send("POST", "/system/functions", deployment(&digest)).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.body.contains("ingle deploy NAME --handler DIR"), "{}", answer.body);
    assert_eq!(world.get("/system/function/env").await.status, 404, "what was refused changed something");

    assert_eq!(world.hand_over(&digest, bytes.clone()).await.0, 201);
    assert_eq!(world.hand_over(&digest, bytes.clone()).await.0, 200, "it is here");
    let answer = world.get(&path).await;
    assert_eq!((answer.status, answer.body.as_bytes()), (200, bytes.as_slice()), "as it was handed over");
    let answer = world.send("HEAD", &path, "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let answer = world.send("POST", "/system/functions", deployment(&digest)).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    eventually!(!world.runtime.requests().is_empty(), "no replica is made");
    let request = world.runtime.requests().remove(0);
    let inside =
        |target: &str| request.mounts.iter().find(|mount| mount.target.as_os_str() == target).cloned();
    let mount = inside("/home/app/function").expect("the handler is mounted");
    assert!(mount.holds_programs, "scripts in it can be run");
    assert_eq!(std::fs::read_to_string(mount.source.join("handler.py")).expect("there"), "print(1)");
    assert_eq!(request.labels()["ingle/handler"], digest);

    let usage: Value = serde_json::from_str(&world.get("/system/df").await.body).expect("json");
    assert_eq!(usage["handlers"]["count"], 1);
    assert_eq!(usage["handlers"]["unused"], 0, "{usage}");
}

#[tokio::test]
async fn what_cannot_be_a_handler_is_refused_and_leaves_nothing() {
    let world = World::with("[functions]\nhandler_limit = \"100\"\n").await;
    let (bytes, digest) = archive("handler.py", "print(1)");
    let other = format!("sha256:{}", "0".repeat(64));
    let (escape, escape_digest) = archive("../handler.py", "x");
    let (large, large_digest) = archive("a", &"x".repeat(101));
    let noise = vec![7; 3000];
    let noise_digest = HandlerDigest::of(&Sha256::digest(&noise).into()).to_string();
    for (digest, body, status, reason) in [
        ("latest", bytes.clone(), 400, "is not a digest"),
        (other.as_str(), bytes, 400, "send the archive that the digest is of"),
        (escape_digest.as_str(), escape, 400, "leads out of the handler"),
        (large_digest.as_str(), large, 413, "functions.handler_limit"),
        (noise_digest.as_str(), noise, 400, "the archive cannot be used"),
        (digest.as_str(), Vec::new(), 400, "the body is empty"),
        // The archive itself, whatever is in it.
        (digest.as_str(), vec![0; (16 << 20) + 101], 413, "the archive is larger than"),
    ] {
        let (found, text) = world.hand_over(digest, body).await;
        assert_eq!(found, status, "{digest}: {text}");
        assert!(text.contains(reason), "{digest}: {text}");
        assert_eq!(world.handlers(), 0, "{digest}");
    }
    let answer = world.send("POST", "/system/functions", deployment("latest")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("annotations.ingle.handler"), "{}", answer.body);
}

#[tokio::test]
async fn what_a_revision_names_stays_and_is_there_again_after_a_rollback() {
    let world = World::new().await;
    let mut digests = Vec::new();
    for content in ["one", "two", "nobody's"] {
        let (bytes, digest) = archive("handler.py", content);
        assert_eq!(world.hand_over(&digest, bytes).await.0, 201);
        digests.push(digest);
    }
    let answer = world.send("POST", "/system/functions", deployment(&digests[0])).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    world.serves("env", 1).await;
    let answer = world.send("PUT", "/system/functions", deployment(&digests[1])).await;
    assert!(answer.status < 300, "{}", answer.body);
    world.serves("env", 2).await;
    // All of them were handed over long ago.
    let long_ago = std::time::SystemTime::now() - host::bundles::GRACE * 2;
    let there =
        |digest: &String| world.state_dir().join("handlers").join(digest.trim_start_matches("sha256:"));
    for digest in &digests {
        let directory = std::fs::File::open(there(digest)).expect("there");
        directory.set_modified(long_ago).expect("set");
    }
    world.fleet.disk().collect().await.expect("collected");
    let found: Vec<_> = digests.iter().map(|digest| there(digest).is_dir()).collect();
    assert_eq!(found, [true, true, false], "an earlier revision's is kept");
    let answer = world.send("POST", "/system/function/env/rollback", "{}").await;
    assert!(answer.status < 300, "{}", answer.body);
    world.serves("env", 3).await;
    let request = world.runtime.requests().into_iter().find(|request| request.revision == 3);
    let request = request.expect("a replica");
    assert!(
        request.mounts.iter().any(|mount| mount.source == there(&digests[0]).join("files")),
        "{:?}",
        request.mounts
    );
}
