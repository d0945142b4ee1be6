//! What goes: images that no function uses, and what is left of pulls that broke off.

use std::sync::{Arc, Mutex};

use control::images::{Disk, DiskError};
use host::bundles::Handlers;
use host::logs::Logs;
use host::runtime::{Image, Progress, ResolvedImage, Runtime, RuntimeError};
use host::store::{FunctionRecord, RevisionRecord, Store};
use model::config::Config;
use model::function::{FunctionKey, Incarnation, PullPolicy};
use model::wire::Deployment;
use serde_json::json;

use super::Place;
use crate::support::TemporaryDirectory;
use crate::support::oci::{self, TestImage};
use crate::support::registry::{HandmadeRegistry, Reply, honest};

/// Collects whenever it is asked to, and everything.
const EAGER: &str = "[images]\nkeep_unused = \"1ms\"\ndisk_watermark = \"0%\"\ndisk_target = \"0%\"\n";

/// The disk of a daemon with these functions.
struct Keeper {
    disk: Disk,
    store: Arc<Store>,
    _state: TemporaryDirectory,
}

impl std::ops::Deref for Keeper {
    type Target = Disk;
    fn deref(&self) -> &Disk {
        &self.disk
    }
}

impl Place {
    pub(super) fn disk(&self, settings: &str) -> impl std::ops::Deref<Target = Disk> + use<> {
        self.keeper(settings)
    }

    fn keeper(&self, settings: &str) -> Keeper {
        let state = TemporaryDirectory::new();
        let config = Config::parse(settings, |_| None).expect("settings");
        let logs = Logs::new(&config.logs, state.path(), state.path()).expect("logs");
        let store = Arc::new(Store::open(state.path()).expect("a store"));
        let handlers = Handlers::open(state.path(), config.functions.handler_limit).expect("handlers");
        let disk = Disk::new(&config.images, self.runtime.clone(), store.clone(), logs, handlers);
        Keeper { disk, store, _state: state }
    }
}

fn revision(image: &Image) -> RevisionRecord {
    let body = json!({ "service": "x", "image": image.resolved.image.as_str() });
    RevisionRecord {
        number: 1,
        deployment: serde_json::from_value::<Deployment>(body).expect("a deployment"),
        created_at: jiff::Timestamp::now(),
        digest: image.resolved.digest.clone(),
        manifest_digest: image.resolved.manifest_digest.clone(),
        size: image.resolved.size,
        config: image.resolved.config.clone(),
        default_memory: true,
    }
}

impl Keeper {
    /// Stores a function that should run `wanted`, while `serving` runs.
    async fn function(&self, name: &str, wanted: &Image, serving: Option<&Image>) -> FunctionKey {
        let key = FunctionKey::parse(name).expect("a key");
        let record = FunctionRecord {
            key: key.clone(),
            wanted: revision(wanted),
            serving: serving.map(revision),
            desired: 1,
            last_revision: 1,
            failure: None,
            node: None,
            incarnation: Incarnation::new(1),
            revisions: Vec::new(),
        };
        self.store.put_function(&record).await.expect("stored");
        key
    }
}

/// A registry with one image, which can be replaced, or be away.
async fn registry(image: &Arc<Mutex<Option<TestImage>>>) -> HandmadeRegistry {
    let served = image.clone();
    HandmadeRegistry::serve(move |asked| match &*served.lock().expect("no panic while locked") {
        Some(image) => honest(image, asked),
        None => Reply::new(503, "away"),
    })
    .await
}

