//! What cannot be pulled: each has its error, with the reason, and leaves nothing behind.

use std::error::Error;

use host::runtime::{Progress, Runtime, RuntimeError};
use model::function::PullPolicy;
use serde_json::json;

use super::{Place, image};
use crate::support::oci::{TestImage, architecture, digest, layer};
use crate::support::registry::{DockerRegistry, HandmadeRegistry, Reply, Setup, honest};

/// The error with all its causes.
fn shown(error: &RuntimeError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    text
}

#[tokio::test]
async fn unknown_names_and_tags() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup::default()).await;
    registry.push(&TestImage::new("known", &[10]), "me/known:1", &[]);
    for name in ["me/known:2", "me/unknown:1"] {
        let name = format!("{}/{name}", registry.address());
        let error = place.resolve(&name).await.expect_err(&name);
        let RuntimeError::ImageNotFound { image, registry: asked } = &error else { panic!("{error}") };
        assert_eq!((image, asked), (&name, &registry.address()));
    }
    let error = place.runtime.resolve(&image("nowhere.invalid/x:1"), PullPolicy::Never).await;
    assert!(matches!(error, Err(RuntimeError::ImageNotLoaded { .. })));
    place.assert_empty();
}

#[tokio::test]
async fn registries_that_do_not_answer() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let page = HandmadeRegistry::serve(|_| Reply::new(404, "<!DOCTYPE html><p>not here")).await;
    let busy = HandmadeRegistry::serve(|_| Reply::new(503, "come back later")).await;
    let odd = HandmadeRegistry::serve(|_| Reply::new(200, "hello")).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (registry, reason) in [
        (closed.to_string(), "onnection refused"),
        ("nowhere.invalid".to_owned(), "lookup"),
        (page.address(), "web page"),
        (busy.address(), "503"),
    ] {
        let error = place.resolve(&format!("{registry}/me/fn:1")).await.expect_err(&registry);
        assert!(matches!(error, RuntimeError::RegistryUnreachable { .. }), "{error:?}");
        let shown = shown(&error);
        assert!(shown.contains(&registry) && shown.contains(reason), "{shown}");
    }
    assert_eq!(
        busy.asked().iter().filter(|asked| asked.method == "HEAD").count(),
        3,
        "asked again, not for ever"
    );
    let error = place.resolve(&format!("{}/me/fn:1", odd.address())).await.expect_err("no manifest");
    assert!(shown(&error).contains("manifest"), "{}", shown(&error));
    place.assert_empty();
}

#[tokio::test]
async fn a_certificate_that_nobody_knows() {
    require_root!();
    require!("containerd", "docker-registry", "openssl", "skopeo");
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup { tls: true, ..Setup::default() }).await;
    let address = registry.address();
    place.write_hosts(&address, &format!("server = \"https://{address}\"\n"));
    let error = place.resolve(&format!("{address}/me/fn:1")).await.expect_err("unknown authority");
    let shown = shown(&error);
    assert!(matches!(error, RuntimeError::RegistryUnreachable { .. }), "{shown}");
    assert!(shown.contains("unknown authority") && shown.contains("hosts.toml"), "{shown}");
}

