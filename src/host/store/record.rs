//! Records as they are stored.

use serde::{Deserialize, Serialize};

use crate::runtime::ImageConfig;
use model::function::FunctionKey;
use model::wire;

/// What is kept of one function.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Its name.
    pub key: FunctionKey,
    /// The revision that should serve.
    pub wanted: RevisionRecord,
    /// The revision that serves until `wanted` is ready; absent when they are the same, or when none
    /// ever was.
    pub serving: Option<RevisionRecord>,
    /// How many replicas there should be.
    pub desired: u32,
    /// The highest revision number that was given out.
    pub last_revision: u64,
    /// The update that did not come up, if the last one did not.
    pub failure: Option<UpdateFailure>,
    /// The machine that the function belongs to; absent while there is only one.
    pub node: Option<String>,
}

/// One version of a function's spec, with the image that its name meant when it was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionRecord {
    /// Its number, counted from 1.
    pub number: u64,
    /// The request, as it was sent.
    pub deployment: wire::Deployment,
    /// When it was deployed.
    pub created_at: jiff::Timestamp,
    /// What the image name was resolved to.
    pub digest: String,
    /// The manifest for this machine's platform.
    pub manifest_digest: String,
    /// Compressed size of the image's layers in bytes.
    pub size: u64,
    /// The image's configuration.
    pub config: ImageConfig,
    /// Set if `functions.memory` applies when the function has no limit. Functions deployed before that key existed
    /// keep running without one.
    #[serde(default)]
    pub default_memory: bool,
}

/// What a function may be started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionUse {
    /// The function.
    pub function: FunctionKey,
    /// The revision that has it.
    pub revision: u64,
    /// Whether that is only kept to go back to.
    pub is_old: bool,
    /// The image.
    pub digest: String,
    /// The code that is not part of it, if there is some.
    pub handler: Option<String>,
}

/// As much of a [`FunctionRecord`] as says what is in use.
#[derive(Debug, Deserialize)]
pub(super) struct FunctionDigests {
    pub(super) key: FunctionKey,
    pub(super) wanted: RevisionDigests,
    #[serde(default)]
    pub(super) serving: Option<RevisionDigests>,
}

/// As much of a [`RevisionRecord`].
#[derive(Debug, Deserialize)]
pub(super) struct RevisionDigests {
    number: u64,
    digest: String,
    deployment: DeploymentDigests,
}

/// As much of a [`wire::Deployment`]: users put settings in either of both.
#[derive(Debug, Deserialize)]
struct DeploymentDigests {
    #[serde(default)]
    annotations: Option<HandlerSetting>,
    #[serde(default)]
    labels: Option<HandlerSetting>,
}

#[derive(Debug, Deserialize)]
struct HandlerSetting {
    #[serde(default, rename = "ingle.handler")]
    digest: Option<String>,
}

impl RevisionDigests {
    pub(super) fn used_by(self, function: FunctionKey, is_old: bool) -> RevisionUse {
        let Self { number, digest, deployment } = self;
        let settings = [deployment.annotations, deployment.labels];
        let handler = settings.into_iter().flatten().find_map(|settings| settings.digest);
        RevisionUse { function, revision: number, is_old, digest, handler }
    }
}

/// An update that did not come up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateFailure {
    /// The revision that was tried.
    pub revision: u64,
    /// Why it was given up.
    pub reason: String,
}
