//! Images for tests: archives as `docker save` writes them, made of busybox and a few files.

use std::path::Path;

use serde_json::json;

/// Something in an image's file system.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// A file with its content and mode.
    File(&'static str, Vec<u8>, u32),
    /// A symbolic link and where it points.
    Link(&'static str, &'static str),
}

impl Item {
    /// A text file that everyone may read.
    pub(crate) fn text(path: &'static str, text: &str) -> Self {
        Self::File(path, text.into(), 0o644)
    }
}

/// busybox under its own name and as `/bin/sh`, and the users `root` and `app` (1000, in the groups
/// app, 1001, and video, 44).
pub(crate) fn busybox() -> Vec<Item> {
    let busybox = super::tool("busybox").expect("busybox");
    vec![
        Item::File("bin/busybox", std::fs::read(busybox).expect("read busybox"), 0o755),
        Item::Link("bin/sh", "busybox"),
        Item::text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"),
        Item::text("etc/group", "root:x:0:\nvideo:x:44:app\napp:x:1001:\n"),
    ]
}

/// Writes an archive with one image called `name`, of one layer with `items`, and `config` as the
/// `config` section of its configuration.
pub(crate) fn write_archive(file: &Path, name: &str, items: &[Item], config: &serde_json::Value) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    write_archive_for(architecture, file, name, items, config);
}

/// The same for another architecture than this machine's.
pub(crate) fn write_archive_for(
    architecture: &str,
    file: &Path,
    name: &str,
    items: &[Item],
    config: &serde_json::Value,
) {
    let mut layer = tar::Builder::new(Vec::new());
    for item in items {
        add(&mut layer, item);
    }
    let layer = layer.into_inner().expect("write the layer");
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "a test" }],
    });
    let configuration = serde_json::to_vec(&configuration).expect("serialise");
    let config_name = format!("{}.json", digest(&configuration).replace("sha256:", ""));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer/layer.tar"] }]);
    let manifest = serde_json::to_vec(&manifest).expect("serialise");
    let mut archive = tar::Builder::new(std::fs::File::create(file).expect("make the archive"));
    for (path, bytes) in
        [("layer/layer.tar", &layer), (config_name.as_str(), &configuration), ("manifest.json", &manifest)]
    {
        append(&mut archive, path, bytes, 0o644);
    }
    archive.finish().expect("write the archive");
}

fn add(layer: &mut tar::Builder<Vec<u8>>, item: &Item) {
    match item {
        Item::File(path, bytes, mode) => append(layer, path, bytes, *mode),
        Item::Link(path, target) => {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            layer.append_link(&mut header, path, target).expect("add a link");
        }
    }
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, bytes).expect("add a file");
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}