#[tokio::test]
async fn layers_that_are_not_what_their_digest_says() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let good = TestImage::new("lies", &[50_000, 80_000]);
    let (same_size, longer, shorter) = (good.clone(), good.clone(), good.clone());
    let spoilt = good.layers[1].clone();
    let spoil = |image: TestImage, change: fn(&mut Vec<u8>)| {
        let spoilt = spoilt.clone();
        HandmadeRegistry::serve(move |asked| {
            let mut reply = honest(&image, asked);
            if asked.path.contains(&spoilt) {
                change(&mut reply.body);
            }
            reply
        })
    };
    let flipped = spoil(same_size, |body| body[600] ^= 1).await;
    let longer = spoil(longer, |body| body.extend_from_slice(&[0; 1000])).await;
    let shorter = spoil(shorter, |body| body.truncate(1000)).await;
    for registry in [&flipped, &longer] {
        let error = place.pull(&format!("{}/me/fn:1", registry.address())).await.expect_err("a lie");
        assert!(matches!(error, RuntimeError::BadImage { .. }), "{}", shown(&error));
        assert!(shown(&error).contains("sha256:"), "{}", shown(&error));
        assert_eq!(registry.asked_for(&spoilt).len(), 2, "once more from the first byte, then no more");
    }
    let error = place.pull(&format!("{}/me/fn:1", shorter.address())).await.expect_err("a lie");
    assert!(!matches!(error, RuntimeError::Failed { .. }), "{}", shown(&error));
    assert_eq!(place.snapshots(), [""; 0]);
    assert_eq!(place.names(), [""; 0]);

    // An honest registry of the same image is not held responsible.
    let registry = HandmadeRegistry::serve(move |asked| honest(&good, asked)).await;
    place.pull(&format!("{}/me/fn:1", registry.address())).await.expect("pulled");
}

#[tokio::test]
async fn documents_that_are_not_what_their_digest_says() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let good = TestImage::new("documents", &[500]);
    let config =
        serde_json::from_slice::<serde_json::Value>(&good.blobs[good.digest()]).unwrap()["config"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
    for spoilt in [good.digest().to_owned(), config] {
        let image = good.clone();
        let registry = HandmadeRegistry::serve(move |asked| {
            let mut reply = honest(&image, asked);
            if asked.method == "GET" && asked.path.contains(&spoilt) {
                reply.headers.retain(|(name, _)| *name != "docker-content-digest");
                reply.body.push(b' ');
            }
            reply
        })
        .await;
        let error = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect_err("a lie");
        assert!(matches!(error, RuntimeError::BadImage { .. }), "{}", shown(&error));
    }
}

#[tokio::test]
async fn documents_without_an_end_are_not_read_whole() {
    require_root!();
    require!("containerd");
    const ENDLESS: usize = 64 << 20;
    let place = Place::start().await;
    let good = TestImage::new("endless", &[500]);
    let config =
        serde_json::from_slice::<serde_json::Value>(&good.blobs[good.digest()]).unwrap()["config"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
    // Told by its length, or not; as a manifest, a config, a tag without a digest, or a refusal.
    for (spoilt, chunked, status) in [
        (good.digest(), true, 200),
        (good.digest(), false, 200),
        (&config, true, 200),
        ("/manifests/1", true, 200),
        ("/manifests/1", true, 404),
    ] {
        let (image, part) = (good.clone(), spoilt.to_owned());
        let registry = HandmadeRegistry::serve(move |asked| {
            if !asked.path.contains(&part) {
                return honest(&image, asked);
            }
            let reply = Reply::new(status, vec![b' '; ENDLESS]);
            if chunked { reply.chunked() } else { reply }
        })
        .await;
        let name = format!("{}/me/fn:1", registry.address());
        let error = place.resolve(&name).await.expect_err("it has no end");
        let case = format!("{spoilt} {chunked} {status}: {}", shown(&error));
        match status {
            200 => {
                assert!(matches!(error, RuntimeError::BadImage { .. }), "{case}");
                assert!(case.contains("more than"), "{case}");
            }
            _ => assert!(matches!(error, RuntimeError::ImageNotFound { .. }), "{case}"),
        }
        assert!(registry.sent() < ENDLESS / 2, "{} bytes were read of {case}", registry.sent());
    }
}

#[tokio::test]
async fn images_that_contradict_themselves() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let content = layer("a", b"content");
    let other = digest(b"something else");
    let made =
        |layers: Vec<Vec<u8>>, ids: &[String], kind: &str| TestImage::of(architecture(), layers, ids, kind);
    let cases = [
        ("no layers", made(vec![], &[], tar), "no layers"),
        (
            "a layer too many",
            made(vec![content.clone(), content.clone()], &[digest(&content)], tar),
            "2 layers",
        ),
        (
            "an encrypted layer",
            made(
                vec![content.clone()],
                &[digest(&content)],
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            ),
            "not supported",
        ),
        ("another diff id", made(vec![content.clone()], &[other], tar), "config says"),
        ("no tar", made(vec![vec![b'x'; 3000]], &[digest(&[b'x'; 3000])], tar), "cannot be unpacked"),
        (
            "no gzip",
            made(
                vec![b"\x1f\x8b\x08 and then no more".to_vec()],
                &[digest(&content)],
                &format!("{tar}+gzip"),
            ),
            "cannot be unpacked",
        ),
    ];
    for (what, image, reason) in cases {
        let registry = HandmadeRegistry::serve(move |asked| honest(&image, asked)).await;
        let error = place.pull(&format!("{}/me/fn:1", registry.address())).await.expect_err(what);
        let shown = shown(&error);
        assert!(matches!(error, RuntimeError::BadImage { .. }), "{what}: {shown}");
        assert!(shown.contains(reason), "{what}: {shown}");
        assert_eq!(place.snapshots(), [""; 0], "{what}");
        assert_eq!(place.names(), [""; 0], "{what}");
    }
    let chart = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(b"{}"), "size": 2 },
        "layers": [],
    });
    let registry = HandmadeRegistry::serve(move |asked| match asked.path.as_str() {
        "/v2/" => Reply::new(200, "{}"),
        _ => Reply::new(200, chart.to_string()),
    })
    .await;
    let error = place.resolve(&format!("{}/me/chart:1", registry.address())).await.expect_err("a chart");
    assert!(shown(&error).contains("no container image"), "{}", shown(&error));
}

