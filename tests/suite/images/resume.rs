//! Transfers that break: what has arrived is not sent again, and the result is checked all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use host::runtime::{Progress, Runtime};
use model::function::PullPolicy;

use super::Place;
use crate::support::oci::TestImage;
use crate::support::registry::{HandmadeRegistry, Reply, honest};

const SIZE: usize = 3 << 20;

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_ended() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("resume", &[SIZE]);
    let layer = made.layers[0].clone();
    let size = made.layer(0).len();
    let image = made.clone();
    let registry = HandmadeRegistry::serve(move |asked| {
        let reply = honest(&image, asked);
        // Every transfer of the layer breaks after a megabyte.
        if asked.path.contains("/blobs/") && reply.body.len() > 1 << 20 {
            reply.cut_at(1 << 20)
        } else {
            reply
        }
    })
    .await;
    let progress = Progress::default();
    let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect("resolved");
    place.runtime.pull(&resolved, PullPolicy::Always, &progress).await.expect("pulled");
    let asked: Vec<usize> = registry.asked_for(&layer).iter().map(|asked| asked.from.unwrap_or(0)).collect();
    assert_eq!(asked[0], 0);
    assert!(asked.len() >= 3, "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[0] < pair[1]), "{asked:?}");
    let report = progress.report();
    assert_eq!((report.done, report.total), (size as u64, size as u64), "nothing is counted twice");
}

#[tokio::test]
async fn a_daemon_that_is_killed_goes_on_after_its_start() {
    require_root!();
    require!("containerd");
    let mut place = Place::start().await;
    let made = TestImage::new("killed", &[SIZE]);
    let layer = made.layers[0].clone();
    let image = made.clone();
    let open = Arc::new(AtomicUsize::new(0));
    let gate = open.clone();
    let registry = HandmadeRegistry::serve(move |asked| {
        let reply = honest(&image, asked);
        let closed = gate.load(Ordering::SeqCst) == 0;
        match (asked.path.contains("/blobs/") && reply.body.len() > 1 << 20 && closed, asked.from) {
            (true, None) => reply.cut_at(2 << 20),
            // It stays away for as long as the first daemon lives.
            (true, Some(_)) => Reply::new(503, "away"),
            (false, _) => reply,
        }
    })
    .await;
    let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect("resolved");
    let runtime = place.runtime.clone();
    let (wanted, progress) = (resolved.clone(), Progress::default());
    let counted = progress.clone();
    let pull = tokio::spawn(async move { runtime.pull(&wanted, PullPolicy::Always, &counted).await });
    eventually!(registry.asked_for(&layer).len() >= 2, "the transfer never broke");
    pull.abort();
    assert!(pull.await.is_err_and(|error| error.is_cancelled()));
    place.restart().await;

    let leases = place.leases();
    assert_eq!(leases.len(), 1, "{leases:?}");
    let described = place.containerd.ctr(&["leases", "ls"]);
    let described = String::from_utf8_lossy(&described.stdout).into_owned();
    assert!(described.contains("ingle/image="), "{described}");
    assert!(!described.contains("containerd.io/gc.expire="), "it hangs on the clock: {described}");
    place.collect_garbage();
    assert_eq!(place.ingests().len(), 1, "what has arrived is kept");

    open.store(1, Ordering::SeqCst);
    place.runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await.expect("pulled");
    let last = registry.asked_for(&layer).pop().expect("asked");
    // How much of it arrived before the transfer broke is a matter of the moment.
    assert!(last.from.is_some_and(|from| from > 0), "{last:?}");
    assert_eq!((place.ingests(), place.leases()), (vec![], vec![]));
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_sends_all_of_it_again() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("norange", &[SIZE]);
    let layer = made.layers[0].clone();
    let size = made.layer(0).len() as u64;
    let image = made.clone();
    let registry = HandmadeRegistry::serve(move |asked| {
        let mut whole = asked.clone();
        whole.from = None;
        let reply = honest(&image, &whole);
        let is_first = asked.from.is_none();
        if asked.path.contains("/blobs/") && reply.body.len() > 1 << 20 && is_first {
            reply.cut_at(1 << 20)
        } else {
            reply
        }
    })
    .await;
    let progress = Progress::default();
    let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect("resolved");
    place.runtime.pull(&resolved, PullPolicy::Always, &progress).await.expect("pulled");
    let asked = registry.asked_for(&layer);
    assert_eq!(asked.len(), 2);
    assert!(asked[1].from.is_some_and(|from| from > 0), "{asked:?}");
    assert_eq!(progress.report().done, size);
}

