//! What stays: images that are in use survive every collection, and names that move on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use host::runtime::{Progress, Runtime};
use model::function::PullPolicy;

use super::Place;
use crate::support::oci::TestImage;
use crate::support::registry::{HandmadeRegistry, Reply, honest};

#[tokio::test]
async fn nothing_of_a_pulled_image_is_collected() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("gc", &[1000, 2000, 3000]);
    let image = made.clone();
    let registry = HandmadeRegistry::serve(move |asked| honest(&image, asked)).await;
    let pulled = place.pull(&format!("{}/me/fn:1", registry.address())).await.expect("pulled");
    place.collect_garbage();
    let mut blobs = place.blobs();
    blobs.sort();
    let mut all: Vec<String> = made.blobs.keys().cloned().collect();
    all.sort();
    assert_eq!(blobs, all);
    assert_eq!(place.snapshots().len(), 3);
    assert!(place.snapshots().contains(&pulled.chain_id));

    // Without the name nothing holds them, and the next pull finds that out.
    let removed =
        place.containerd.ctr(&["images", "rm", "--sync", &format!("{}/me/fn:1", registry.address())]);
    assert!(removed.status.success(), "{removed:?}");
    place.assert_empty();
    let again = place
        .runtime
        .pull(&pulled.resolved, PullPolicy::Always, &Progress::default())
        .await
        .expect("pulled again");
    assert_eq!(again, pulled);
    assert!(place.snapshots().contains(&pulled.chain_id));
}

#[tokio::test]
async fn a_tag_that_moves_on_leaves_the_image_that_may_still_run() {
    require_root!();
    require!("containerd");
    let mut place = Place::start().await;
    let current = Arc::new(Mutex::new(TestImage::new("version1", &[1000])));
    let away = Arc::new(Mutex::new(false));
    let (served, down) = (current.clone(), away.clone());
    let registry = HandmadeRegistry::serve(move |asked| {
        if *down.lock().unwrap() { Reply::new(503, "away") } else { honest(&served.lock().unwrap(), asked) }
    })
    .await;
    let name = format!("{}/me/fn:latest", registry.address());
    let first = place.pull(&name).await.expect("first");
    *current.lock().unwrap() = TestImage::new("version2", &[1000]);
    let second = place.pull(&name).await.expect("second");
    assert_ne!(first.resolved.digest, second.resolved.digest);

    // The update failed, and the first version is started again, by this daemon and the next one.
    *away.lock().unwrap() = true;
    for _ in 0..2 {
        place.collect_garbage();
        for image in [&first, &second] {
            let pulled = place.runtime.pull(&image.resolved, PullPolicy::Always, &Progress::default()).await;
            assert_eq!(&pulled.expect("it is here"), image);
        }
        let listed = place.runtime.images().await.expect("listed");
        let pointed = listed.iter().find(|record| record.name == name).expect("the name");
        assert_eq!(pointed.digest, second.resolved.digest, "a start does not move the name back");
        place.restart().await;
    }

    // They do not pile up.
    *away.lock().unwrap() = false;
    for version in 3..8 {
        *current.lock().unwrap() = TestImage::new(&format!("version{version}"), &[1000]);
        place.pull(&name).await.expect("another");
    }
    place.disk("").collect().await.expect("collected");
    assert_eq!(place.names().len(), 3, "{:?}", place.names());
    place.collect_garbage();
    assert_eq!(place.snapshots().len(), 3);
}

#[tokio::test]
async fn starting_from_an_image_that_is_here_takes_next_to_no_time() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("fast", &[1000; 6]);
    let registry = HandmadeRegistry::serve(move |asked| honest(&made, asked)).await;
    let pulled = place.pull(&format!("{}/me/fn:1", registry.address())).await.expect("pulled");
    let asked = registry.asked().len();
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        place
            .runtime
            .pull(&pulled.resolved, PullPolicy::Always, &Progress::default())
            .await
            .expect("it is here");
        times.push(started.elapsed());
    }
    assert_eq!(registry.asked().len(), asked, "the registry is not asked");
    times.sort();
    let median = times[times.len() / 2];
    println!("pull of an image that is here: median {median:?}, worst {:?}", times[times.len() - 1]);
    // Far above what it takes, so that a loaded machine does not matter.
    assert!(median < Duration::from_millis(30), "{median:?}");
}