#[tokio::test]
async fn an_image_that_another_function_of_the_tag_uses_stays_however_far_the_tag_moves_on() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let current = Arc::new(Mutex::new(None));
    let registry = registry(&current).await;
    let name = format!("{}/me/fn:latest", registry.address());
    let keeper = place.keeper("");
    let mut pulled = Vec::new();
    for version in 0..7 {
        *current.lock().expect("no panic while locked") =
            Some(TestImage::new(&format!("moving{version}"), &[1000]));
        pulled.push(place.pull(&name).await.expect("pulled"));
        match version {
            0 => drop(keeper.function("first", &pulled[0], None).await),
            // An update that is under way needs both.
            2 => drop(keeper.function("second", &pulled[2], Some(&pulled[1])).await),
            _ => {}
        }
        keeper.collect().await.expect("collected");
    }
    *current.lock().expect("no panic while locked") = None;
    place.collect_garbage();
    // 6 is the tag's, 4 and 5 are the two before it that nobody uses.
    for (version, image) in pulled.iter().enumerate() {
        let again = place.runtime.pull(&image.resolved, PullPolicy::Never, &Progress::default()).await;
        match version {
            3 => assert!(matches!(again, Err(RuntimeError::ImageGone { .. })), "{again:?}"),
            _ => assert_eq!(&again.expect("it is here"), image, "version {version}"),
        }
    }
    assert_eq!(place.names().len(), 6, "{:?}", place.names());
}

#[tokio::test]
async fn over_the_watermark_all_bytes_of_what_nobody_uses_go() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let keeper = place.keeper(EAGER);
    let current = Arc::new(Mutex::new(None));
    let registry = registry(&current).await;
    let mut pulled = Vec::new();
    for name in ["used", "unused"] {
        *current.lock().expect("no panic while locked") = Some(TestImage::new(name, &[100_000, 2000]));
        pulled.push(place.pull(&format!("{}/me/{name}:1", registry.address())).await.expect("pulled"));
    }
    let key = keeper.function("env", &pulled[0], None).await;

    let before = keeper.usage().await.expect("measured");
    let free = before.disk.as_ref().expect("containerd says where its root is").free;
    assert!(free > 0, "{before:?}");
    assert_eq!((before.images.count, before.layers.count), (2, 4), "{before:?}");
    assert!(before.images.size > 200_000 && before.layers.size > 200_000, "{before:?}");
    assert_eq!(before.images.unused, before.images.size / 2, "{before:?}");
    assert_eq!(before.layers.unused, before.layers.size / 2, "{before:?}");

    // What nobody was seen not to use is young, whatever its age.
    keeper.collect().await.expect("collected");
    let listed = place.runtime.images().await.expect("listed");
    let noted = |name: &str| {
        let record = listed.iter().find(|record| record.name.contains(name)).expect(name);
        (record.unused_since.is_some(), record.created_at)
    };
    assert_eq!((noted("unused").0, noted("/used").0), (true, false));
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    keeper.collect().await.expect("collected");
    assert_eq!(place.names(), [pulled[0].resolved.image.canonical()]);
    assert_eq!((place.snapshots().len(), place.blobs().len()), (2, 4));
    let after = keeper.usage().await.expect("measured");
    assert_eq!((after.images.unused, after.layers.unused), (0, 0), "{after:?}");

    keeper.store.delete_function(&key).await.expect("deleted");
    keeper.collect().await.expect("noted");
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    keeper.collect().await.expect("collected");
    place.assert_empty();
}

#[tokio::test]
async fn an_image_is_removed_by_name_and_can_be_pulled_again() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let keeper = place.keeper("");
    let registry = registry(&Arc::new(Mutex::new(Some(TestImage::new("named", &[1000]))))).await;
    let name = format!("{}/me/named", registry.address());
    let pulled = place.pull(&name).await.expect("pulled");
    let key = keeper.function("env", &pulled, None).await;
    let refused = keeper.remove(&name).await;
    let Err(DiskError::ImageInUse { users, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(users, ["function env.openfaas-fn"]);
    keeper.store.delete_function(&key).await.expect("deleted");
    keeper.remove(&name).await.expect("removed");
    place.assert_empty();
    assert!(matches!(keeper.remove(&name).await, Err(DiskError::ImageNotFound(_))));
    assert_eq!(place.pull(&name).await.expect("pulled again"), pulled);
}

/// Pulls an image half: returns it, what it was resolved to, and the registry that has the half of it.
async fn broken_pull(place: &Place) -> (TestImage, ResolvedImage, HandmadeRegistry) {
    let made = TestImage::new("broken", &[1 << 20, 1 << 20]);
    let (image, lost) = (made.clone(), made.layers[1].clone());
    let registry = HandmadeRegistry::serve(move |asked| {
        if asked.path.contains(&lost) { Reply::new(503, "away") } else { honest(&image, asked) }
    })
    .await;
    let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect("resolved");
    // The layers come at the same time: one attempt may end before the good one is here.
    for _ in 0..20 {
        let failed = place.runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await;
        assert!(matches!(failed, Err(RuntimeError::RegistryUnreachable { .. })), "{failed:?}");
        if place.blobs().contains(&made.layers[0]) {
            break;
        }
    }
    assert_eq!(place.leases().len(), 1);
    (made, resolved, registry)
}

#[tokio::test]
async fn a_prune_takes_what_a_pull_that_broke_off_has_left_but_not_that_of_a_function() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let keeper = place.keeper("");
    let (made, resolved, _registry) = broken_pull(&place).await;
    let needed = place.runtime.room_for(&resolved).await.expect("measured");
    let layer = made.layer(0).len() as u64;
    assert!((3 * layer - 10_000..3 * layer + 10_000).contains(&needed), "one layer less to fetch: {needed}");

    let image = Image { resolved, chain_id: String::new() };
    let key = keeper.function("env", &image, None).await;
    keeper.prune().await.expect("pruned");
    assert!(place.blobs().contains(&made.layers[0]), "the next attempt goes on with it");
    keeper.store.delete_function(&key).await.expect("deleted");
    let pruned = keeper.prune().await.expect("pruned");
    assert!(pruned.images.is_empty() && pruned.freed > 1 << 20, "{pruned:?}");
    place.assert_empty();
}