#[tokio::test]
async fn a_registry_that_refuses_ranges_sends_all_of_it_again() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    // 206 is another part than the one that was asked for.
    for status in [416, 400, 403, 404, 405, 501, 500, 206] {
        let made = TestImage::new(&format!("refuses{status}"), &[SIZE]);
        let layer = made.layers[0].clone();
        let times = Arc::new(AtomicUsize::new(0));
        let registry = HandmadeRegistry::serve(move |asked| {
            let mut whole = asked.clone();
            whole.from = None;
            let reply = honest(&made, &whole);
            let is_layer = asked.path.contains("/blobs/") && reply.body.len() > 1 << 20;
            match (asked.from, is_layer && times.fetch_add(1, Ordering::SeqCst) == 0) {
                (Some(_), _) if status == 206 => {
                    Reply::new(206, &reply.body[7..]).with("content-range", "bytes 7-99/*")
                }
                (Some(_), _) => Reply::new(status, "not in parts"),
                (None, true) => reply.cut_at(1 << 20),
                (None, false) => reply,
            }
        })
        .await;
        let pulled = place.pull(&format!("{}/me/fn:1", registry.address())).await;
        assert!(pulled.is_ok(), "{status}: {pulled:?}");
        let asked = registry.asked_for(&layer);
        assert!(asked.iter().any(|asked| asked.from.is_some()), "no part was asked for: {asked:?}");
        assert!(asked.last().is_some_and(|asked| asked.from.is_none()), "{asked:?}");
    }
}

#[tokio::test]
async fn a_bad_part_from_before_is_fetched_anew() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("badpart", &[SIZE]);
    let layer = made.layers[0].clone();
    let image = made.clone();
    let times = Arc::new(AtomicUsize::new(0));
    let registry = HandmadeRegistry::serve(move |asked| {
        let mut reply = honest(&image, asked);
        if asked.path.contains("/blobs/")
            && reply.body.len() > 1 << 20
            && times.fetch_add(1, Ordering::SeqCst) == 0
        {
            reply.body[100] ^= 1;
            return reply.cut_at(2 << 20);
        }
        reply
    })
    .await;
    let pulled = place.pull(&format!("{}/me/fn:1", registry.address())).await;
    pulled.expect("the second whole attempt is good");
    let asked: Vec<Option<usize>> = registry.asked_for(&layer).iter().map(|asked| asked.from).collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[0].is_none() && asked[1].is_some() && asked[2].is_none(), "{asked:?}");
}

#[tokio::test]
async fn an_unpacking_that_was_broken_off_is_taken_up() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("unpack", &[1000, 2000]);
    let first = made.layers[0].clone();
    let registry = HandmadeRegistry::serve(move |asked| honest(&made, asked)).await;
    // The layers are plain, so that a layer's digest is that of what it unpacks to.
    let half_done = format!("ingle-unpack-{first}");
    let prepared = place.containerd.ctr(&["snapshots", "prepare", &half_done]);
    assert!(prepared.status.success(), "{prepared:?}");
    assert_eq!(place.snapshots(), [half_done.as_str()]);
    place.pull(&format!("{}/me/fn:1", registry.address())).await.expect("pulled");
    let snapshots = place.snapshots();
    assert_eq!(snapshots.len(), 2);
    assert!(!snapshots.contains(&half_done), "{snapshots:?}");
}
