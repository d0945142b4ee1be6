//! Pulling from a real registry: what arrives is what was pushed, and is here once.

use std::sync::Arc;

use host::runtime::{Progress, Runtime, RuntimeError};
use model::function::PullPolicy;

use super::{Place, image};
use crate::support::oci::{TestImage, architecture, other_architecture};
use crate::support::registry::{DockerRegistry, PASSWORD, Setup, USER, write_login};

#[tokio::test]
async fn an_image_arrives_unpacked_and_then_needs_no_registry() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    let mut place = Place::start().await;
    let mut registry = DockerRegistry::start(Setup::default()).await;
    registry.push(&TestImage::new("pull", &[3000, 200_000, 5]), "me/fn:1", &[]);
    let name = format!("{}/me/fn:1", registry.address());

    let resolved = place.resolve(&name).await.expect("resolved");
    assert_eq!(resolved.config.entrypoint, ["/bin/app"]);
    assert_eq!(resolved.config.cmd, ["--flag"]);
    assert_eq!(resolved.config.env, ["A=1"]);
    assert_eq!((resolved.config.working_dir.as_str(), resolved.config.user.as_str()), ("/srv", "1000:1000"));
    assert_eq!(resolved.digest, resolved.manifest_digest);
    assert_eq!(place.blobs().len(), 2, "no layer is fetched to resolve");

    let progress = Progress::default();
    let pulled = place.runtime.pull(&resolved, PullPolicy::Always, &progress).await.expect("pulled");
    assert_eq!(pulled.resolved, resolved);
    let report = progress.report();
    assert_eq!((report.done, report.total), (resolved.size, resolved.size));
    assert_eq!(place.snapshots().len(), 3);
    assert!(place.snapshots().contains(&pulled.chain_id));
    assert_eq!(place.names(), [name.as_str()]);
    assert_eq!((place.ingests(), place.leases()), (vec![], vec![]));

    // containerd's own client sees a whole image, unpacked as its own would be.
    let check = place.containerd.ctr(&["images", "check"]);
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.contains("complete (4/4)") && check.contains("true"), "{check}");

    let listed = place.runtime.images().await.expect("listed");
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].name.as_str(), listed[0].size), (name.as_str(), resolved.size));
    assert_eq!(listed[0].digest, resolved.digest);
    assert_eq!(listed[0].platform, format!("linux/{}", architecture()));

    // From here on everything is on this machine, for this daemon and the next one.
    registry.stop();
    for _ in 0..2 {
        let progress = Progress::default();
        let again = place
            .runtime
            .pull(&resolved, PullPolicy::Always, &progress)
            .await
            .expect("pulled without a registry");
        assert_eq!(again, pulled);
        assert_eq!(progress.report().done, resolved.size);
        for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
            let local =
                place.runtime.resolve(&image(&name), policy).await.expect("resolved without a registry");
            assert_eq!(local, resolved);
        }
        place.restart().await;
    }
    let error = place.resolve(&name).await.expect_err("Always asks the registry");
    assert!(matches!(error, RuntimeError::RegistryUnreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_part_of_an_index_for_this_machine_is_pulled() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup::default()).await;
    let (ours, theirs) =
        (TestImage::new("ours", &[500]), TestImage::for_platform(other_architecture(), "theirs", &[600]));
    let index = TestImage::index(&[(other_architecture(), &theirs), (architecture(), &ours)]);
    registry.push(&index, "me/index:1", &["--preserve-digests"]);
    let resolved = place.resolve(&format!("{}/me/index:1", registry.address())).await.expect("resolved");
    assert_eq!(resolved.digest, index.digest());
    assert_eq!(resolved.manifest_digest, ours.digest());
    place.runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await.expect("pulled");
    place.collect_garbage();
    let blobs = place.blobs();
    for digest in [index.digest(), ours.digest(), &ours.layers[0]] {
        assert!(blobs.iter().any(|blob| blob == digest), "{digest} is not in {blobs:?}");
    }
    assert_eq!(blobs.len(), 4);
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused_before_anything_is_fetched() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup::default()).await;
    let theirs = TestImage::for_platform(other_architecture(), "theirs", &[600]);
    registry.push(&theirs, "me/single:1", &[]);
    registry.push(&TestImage::index(&[(other_architecture(), &theirs)]), "me/index:1", &[]);
    for name in ["me/single:1", "me/index:1"] {
        let error = place.resolve(&format!("{}/{name}", registry.address())).await.expect_err(name);
        let RuntimeError::WrongPlatform { want, have, .. } = &error else { panic!("{error}") };
        assert_eq!(*want, format!("linux/{}", architecture()));
        assert_eq!(*have, format!("linux/{}", other_architecture()));
    }
    assert_eq!((place.names(), place.snapshots()), (vec![], vec![]));
}

