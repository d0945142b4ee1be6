//! Images that are nothing but names.

use host::runtime::{ImageConfig, ImageRecord, ResolvedImage, RuntimeError};
use model::function::ImageRef;

fn digest(text: &str) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(text)))
}

/// What resolving says, by the last part of the image's name: `missing`, `private`, `unreachable`
/// and `arm-only` are refused as a registry would; `no-command` has none; everything else is fine.
pub(super) fn resolved(image: &ImageRef) -> Result<ResolvedImage, RuntimeError> {
    let name = image.to_string();
    let registry = image.reference().registry().to_owned();
    let mut config = ImageConfig { entrypoint: vec!["fwatchdog".into()], ..ImageConfig::default() };
    match image.reference().repository().rsplit('/').next().unwrap_or_default() {
        "missing" => return Err(RuntimeError::ImageNotFound { image: name, registry }),
        "private" => {
            let config = "/root/.docker/config.json".into();
            return Err(RuntimeError::Unauthorized { image: name, registry, config });
        }
        "unreachable" => {
            let source = "connection refused".into();
            return Err(RuntimeError::RegistryUnreachable { image: name, registry, source });
        }
        "arm-only" => {
            let (want, have) = ("linux/amd64".into(), "linux/arm64".into());
            return Err(RuntimeError::WrongPlatform { image: name, want, have });
        }
        "no-command" => config.entrypoint.clear(),
        _ => {}
    }
    let digest = digest(&image.canonical());
    Ok(ResolvedImage { image: image.clone(), manifest_digest: digest.clone(), digest, config, size: 1000 })
}

pub(super) fn record(image: &ResolvedImage) -> ImageRecord {
    ImageRecord {
        name: image.image.canonical(),
        digest: image.digest.clone(),
        platform: "linux/amd64".into(),
        size: image.size,
        created_at: jiff::Timestamp::now(),
        superseded: None,
        unused_since: None,
    }
}
