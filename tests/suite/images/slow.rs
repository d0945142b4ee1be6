//! Registries that are slow, or want to be left alone: only who pulls from them waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host::runtime::{Progress, Runtime};
use model::function::PullPolicy;

use super::Place;
use crate::support::oci::TestImage;
use crate::support::registry::{HandmadeRegistry, Reply, honest};

const SOON: Duration = Duration::from_secs(20);

/// More layers than may come at the same time.
fn many_layers(seed: &str) -> TestImage {
    TestImage::new(seed, &[70_000, 70_001, 70_002, 70_003, 70_004, 70_005])
}

#[tokio::test]
async fn a_registry_that_stands_still_keeps_no_other_pull_and_no_archive_waiting() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = many_layers("still");
    let image = made.clone();
    let still = HandmadeRegistry::serve(move |asked| {
        let reply = honest(&image, asked);
        if asked.path.contains("/blobs/") && reply.body.len() > 50_000 {
            reply.stalled_at(1000)
        } else {
            reply
        }
    })
    .await;
    let resolved = place.resolve(&format!("{}/me/fn:1", still.address())).await.expect("resolved");
    let runtime = place.runtime.clone();
    let pull = tokio::spawn(async move {
        runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await.map(drop)
    });
    eventually!(
        still.asked().iter().filter(|asked| asked.path.contains("/blobs/")).count() > 4,
        "it does not pull"
    );

    // The very same image from elsewhere.
    let image = made.clone();
    let healthy = HandmadeRegistry::serve(move |asked| honest(&image, asked)).await;
    let name = format!("{}/me/fn:1", healthy.address());
    tokio::time::timeout(SOON, place.pull(&name))
        .await
        .expect("it waits for the other registry")
        .expect("pulled");
    for name in place.names() {
        place.containerd.ctr(&["images", "rm", &name]);
    }
    let archive = place.containerd.path().join("same.tar");
    made.write_archive(&archive, Some("me/same:1"));
    let load = place.runtime.load(archive, None);
    tokio::time::timeout(SOON, load).await.expect("it waits for a registry").expect("loaded");
    assert!(!pull.is_finished());
    pull.abort();
}

#[tokio::test]
async fn a_registry_that_is_waited_for_is_named_and_has_its_slots_back() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let (made, small) = (many_layers("limits"), TestImage::new("small", &[500]));
    let limits = Arc::new(AtomicBool::new(true));
    let (image, other, limited) = (made.clone(), small.clone(), limits.clone());
    let registry = HandmadeRegistry::serve(move |asked| {
        let reply = honest(if asked.path.contains("/small/") { &other } else { &image }, asked);
        match asked.path.contains("/blobs/") && reply.body.len() > 50_000 && limited.load(Ordering::SeqCst) {
            true => Reply::new(429, "").with("retry-after", "40"),
            false => reply,
        }
    })
    .await;
    let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect("resolved");
    let (runtime, progress) = (place.runtime.clone(), Progress::default());
    let shown = progress.clone();
    let pull =
        tokio::spawn(async move { runtime.pull(&resolved, PullPolicy::Always, &progress).await.map(drop) });
    eventually!(shown.held_up_by().is_some_and(|text| text.contains("429")), "nothing is said");
    assert!(shown.held_up_by().is_some_and(|text| text.starts_with(&registry.address())), "{shown:?}");
    limits.store(false, Ordering::SeqCst);
    let name = format!("{}/small/fn:1", registry.address());
    tokio::time::timeout(SOON, place.pull(&name)).await.expect("it has no slot").expect("pulled");
    assert!(!pull.is_finished(), "it was asked again too soon");
    pull.abort();
}
