//! The daemon itself: its version, its images, its errors.

use serde::{Deserialize, Serialize};

/// `GET /system/info`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// What runs the functions.
    pub provider: Provider,
    /// The gateway's version.
    pub version: Version,
    /// `x86_64` or `arm64`.
    pub arch: String,
}

/// What runs the functions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// `ingle`
    pub provider: String,
    /// Its version.
    pub version: Version,
    /// `containerd`
    pub orchestration: String,
}

/// A version; no field is ever empty, because clients index into them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The release, as in Cargo.toml.
    pub release: String,
    /// The commit it was built from.
    pub sha: String,
}

/// One image on this machine, as `GET /system/images` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The name with all defaults filled in.
    pub name: String,
    /// The digest that the name was resolved to.
    pub digest: String,
    /// `linux/amd64` and the like.
    pub platform: String,
    /// Compressed size of its layers in bytes.
    pub size: u64,
    /// When it was pulled or loaded, RFC 3339.
    pub created_at: String,
}

/// What `POST /system/images` answers: the images that an archive held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedImages {
    /// One for each name in the archive.
    pub images: Vec<Image>,
}

/// The body of an error when the client asks for JSON; else it is the text of `error` and a newline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, with which thing, and the way out.
    pub error: String,
    /// The kind of error, for programs: `function_not_found`.
    pub code: String,
}
