//! Archives: what `docker save`, skopeo and buildx write, and what they never would.

use std::path::Path;
use std::process::Command;

use host::runtime::{Progress, Runtime, RuntimeError};
use model::function::PullPolicy;
use serde_json::json;

use super::{Place, image};
use crate::support::oci::{TestImage, architecture, digest, layer, noise, other_architecture, write_tar};

/// Paths and contents.
type Files = Vec<(String, Vec<u8>)>;

fn skopeo(image: &TestImage, directory: &Path, options: &[&str], to: &str) {
    let layout = directory.join("layout");
    image.write_layout(&layout, "it");
    let copied = Command::new(crate::support::tool("skopeo").expect("skopeo"))
        .args(["--insecure-policy", "copy", "--quiet"])
        .args(options)
        .arg(format!("oci:{}:it", layout.display()))
        .arg(to)
        .output()
        .expect("run skopeo");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

#[tokio::test]
async fn what_docker_save_writes_is_loaded_and_kept() {
    require_root!();
    require!("containerd", "skopeo");
    let place = Place::start().await;
    let file = place.containerd.path().join("image.tar");
    let made = TestImage::new("save", &[70_000, 500]);
    skopeo(&made, place.containerd.path(), &[], &format!("docker-archive:{}:me/saved:1", file.display()));
    let loaded = place.runtime.load(file.clone(), None).await.expect("loaded").images;
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].name, "docker.io/me/saved:1");
    assert_eq!(loaded[0].platform, format!("linux/{}", architecture()));
    let resolved = place.runtime.resolve(&image("me/saved:1"), PullPolicy::Never).await.expect("resolved");
    assert_eq!(resolved.config.entrypoint, ["/bin/app"]);
    assert_eq!(resolved.digest, loaded[0].digest);
    place.collect_garbage();
    let pulled =
        place.runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await.expect("it is here");
    assert!(place.snapshots().contains(&pulled.chain_id));
    assert_eq!(place.blobs().len(), 4);
    assert_eq!((place.ingests(), place.leases()), (vec![], vec![]));
    let again = place.runtime.load(file, None).await.expect("loaded again").images;
    assert_eq!(again[0].digest, loaded[0].digest);
    let listed = place.runtime.images().await.expect("listed");
    assert_eq!((listed.len(), listed[0].size), (1, loaded[0].size));
}

#[tokio::test]
async fn oci_archives_are_loaded() {
    require_root!();
    require!("containerd", "skopeo");
    let place = Place::start().await;
    let path = place.containerd.path();
    let made = TestImage::new("oci", &[70_000]);
    let by_skopeo = path.join("skopeo.tar");
    skopeo(&made, path, &["--dest-compress"], &format!("oci-archive:{}:me/oci:1", by_skopeo.display()));
    let loaded = place.runtime.load(by_skopeo, None).await.expect("loaded").images;
    assert_eq!(loaded[0].name, "docker.io/me/oci:1");

    let theirs = TestImage::for_platform(other_architecture(), "theirs", &[100]);
    let index = TestImage::index(&[(other_architecture(), &theirs), (architecture(), &made)]);
    let several = path.join("several.tar");
    index.write_archive(&several, Some("ghcr.io/me/several:2"));
    let loaded = place.runtime.load(several, None).await.expect("loaded").images;
    assert_eq!(
        (loaded[0].name.as_str(), loaded[0].digest.as_str()),
        ("ghcr.io/me/several:2", index.digest())
    );
    place.collect_garbage();
    let resolved = place.runtime.resolve(&image("ghcr.io/me/several:2"), PullPolicy::IfNotPresent).await;
    assert_eq!(resolved.expect("it is here").manifest_digest, made.digest());
}