#[tokio::test]
async fn what_a_pull_that_broke_off_has_left_is_given_up_after_a_day_unless_a_function_waits_for_it() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let keeper = place.keeper("");
    let (_, resolved, _registry) = broken_pull(&place).await;
    let key = keeper.function("env", &Image { resolved, chain_id: String::new() }, None).await;
    let a_day_later = async || {
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(25 * 60 * 60)).await;
        tokio::time::resume();
        keeper.collect().await.expect("collected");
    };
    a_day_later().await;
    assert_eq!(place.leases().len(), 1, "the function waits for it");
    keeper.store.delete_function(&key).await.expect("deleted");
    keeper.collect().await.expect("collected");
    assert_eq!(place.leases().len(), 1, "somebody may try again");
    a_day_later().await;
    place.assert_empty();
}

#[tokio::test]
async fn an_image_that_is_larger_than_the_disk_is_refused_with_the_numbers() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let keeper = place.keeper("");
    let small = TestImage::new("small", &[1000]);
    let mut large = small.clone();
    // Only its manifest is ever read.
    let text = String::from_utf8(large.blobs[large.digest()].clone()).expect("text");
    let mut manifest: serde_json::Value = serde_json::from_str(&text).expect("json");
    manifest["layers"][0]["size"] = json!(1_u64 << 50);
    manifest["layers"][0]["digest"] = json!(oci::digest(b"large"));
    manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip");
    let bytes = manifest.to_string().into_bytes();
    large.target["digest"] = json!(oci::digest(&bytes));
    large.blobs.insert(oci::digest(&bytes), bytes);
    let current = Arc::new(Mutex::new(Some(large)));
    let registry = registry(&current).await;
    let resolved = place.resolve(&format!("{}/me/large:1", registry.address())).await.expect("resolved");
    let refused = keeper.check_room(&resolved).await;
    let Err(DiskError::NoRoom { need, free, path, .. }) = &refused else { panic!("{refused:?}") };
    // As fetched, and unpacked; but a layer of that content is unpacked nowhere.
    assert_eq!(*need, 4 << 50);
    assert!(*free < *need && path.starts_with(place.containerd.path()), "{refused:?}");

    *current.lock().expect("no panic while locked") = Some(small);
    let name = format!("{}/me/small:1", registry.address());
    // The room of one that was accepted before is not given away, also not after a restart.
    let image = Image { resolved: resolved.clone(), chain_id: String::new() };
    let key = keeper.function("large", &image, None).await;
    keeper.expect([resolved]).await;
    let refused = keeper.check_room(&place.resolve(&name).await.expect("resolved")).await;
    assert!(matches!(refused, Err(DiskError::NoRoom { coming, .. }) if coming == 4 << 50), "{refused:?}");
    keeper.store.delete_function(&key).await.expect("deleted");
    keeper.check_room(&place.resolve(&name).await.expect("resolved")).await.expect("it fits");
    let pulled = place.pull(&name).await.expect("pulled");
    assert_eq!(place.runtime.room_for(&pulled.resolved).await.expect("measured"), 0, "it is here");
}