#[tokio::test]
async fn an_image_that_was_removed_after_its_deploy_is_fetched_again_only_if_that_is_allowed() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("removed", &[500, 700]);
    let registry = HandmadeRegistry::serve(move |asked| honest(&made, asked)).await;
    let name = format!("{}/me/fn:1", registry.address());
    let resolved = place.pull(&name).await.expect("pulled").resolved.clone();
    for record in place.names() {
        assert!(place.containerd.ctr(&["images", "rm", &record]).status.success());
    }
    place.assert_empty();

    let before = registry.asked().len();
    let error = place.runtime.pull(&resolved, PullPolicy::Never, &Progress::default()).await;
    let error = error.expect_err("nothing of it is here");
    let RuntimeError::ImageGone { image, digest } = &error else { panic!("{error:?}") };
    assert_eq!((image, digest), (&name, &resolved.digest));
    assert_eq!(registry.asked().len(), before, "the registry was asked");
    place.assert_empty();

    // With the documents here, but no layer.
    place.resolve(&name).await.expect("resolved");
    let before = registry.asked().len();
    let error = place.runtime.pull(&resolved, PullPolicy::Never, &Progress::default()).await;
    assert!(matches!(error, Err(RuntimeError::ImageGone { .. })), "{error:?}");
    assert_eq!(registry.asked().len(), before, "the registry was asked");

    let progress = Progress::default();
    place.runtime.pull(&resolved, PullPolicy::IfNotPresent, &progress).await.expect("fetched again");
    let asked = registry.asked().split_off(before);
    assert!(
        asked.iter().all(|asked| !asked.path.ends_with("/manifests/1")),
        "the tag was looked up: {asked:?}"
    );
    place.runtime.pull(&resolved, PullPolicy::Never, &progress).await.expect("all of it is here");
}

#[tokio::test]
async fn an_image_that_went_away_between_deploy_and_start() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("gone", &[500]);
    let layer = made.layers[0].clone();
    let registry = HandmadeRegistry::serve(move |asked| {
        if asked.path.contains(&layer) {
            Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#)
        } else {
            honest(&made, asked)
        }
    })
    .await;
    let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect("resolved");
    let error =
        place.runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await.expect_err("no layer");
    assert!(matches!(error, RuntimeError::ImageNotFound { .. }), "{}", shown(&error));
}