/// What `docker save` of new versions writes: both forms at once, the old one with links and with
/// compressed layers.
#[tokio::test]
async fn the_old_form_with_links_and_compressed_layers() {
    require_root!();
    require!("containerd", "gzip");
    let place = Place::start().await;
    let path = place.containerd.path();
    let (one, two) = (layer("one", &noise("one", 5000)), layer("two", b"2"));
    std::fs::write(path.join("two.tar"), &two).unwrap();
    let zipped = Command::new("gzip").arg("-c").arg(path.join("two.tar")).output().unwrap().stdout;
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": { "Cmd": ["/x"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&one), digest(&two), digest(&one)] },
    });
    let list = json!([{
        "Config": "config.json", "RepoTags": ["old:1", "old:latest"], "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"],
    }]);
    let file = path.join("old.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&file).unwrap());
    for (name, bytes) in [
        ("manifest.json", list.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
        ("index.json", json!({ "schemaVersion": 2, "manifests": [] }).to_string().into_bytes()),
        ("a/layer.tar", one),
        ("b/layer.tar", zipped),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive.append_link(&mut link, "c/layer.tar", "../a/layer.tar").unwrap();
    archive.finish().unwrap();
    let loaded = place.runtime.load(file, None).await.expect("loaded").images;
    let names: Vec<&str> = loaded.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["docker.io/library/old:1", "docker.io/library/old:latest"]);
    assert_eq!(place.snapshots().len(), 3);
}

#[tokio::test]
async fn malformed_archives_are_refused_and_leave_nothing() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let path = place.containerd.path();
    let made = TestImage::new("bad", &[3000, 200]);
    let text = |name: &str, json: serde_json::Value| (name.to_owned(), json.to_string().into_bytes());
    let docker = |config: serde_json::Value, layers: Vec<(String, Vec<u8>)>| {
        let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
        let list = json!([{ "Config": "c.json", "RepoTags": ["bad:1"], "Layers": names }]);
        [vec![text("manifest.json", list), text("c.json", config)], layers].concat()
    };
    let config = |ids: &[String]| json!({ "architecture": architecture(), "os": "linux", "rootfs": { "diff_ids": ids } });
    let content = layer("x", &noise("x", 100_000));
    let not_a_tar = vec![b'z'; 5000];
    let cases: [(&str, Files, &str); 10] = [
        ("nothing", vec![], "no image in it"),
        ("other files", vec![("x".into(), b"y".to_vec())], "no image in it"),
        ("no json", vec![("manifest.json".into(), b"{".to_vec())], "manifest.json is not one"),
        ("no index", vec![("index.json".into(), b"[]".to_vec())], "index.json is not one"),
        (
            "no config",
            vec![text("manifest.json", json!([{ "Config": "none", "RepoTags": ["a:1"], "Layers": [] }]))],
            "config none is missing",
        ),
        (
            "no layer",
            docker(config(&[digest(&content)]), vec![])
                .into_iter()
                .map(|(name, bytes)| {
                    let list = json!([{ "Config": "c.json", "RepoTags": ["bad:1"], "Layers": ["gone.tar"] }]);
                    if name == "manifest.json" {
                        (name, list.to_string().into_bytes())
                    } else {
                        (name, bytes)
                    }
                })
                .collect(),
            "layer gone.tar is missing",
        ),
        (
            "no name",
            vec![
                text("manifest.json", json!([{ "Config": "c.json", "RepoTags": null, "Layers": ["l"] }])),
                text("c.json", config(&[digest(&content)])),
                ("l".into(), content.clone()),
            ],
            "--name",
        ),
        ("another layer", docker(config(&[digest(b"other")]), vec![("l".into(), content.clone())]), "digest"),
        (
            "a good layer and one that is no tar",
            docker(
                config(&[digest(&content), digest(&not_a_tar)]),
                vec![("l".into(), content.clone()), ("m".into(), not_a_tar.clone())],
            ),
            "cannot be unpacked",
        ),
        ("no layers", docker(config(&[]), vec![]), "no layers"),
    ];
    for (what, files, reason) in cases {
        let file = path.join("bad.tar");
        write_tar(&file, &files);
        let error = place.runtime.load(file.clone(), None).await.expect_err(what);
        assert!(matches!(error, RuntimeError::BadImage { .. }), "{what}: {error:?}");
        let shown = error.to_string();
        assert!(shown.contains(reason) && shown.contains("bad.tar"), "{what}: {shown}");
        place.assert_empty();
    }
    let unnamed = path.join("unnamed.tar");
    made.write_archive(&unnamed, None);
    let error = place.runtime.load(unnamed, None).await.expect_err("no name").to_string();
    assert!(error.contains("--name NAME:TAG"), "{error}");
    let mut spoilt = made.clone();
    spoilt.blobs.insert(made.layers[1].clone(), layer("other", &noise("other", 200)));
    let file = path.join("spoilt.tar");
    spoilt.write_archive(&file, Some("me/spoilt:1"));
    let error = place.runtime.load(file, None).await.expect_err("another layer");
    assert!(matches!(error, RuntimeError::BadImage { .. }), "{error}");
    place.assert_empty();
}