#[tokio::test]
async fn only_a_compressed_layer_is_taken_to_grow_when_it_is_unpacked() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    const SIZE: u64 = 1 << 40;
    for (media_type, parts) in [
        ("application/vnd.oci.image.layer.v1.tar", 2),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", 2),
        ("application/vnd.docker.image.rootfs.diff.tar", 2),
        ("application/vnd.oci.image.layer.v1.tar+gzip", 4),
        ("application/vnd.oci.image.layer.v1.tar+zstd", 4),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", 4),
    ] {
        let mut large = TestImage::new(media_type, &[1000]);
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&large.blobs[large.digest()]).expect("json");
        manifest["layers"][0]["size"] = json!(SIZE);
        manifest["layers"][0]["mediaType"] = json!(media_type);
        let bytes = manifest.to_string().into_bytes();
        large.target["digest"] = json!(oci::digest(&bytes));
        large.blobs.insert(oci::digest(&bytes), bytes);
        let registry = registry(&Arc::new(Mutex::new(Some(large)))).await;
        let resolved = place.resolve(&format!("{}/me/large:1", registry.address())).await.expect("resolved");
        let needed = place.runtime.room_for(&resolved).await.expect("measured");
        assert_eq!(needed, parts * SIZE, "{media_type}");
    }
}

#[tokio::test]
async fn what_is_deployed_while_all_else_is_pruned_stays_whole() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let keeper = place.keeper(EAGER);
    // They have a layer in common, which none may lose with another.
    let base = TestImage::new("base", &[300_000]).layer(0).to_vec();
    let images: Vec<TestImage> = (0..3)
        .map(|n: u8| {
            let layers = vec![base.clone(), oci::layer(&format!("top{n}"), &[n; 100_000])];
            let ids: Vec<String> = layers.iter().map(|layer| oci::digest(layer)).collect();
            TestImage::of(oci::architecture(), layers, &ids, "application/vnd.oci.image.layer.v1.tar")
        })
        .collect();
    let registry = HandmadeRegistry::serve(move |asked| {
        let wanted = (0..3).find(|n| asked.path.contains(&format!("/me/fn{n}/")));
        wanted.map_or_else(|| Reply::new(404, ""), |n| honest(&images[n], asked))
    })
    .await;
    let start = async |resolved: &ResolvedImage, policy| {
        place.runtime.pull(resolved, policy, &Progress::default()).await.expect("it can be started")
    };
    let done = std::cell::Cell::new(false);
    let mut prunes = 0;
    let pruning = async {
        while !done.get() {
            keeper.prune().await.expect("pruned");
            keeper.collect().await.expect("collected");
            prunes += 1;
        }
    };
    let deploying = async {
        let mut kept = Vec::new();
        for round in 0..4 {
            for n in 0..3 {
                let name = format!("{}/me/fn{n}:1", registry.address());
                let mut pin = keeper.pin(&name.parse().expect("a name")).await;
                let resolved = place.resolve(&name).await.expect("resolved");
                pin.resolved(&resolved.digest);
                let image = Image { resolved, chain_id: String::new() };
                let key = keeper.function(&format!("fn{n}"), &image, None).await;
                drop(pin);
                let pulled = start(&image.resolved, PullPolicy::Always).await;
                // And a second replica, with nothing of the registry.
                assert_eq!(start(&image.resolved, PullPolicy::Never).await, pulled);
                if round < 3 {
                    keeper.store.delete_function(&key).await.expect("deleted");
                } else {
                    kept.push(pulled);
                }
            }
        }
        done.set(true);
        kept
    };
    let (kept, ()) = tokio::join!(deploying, pruning);
    assert!(prunes > 3, "only {prunes} prunes came in between");
    place.collect_garbage();
    for image in kept {
        assert_eq!(start(&image.resolved, PullPolicy::Never).await, image);
    }
    assert_eq!((place.names().len(), place.leases()), (3, vec![]));
}
