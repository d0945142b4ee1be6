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
    /// The address of the admin listener, or `none`. Absent from older gateways.
    #[serde(rename = "adminListen", default, skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<String>,
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
    /// Images in it that are for other machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedImage>,
}

/// An image of an archive that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedImage {
    /// The name with all defaults filled in.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What `GET /system/df` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// The file system that images are on, if the daemon can see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<FileSystem>,
    /// Images as they were fetched: compressed.
    pub images: Share,
    /// Their layers, unpacked.
    pub layers: Share,
    /// What replicas have written to their own file systems.
    pub replicas: Share,
    /// Code of functions that is not in their images.
    #[serde(default)]
    pub handlers: Share,
    /// Output of functions.
    pub logs: Share,
    /// Functions, namespaces and counts.
    pub store: Share,
    /// What the queue keeps; no part of it is in `store`'s count, and rows are part of its size.
    #[serde(default)]
    pub queue: QueueUsage,
}

/// What the queue keeps: how many rows, and the bytes of their heads and bodies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueUsage {
    /// Calls and callbacks that are still to be made.
    pub calls: Share,
    /// Those that were given up.
    pub dead: Share,
    /// Records of calls that have ended, with the responses that are kept.
    pub records: Share,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// A directory on it.
    pub path: String,
    /// Its bytes, used and free.
    pub size: u64,
    /// Bytes that are free.
    pub free: u64,
}

/// One kind of what is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many there are; for logs and the store, of how many functions.
    pub count: u64,
    /// Their bytes.
    pub size: u64,
    /// Bytes of these that nobody uses.
    pub unused: u64,
}

impl Share {
    /// Counts one more.
    pub fn add(&mut self, size: u64, is_used: bool) {
        self.count += 1;
        self.size = self.size.saturating_add(size);
        if !is_used {
            self.unused = self.unused.saturating_add(size);
        }
    }
}

/// What `POST /system/prune` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Images that were removed.
    pub images: Vec<String>,
    /// Bytes that the disk got back.
    pub freed: u64,
}

/// What `GET /system/store` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The identity of the state directory.
    pub identity: String,
    /// Why async calls, schedules and records are out of service, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_service: Option<String>,
    /// Files of functions and namespaces that cannot be used.
    pub set_aside: Vec<SetAside>,
    /// Containers that belong to no function of this state directory, and are left as they are.
    pub orphans: Vec<Orphan>,
}

/// What `POST /system/restore` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Functions in the backup.
    pub functions: u64,
}

/// What `POST /system/store/repair` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// Where the store is now that could not be opened.
    pub damaged: String,
}

/// A file of a function or namespace that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// `function NAME.NAMESPACE` or `namespace NAME`.
    pub subject: String,
    /// The file.
    pub path: String,
    /// Why it cannot be used.
    pub reason: String,
}

/// A container that belongs to no function of this state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// The container's id.
    pub replica: String,
    /// The function that its labels name.
    pub function: String,
    /// Whether it runs.
    pub running: bool,
    /// Why it is left alone.
    pub reason: String,
}

/// The body of an error when the client asks for JSON; else it is the text of `error` and a newline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, with which thing, and the way out.
    pub error: String,
    /// The kind of error, for programs: `function_not_found`.
    pub code: String,
}