#[tokio::test]
async fn archives_for_another_machine_and_files_that_are_not_there() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let theirs = TestImage::for_platform(other_architecture(), "theirs", &[100]);
    let file = place.containerd.path().join("theirs.tar");
    theirs.write_archive(&file, Some("me/theirs:1"));
    let error = place.runtime.load(file, None).await.expect_err("theirs");
    assert!(matches!(error, RuntimeError::WrongPlatform { .. }), "{error}");
    let error = place.runtime.load("/does/not/exist.tar".into(), None).await.expect_err("no file");
    assert!(
        matches!(&error, RuntimeError::BadRequest(text) if text.contains("/does/not/exist.tar")),
        "{error}"
    );
    let error = place.runtime.load(place.containerd.path().into(), None).await.expect_err("a directory");
    assert!(matches!(error, RuntimeError::BadImage { .. }), "{error}");
    place.assert_empty();
}

#[tokio::test]
async fn an_image_for_another_machine_does_not_keep_the_others_out() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let path = place.containerd.path();
    let ours = TestImage::new("mixed", &[100]);
    let theirs = TestImage::for_platform(other_architecture(), "mixed", &[200]);
    let entry = |image: &TestImage, name: &str| {
        let mut entry = image.target.clone();
        entry["annotations"] = json!({ "io.containerd.image.name": name });
        entry
    };
    let archive = |entries: Vec<serde_json::Value>| {
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        let mut files = vec![("index.json".to_owned(), index.to_string().into_bytes())];
        for (digest, bytes) in ours.blobs.iter().chain(&theirs.blobs) {
            files.push((format!("blobs/{}", digest.replace(':', "/")), bytes.clone()));
        }
        let file = path.join("mixed.tar");
        write_tar(&file, &files);
        file
    };
    let file = archive(vec![entry(&theirs, "docker.io/me/theirs:1"), entry(&ours, "docker.io/me/ours:1")]);
    let loaded = place.runtime.load(file, None).await.expect("one of them is ours");
    let names: Vec<_> = loaded.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["docker.io/me/ours:1"]);
    let [(name, reason)] = &loaded.skipped[..] else { panic!("{:?}", loaded.skipped) };
    assert!(name == "docker.io/me/theirs:1" && reason.contains(other_architecture()), "{reason}");
}

