//! Images made by hand, down to the last byte, so that a test can serve them, spoil them and count
//! them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The architecture of this machine, as images call it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// One that this machine is not.
pub(crate) fn other_architecture() -> &'static str {
    if architecture() == "s390x" { "riscv64" } else { "s390x" }
}

/// An image, or an index of images.
#[derive(Debug, Clone)]
pub(crate) struct TestImage {
    /// Everything it consists of, by digest.
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// What a tag would point to.
    pub(crate) target: Value,
    /// Digests of the layers, bottom first.
    pub(crate) layers: Vec<String>,
}

impl TestImage {
    /// An image for this machine with one file of each `size` in a layer of its own.
    pub(crate) fn new(seed: &str, sizes: &[usize]) -> Self {
        Self::for_platform(architecture(), seed, sizes)
    }

    /// The same for another architecture.
    pub(crate) fn for_platform(architecture: &str, seed: &str, sizes: &[usize]) -> Self {
        let layers: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(position, size)| {
                layer(&format!("{seed}-{position}"), &noise(&format!("{seed}{position}"), *size))
            })
            .collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        Self::of(architecture, layers, &diff_ids, LAYER)
    }

    /// An image of given layers, whatever its config says of them.
    pub(crate) fn of(
        architecture: &str,
        layers: Vec<Vec<u8>>,
        diff_ids: &[String],
        layer_type: &str,
    ) -> Self {
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": ["/bin/app"], "Cmd": ["--flag"], "Env": ["A=1"], "WorkingDir": "/srv", "User": "1000:1000"
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let mut image = Self { blobs: BTreeMap::new(), target: Value::Null, layers: Vec::new() };
        let config = image.add(CONFIG, config.to_string().into_bytes());
        let layers: Vec<Value> = layers.into_iter().map(|layer| image.add(layer_type, layer)).collect();
        image.layers =
            layers.iter().map(|layer| layer["digest"].as_str().expect("a digest").to_owned()).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        image.target = image.add(MANIFEST, manifest.to_string().into_bytes());
        image
    }

    /// An index of images by architecture, that begins with something for no platform at all.
    pub(crate) fn index(images: &[(&str, &Self)]) -> Self {
        let mut index = Self { blobs: BTreeMap::new(), target: Value::Null, layers: Vec::new() };
        let mut entries = Vec::new();
        for (architecture, image) in images {
            index.blobs.extend(image.blobs.clone());
            let mut entry = image.target.clone();
            entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            entries.push(entry);
        }
        let attestation = Self::for_platform("unknown", "attestation", &[9]);
        let mut entry = attestation.target;
        index.blobs.extend(attestation.blobs);
        entry["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        entries.insert(0, entry);
        let document = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        index.target = index.add(INDEX, document.to_string().into_bytes());
        index
    }

    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = json!({ "mediaType": media_type, "digest": digest(&bytes), "size": bytes.len() });
        self.blobs.insert(digest(&bytes), bytes);
        descriptor
    }

    /// What a tag would point to.
    pub(crate) fn digest(&self) -> &str {
        self.target["digest"].as_str().expect("a digest")
    }

    /// The bytes of a layer.
    pub(crate) fn layer(&self, position: usize) -> &[u8] {
        &self.blobs[&self.layers[position]]
    }

    /// Writes it as a directory in the OCI layout.
    pub(crate) fn write_layout(&self, directory: &Path, name: &str) {
        for (path, bytes) in self.layout_files(Some(name)) {
            let file = directory.join(path);
            std::fs::create_dir_all(file.parent().expect("a directory")).expect("make a directory");
            std::fs::write(file, bytes).expect("write a blob");
        }
    }

    /// Writes it as an archive in the OCI layout, with the name in the annotation if there is one.
    pub(crate) fn write_archive(&self, file: &Path, name: Option<&str>) {
        write_tar(file, &self.layout_files(name));
    }

    fn layout_files(&self, name: Option<&str>) -> Vec<(String, Vec<u8>)> {
        let mut entry = self.target.clone();
        if let Some(name) = name {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        for (digest, bytes) in &self.blobs {
            files.push((format!("blobs/{}", digest.replace(':', "/")), bytes.clone()));
        }
        files
    }
}

/// Writes an archive of these files.
pub(crate) fn write_tar(file: &Path, files: &[(String, Vec<u8>)]) {
    let mut archive = tar::Builder::new(std::fs::File::create(file).expect("make the archive"));
    for (path, bytes) in files {
        append(&mut archive, path, bytes);
    }
    archive.finish().expect("write the archive");
}

/// A layer with one file.
pub(crate) fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, name, content);
    archive.into_inner().expect("write the layer")
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, bytes).expect("add a file");
}

/// Bytes that do not compress and are the same every time.
pub(crate) fn noise(seed: &str, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 32);
    let mut block = Sha256::digest(seed);
    while bytes.len() < size {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    bytes.truncate(size);
    bytes
}

/// `sha256:…`
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
