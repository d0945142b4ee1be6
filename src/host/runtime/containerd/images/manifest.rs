//! Manifests, indexes and configurations: JSON from the outside, checked before anything is done
//! with it.
//!
//! Only the fields that matter here are read, and unknown ones are let pass, as the specification
//! asks. Everything that is stored is the untouched bytes, never what is parsed here.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::json;
use super::platform::Platform;
use crate::runtime::ImageConfig;

/// The largest index or manifest, as registries have it.
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
/// The largest image configuration.
pub(super) const MAX_CONFIG: u64 = 8 << 20;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Types of a configuration. Docker takes those that old builders and registries have given it, too.
const CONFIGS: [&str; 6] = [
    OCI_CONFIG,
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];
/// Layers that an image may have: the kernel puts no more of them into one overlay.
const MAX_LAYERS: usize = 500;
/// Volumes that an image may declare.
const MAX_VOLUMES: usize = 1000;
/// Types of layers without what they are compressed with. Those of the second kind may not be passed on by registries,
/// which have them all the same where images with them are pushed as a whole.
const LAYERS: [&str; 4] = [
    OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// A pointer to a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// One of bytes that are at hand.
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest_of(bytes),
            size: bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Returns the type without the compression.
    fn plain_type(&self) -> &str {
        let plain =
            ["+gzip", ".gzip", "+zstd", ".zstd"].iter().find_map(|end| self.media_type.strip_suffix(end));
        plain.unwrap_or(&self.media_type)
    }

    fn is_layer(&self) -> bool {
        LAYERS.contains(&self.plain_type())
    }

    /// Returns whether the type names a compression.
    pub(super) fn is_compressed(&self) -> bool {
        self.plain_type() != self.media_type
    }

    /// Returns whether it may lead to an image: an index or a manifest, and no attestation of one.
    pub(super) fn is_image(&self) -> bool {
        ["", OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(&self.media_type.as_str())
            && !self.annotations.contains_key("vnd.docker.reference.type")
    }
}

/// What an image's name can point to.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// The parts of one platform's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// An image's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    os: String,
    architecture: String,
    variant: Option<String>,
    config: Settings,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Settings {
    entrypoint: Words,
    cmd: Words,
    env: Vec<String>,
    working_dir: String,
    user: String,
    volumes: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The words of a command. Docker takes a single one without a list, too.
#[derive(Debug, Clone, Default)]
struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words")
            }

            fn visit_unit<E>(self) -> Result<Words, E> {
                Ok(Words::default())
            }

            fn visit_str<E>(self, word: &str) -> Result<Words, E> {
                Ok(Words(vec![word.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

impl Document {
    /// Reads an index or a manifest; the error says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Outline {
            schema_version: i64,
            media_type: String,
            manifests: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            layers: Vec<Descriptor>,
        }
        let outline: Outline =
            json::from_slice(bytes).map_err(|error| format!("its manifest is not one: {error}"))?;
        let Outline { schema_version, media_type, manifests, config, layers } = outline;
        if schema_version == 1 && config.is_none() && manifests.is_none() {
            return Err("its manifest has the schema of 2014 (version 1): push it again".into());
        }
        let (has_manifests, has_parts) =
            (manifests.as_ref().is_some_and(|list| !list.is_empty()), config.is_some() || !layers.is_empty());
        let is_index = match media_type.as_str() {
            OCI_INDEX | DOCKER_LIST => true,
            OCI_MANIFEST | DOCKER_MANIFEST => false,
            // Documents may leave their type out, and only their names say anything of others.
            _ if manifests.is_some() || config.is_some() => manifests.is_some(),
            "" => return Err("its manifest is incomplete: it names neither manifests nor a config".into()),
            other => return Err(format!("its manifest has the type {other:?}, which no image has")),
        };
        // Whoever checks one of them must not be shown the other.
        if has_manifests && has_parts {
            return Err("its manifest is an index, too: it could mean either".into());
        }
        if is_index {
            return Ok(Self::Index(manifests.ok_or("its index has no list of manifests")?));
        }
        let config = config.ok_or("its manifest is incomplete: it names no config")?;
        let media_type =
            if media_type == DOCKER_MANIFEST { DOCKER_MANIFEST } else { OCI_MANIFEST }.to_owned();
        let manifest = Manifest { schema_version: 2, media_type, config, layers };
        manifest.check()?;
        Ok(Self::Manifest(manifest))
    }

    /// The media type, also of a document that does not say it.
    pub(super) fn media_type(&self) -> &str {
        match self {
            Self::Index(_) => OCI_INDEX,
            Self::Manifest(manifest) => &manifest.media_type,
        }
    }
}

impl Manifest {
    fn check(&self) -> Result<(), String> {
        if !CONFIGS.contains(&self.config.media_type.as_str()) {
            return Err(format!(
                "it is no container image: its config has the type {:?}",
                self.config.media_type
            ));
        }
        check_digest(&self.config.digest)?;
        if self.layers.is_empty() {
            return Err("it has no layers, so there is nothing in it to run".into());
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(format!("it has more than {MAX_LAYERS} layers"));
        }
        for layer in &self.layers {
            check_digest(&layer.digest)?;
            if !layer.is_layer() {
                return Err(format!(
                    "layer {} has the type {:?}, which is not supported: plain, gzip and zstd tar layers are",
                    layer.digest, layer.media_type
                ));
            }
        }
        Ok(())
    }
}

impl ConfigFile {
    /// Reads a configuration that goes with `layers` layers.
    pub(super) fn parse(bytes: &[u8], layers: usize) -> Result<Self, String> {
        let config: Self =
            json::from_slice(bytes).map_err(|error| format!("its config is not one: {error}"))?;
        let diff_ids = config.diff_ids();
        if diff_ids.len() != layers {
            return Err(format!("its manifest has {layers} layers, its config {}", diff_ids.len()));
        }
        diff_ids.iter().try_for_each(|id| check_digest(id))?;
        if config.config.volumes.len() > MAX_VOLUMES {
            return Err(format!("it declares more than {MAX_VOLUMES} volumes"));
        }
        Ok(config)
    }

    /// The digests of the unpacked layers, bottom first.
    pub(super) fn diff_ids(&self) -> &[String] {
        &self.rootfs.diff_ids
    }

    /// Returns the platform that the image was built for by its own word.
    pub(super) fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// What a container is made from.
    pub(super) fn settings(&self) -> ImageConfig {
        let Settings { entrypoint, cmd, env, working_dir, user, volumes } = &self.config;
        ImageConfig {
            entrypoint: entrypoint.0.clone(),
            cmd: cmd.0.clone(),
            env: env.clone(),
            working_dir: working_dir.clone(),
            user: user.clone(),
            volumes: volumes.keys().cloned().collect(),
            programs_32bit: false,
        }
    }
}

/// The names of the snapshots that layers with these digests are unpacked to, bottom first.
pub(super) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

/// The digest of `bytes`.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Whether it is a digest that containerd can check; the error says which one is not.
pub(super) fn check_digest(digest: &str) -> Result<(), String> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        Ok(())
    } else {
        Err(format!("{digest:?} is not a sha256 digest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(config_type: &str, layer_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","digest":"{DIGEST}","size":2}},
               "layers":[{{"mediaType":"{layer_type}","digest":"{DIGEST}","size":0,"annotations":null}}]}}"#
        )
    }

    #[test]
    fn manifests_and_indexes_are_told_apart_without_a_media_type() {
        let parsed = Document::parse(manifest(OCI_CONFIG, OCI_LAYER).as_bytes()).expect("manifest");
        assert_eq!(parsed.media_type(), OCI_MANIFEST);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{DIGEST}","size":1}}]}}"#);
        assert!(
            matches!(Document::parse(index.as_bytes()), Ok(Document::Index(entries)) if entries.len() == 1)
        );
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_reason() {
        for (text, reason) in [
            ("<html>".to_owned(), "is not one"),
            (r#"{"schemaVersion":1}"#.into(), "version 1"),
            (r#"{"schemaVersion":2,"mediaType":"text/plain"}"#.into(), "no image has"),
            (r#"{"schemaVersion":2}"#.into(), "incomplete"),
            (manifest("application/vnd.cncf.helm.config.v1+json", OCI_LAYER), "no container image"),
            (manifest(OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "not supported"),
            (manifest(OCI_CONFIG, OCI_LAYER).replace("sha256", "sha512"), "not a sha256"),
            (manifest(OCI_CONFIG, OCI_LAYER).replace("\"size\":2", "\"size\":-2"), "is not one"),
            (manifest(OCI_CONFIG, OCI_LAYER).replace("\"layers\"", "\"manifests\""), "either"),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}","digest":"{DIGEST}","size":2}},"layers":[]}}"#
                ),
                "no layers",
            ),
        ] {
            let error = Document::parse(text.as_bytes()).expect_err(&text);
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_config_has_any_type_that_docker_takes() {
        for config_type in CONFIGS {
            let text = manifest(config_type, OCI_LAYER);
            assert!(matches!(Document::parse(text.as_bytes()), Ok(Document::Manifest(_))), "{config_type}");
        }
    }

    #[test]
    fn an_index_may_name_digests_that_only_other_machines_can_check() {
        let index =
            r#"{"schemaVersion":2,"manifests":[{"digest":"sha512:abc","size":1},{"digest":"","size":1}]}"#;
        assert!(
            matches!(Document::parse(index.as_bytes()), Ok(Document::Index(entries)) if entries.len() == 2)
        );
    }

    #[test]
    fn layers_and_volumes_have_a_bound() {
        let layer = format!(r#"{{"mediaType":"{OCI_LAYER}","digest":"{DIGEST}","size":0}}"#);
        let text = |count| {
            let layers = vec![layer.as_str(); count].join(",");
            format!(r#"{{"config":{{"mediaType":"{OCI_CONFIG}","digest":"{DIGEST}"}},"layers":[{layers}]}}"#)
        };
        Document::parse(text(MAX_LAYERS).as_bytes()).expect("as many as may be");
        let error = Document::parse(text(MAX_LAYERS + 1).as_bytes()).expect_err("too many");
        assert!(error.contains("more than 500 layers"), "{error}");
        let text = |count: usize| {
            let volumes: Vec<String> = (0..count).map(|number| format!("\"/{number}\":{{}}")).collect();
            format!(r#"{{"config":{{"Volumes":{{{}}}}}}}"#, volumes.join(","))
        };
        ConfigFile::parse(text(MAX_VOLUMES).as_bytes(), 0).expect("as many as may be");
        let error = ConfigFile::parse(text(MAX_VOLUMES + 1).as_bytes(), 0).expect_err("too many");
        assert!(error.contains("more than 1000 volumes"), "{error}");
    }

    #[test]
    fn documents_are_read_whatever_the_case_of_their_keys() {
        let text = manifest(OCI_CONFIG, OCI_LAYER);
        for text in [
            text.to_uppercase()
                .replace(&DIGEST.to_uppercase(), DIGEST)
                .replace(&OCI_CONFIG.to_uppercase(), OCI_CONFIG)
                .replace(&OCI_LAYER.to_uppercase(), OCI_LAYER)
                .replace("NULL", "null"),
            text.replace("\"schemaVersion\":2,", ""),
            text.replace(
                "\"schemaVersion\":2,",
                "\"schemaVersion\":null,\"mediaType\":\"x/y\",\"manifests\":null,",
            ),
            text.replace("\"layers\"", "\"layers\":[],\"Layers\""),
        ] {
            match Document::parse(text.as_bytes()) {
                Ok(Document::Manifest(manifest)) => assert_eq!(manifest.layers.len(), 1, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let text = format!(
            r#"{{"OS":"linux","Config":{{"cmd":"/x","ENV":["A=1"]}},"config":{{"entrypoint":["/e"]}},"rootfS":{{"diff_Ids":["{DIGEST}"]}}}}"#
        );
        let settings = ConfigFile::parse(text.as_bytes(), 1).expect("valid").settings();
        assert_eq!(
            (&settings.cmd[..], &settings.entrypoint[..]),
            (&["/x".to_owned()][..], &["/e".to_owned()][..])
        );
        assert_eq!(settings.env, ["A=1"]);
    }

    #[test]
    fn a_config_is_read_as_docker_writes_it() {
        let text = format!(
            r#"{{"architecture":"arm64","os":"linux","variant":"v8","config":{{"Env":["A=1"],"Cmd":["/x"],
               "Entrypoint":null,"User":"1000"}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}}}}"#
        );
        let config = ConfigFile::parse(text.as_bytes(), 1).expect("valid");
        assert_eq!(config.platform().to_string(), "linux/arm64");
        let settings = config.settings();
        assert_eq!((settings.cmd, settings.user), (vec!["/x".to_owned()], "1000".to_owned()));
        assert!(settings.entrypoint.is_empty() && settings.working_dir.is_empty());
        let error = ConfigFile::parse(text.as_bytes(), 2).expect_err("two layers");
        assert!(error.contains("2 layers, its config 1"), "{error}");
    }

    #[test]
    fn chain_ids_are_as_the_specification_has_them() {
        let chain = chain_ids(&["sha256:a".into(), "sha256:b".into(), "sha256:c".into()]);
        let second = digest_of(b"sha256:a sha256:b");
        assert_eq!(
            chain,
            ["sha256:a".to_owned(), second.clone(), digest_of(format!("{second} sha256:c").as_bytes())]
        );
    }
}