#[tokio::test]
async fn an_image_is_given_its_name_when_it_is_loaded() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let path = place.containerd.path();
    let (one, two) = (TestImage::new("one", &[100]), TestImage::new("two", &[200]));
    let wanted = image("me/given:1");
    let load = async |files: &[(Option<&str>, &TestImage)]| {
        let entries: Vec<_> = files
            .iter()
            .map(|(name, image)| {
                let mut entry = image.target.clone();
                entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
                entry
            })
            .collect();
        let mut all =
            vec![("index.json".to_owned(), json!({ "manifests": entries }).to_string().into_bytes())];
        for (digest, bytes) in files.iter().flat_map(|(_, image)| &image.blobs) {
            all.push((format!("blobs/{}", digest.replace(':', "/")), bytes.clone()));
        }
        let file = path.join("named.tar");
        write_tar(&file, &all);
        let loaded = place.runtime.load(file, Some(&wanted)).await;
        loaded.map(|loaded| {
            loaded.images.into_iter().map(|image| (image.name, image.digest)).collect::<Vec<_>>()
        })
    };
    let given = || "docker.io/me/given:1".to_owned();
    let (first, second) = (one.digest().to_owned(), two.digest().to_owned());
    assert_eq!(load(&[(None, &one)]).await.expect("unnamed"), [(given(), first.clone())]);
    assert_eq!(load(&[(Some("1.0"), &two)]).await.expect("a tag alone"), [(given(), second.clone())]);
    assert_eq!(load(&[(Some("me/other:1"), &one)]).await.expect("named"), [(given(), first.clone())]);
    let both = load(&[(Some("me/other:1"), &one), (None, &two)]).await.expect("the one without a name");
    assert_eq!(both, [(given(), second), ("docker.io/me/other:1".to_owned(), first)]);
    for files in [[(None, &one), (None, &two)], [(Some("a:1"), &one), (Some("b:1"), &two)]] {
        let error = load(&files).await.expect_err("which one?").to_string();
        assert!(error.contains("several images"), "{error}");
    }
    // One for each platform, of which some leave out the parts of others.
    let theirs = TestImage::for_platform(other_architecture(), "theirs", &[100]);
    let mut hollow = theirs.clone();
    hollow.blobs.clear();
    for other in [&theirs, &hollow] {
        let loaded = load(&[(None, other), (None, &one)]).await.expect("the one for this machine");
        assert_eq!(loaded, [(given(), one.digest().to_owned())]);
    }
    let error = load(&[(None, &hollow)]).await.expect_err("nothing of it").to_string();
    assert!(error.contains("missing"), "{error}");
}

#[tokio::test]
async fn a_name_with_a_digest_means_that_digest_and_nothing_else() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let file = place.containerd.path().join("pin.tar");
    let (good, evil) = (TestImage::new("good", &[100]), TestImage::new("evil", &[100]));
    for tag in ["", ":1"] {
        let pinned = format!("docker.io/me/pinned{tag}@{}", good.digest());
        evil.write_archive(&file, Some(&pinned));
        let error = place.runtime.load(file.clone(), None).await.expect_err("another image").to_string();
        assert!(error.contains(evil.digest()) && error.contains(&pinned), "{error}");
        let named = place.runtime.load(file.clone(), Some(&image(&pinned))).await;
        assert!(named.is_err(), "{named:?}");
        place.assert_empty();

        // What another program has recorded under such a name is not believed either.
        evil.write_archive(&file, Some("docker.io/me/evil:1"));
        place.runtime.load(file.clone(), None).await.expect("loaded");
        let tagged = place.containerd.ctr(&["images", "tag", "docker.io/me/evil:1", &pinned]);
        assert!(tagged.status.success(), "{tagged:?}");
        let error = place.runtime.resolve(&image(&pinned), PullPolicy::Never).await.expect_err("not here");
        assert!(matches!(error, RuntimeError::ImageNotLoaded { .. }), "{error:?}");

        good.write_archive(&file, Some(&pinned));
        place.runtime.load(file.clone(), None).await.expect("loaded");
        let resolved = place.runtime.resolve(&image(&pinned), PullPolicy::Never).await.expect("here");
        assert_eq!(resolved.digest, good.digest());
        let pulled =
            place.runtime.pull(&resolved, PullPolicy::Never, &Progress::default()).await.expect("here");
        assert_eq!(pulled.resolved.manifest_digest, good.digest());
        for name in place.names() {
            place.containerd.ctr(&["images", "rm", &name]);
        }
        place.collect_garbage();
    }
}