#[tokio::test]
async fn credentials_are_read_at_every_pull() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo", "htpasswd");
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup { password: true, ..Setup::default() }).await;
    registry.push(&TestImage::new("secret", &[5000]), "me/secret:1", &[]);
    let name = format!("{}/me/secret:1", registry.address());

    let config = place.docker_config();
    let refused = async |why: &str| {
        let error = place.pull(&name).await.expect_err(why);
        let shown = error.to_string();
        assert!(matches!(error, RuntimeError::Unauthorized { .. }), "{why}: {shown}");
        assert!(shown.contains(&registry.address()) && shown.contains(config.to_str().unwrap()), "{shown}");
    };
    refused("nobody has logged in").await;
    write_login(&config, &registry.address(), USER, "wrong");
    refused("the password is wrong").await;
    write_login(&config, "other.example", USER, PASSWORD);
    refused("the password is for another registry").await;
    write_login(&config, &registry.address(), USER, PASSWORD);
    place.pull(&name).await.expect("logged in");
}

#[tokio::test]
async fn zstd_and_plain_layers_are_unpacked_too() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup::default()).await;
    let image = TestImage::new("formats", &[100_000, 7]);
    registry.push(&image, "me/zstd:1", &["--dest-compress-format=zstd"]);
    registry.push(&image, "me/plain:1", &["--preserve-digests"]);
    let zstd = place.pull(&format!("{}/me/zstd:1", registry.address())).await.expect("zstd");
    let plain = place.pull(&format!("{}/me/plain:1", registry.address())).await.expect("plain");
    assert_ne!(zstd.resolved.digest, plain.resolved.digest);
    assert_eq!(zstd.chain_id, plain.chain_id, "the same files are unpacked once");
    assert_eq!(plain.resolved.digest, image.digest());
    assert_eq!(place.snapshots().len(), 2);
}

#[tokio::test]
async fn a_large_layer_is_never_in_memory() {
    use std::io::Read;

    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    const SIZE: u64 = 96 << 20;
    let place = Place::start().await;
    let registry = DockerRegistry::start(Setup::default()).await;
    let mut content = Vec::new();
    std::fs::File::open("/dev/urandom").unwrap().take(SIZE).read_to_end(&mut content).unwrap();
    let layers = vec![crate::support::oci::layer("large", &content)];
    drop(content);
    let ids = [crate::support::oci::digest(&layers[0])];
    let made = TestImage::of(architecture(), layers, &ids, "application/vnd.oci.image.layer.v1.tar");
    registry.push(&made, "me/large:1", &["--preserve-digests"]);
    drop(made);

    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
    };
    // Forgets the peak that making the image was.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    assert!(before < SIZE, "the peak was not forgotten: {before}");
    place.pull(&format!("{}/me/large:1", registry.address())).await.expect("pulled");
    let more = peak() - before;
    println!("{} MiB pulled with {} MiB more", SIZE >> 20, more >> 20);
    assert!(more < SIZE / 4, "{more} bytes more");
}

#[tokio::test]
async fn pulls_at_the_same_time_do_not_disturb_each_other() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    let place = Arc::new(Place::start().await);
    let registry = DockerRegistry::start(Setup::default()).await;
    // Three images that begin with the same layers, and end with others.
    let base = TestImage::new("base", &[400_000, 300_000]);
    for tag in ["a", "b", "c"] {
        let top = crate::support::oci::layer(tag, tag.as_bytes());
        let layers = vec![base.layer(0).to_vec(), base.layer(1).to_vec(), top];
        let ids: Vec<String> = layers.iter().map(|layer| crate::support::oci::digest(layer)).collect();
        let made = TestImage::of(architecture(), layers, &ids, "application/vnd.oci.image.layer.v1.tar");
        registry.push(&made, &format!("me/fn:{tag}"), &[]);
    }
    let mut pulls = tokio::task::JoinSet::new();
    for tag in ["a", "b", "c", "a", "b", "c", "a"] {
        let (place, name) = (place.clone(), format!("{}/me/fn:{tag}", registry.address()));
        pulls.spawn(async move { place.pull(&name).await });
    }
    while let Some(pulled) = pulls.join_next().await {
        pulled.expect("no panic").expect("pulled");
    }
    assert_eq!(place.snapshots().len(), 5);
    assert_eq!(place.names().len(), 3);
    assert_eq!((place.ingests(), place.leases()), (vec![], vec![]));
}

#[tokio::test]
async fn a_name_by_digest_is_pulled_and_found_again() {
    require_root!();
    require!("containerd", "docker-registry", "skopeo");
    let place = Place::start().await;
    let mut registry = DockerRegistry::start(Setup::default()).await;
    let made = TestImage::new("digest", &[100]);
    registry.push(&made, "me/fn:1", &["--preserve-digests"]);
    let name = format!("{}/me/fn@{}", registry.address(), made.digest());
    let pulled = place.pull(&name).await.expect("pulled");
    assert_eq!(pulled.resolved.digest, made.digest());
    registry.stop();
    let again = place.resolve(&name).await.expect("a digest means the same for ever");
    assert_eq!(again, pulled.resolved);
}
