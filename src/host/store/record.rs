//! Records as they are stored.

use serde::{Deserialize, Serialize};

use crate::runtime::ImageConfig;
use model::function::{FunctionKey, Incarnation};
use model::wire;

/// What is kept of one function.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Its name.
    pub key: FunctionKey,
    /// The life that it is in. Stores of earlier versions know none.
    #[serde(default = "new_incarnation")]
    pub incarnation: Incarnation,
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
    /// The revisions that are kept because they served, oldest first.
    #[serde(default)]
    pub revisions: Vec<RevisionRecord>,
}

/// Draws the id of a function that is deployed for the first time.
pub fn new_incarnation() -> Incarnation {
    Incarnation::new(uuid::Uuid::new_v4().as_u64_pair().0)
}

/// One version of a function's spec, with the image that its name meant when it was deployed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl FunctionRecord {
    /// Returns the record as a container carries it.
    pub fn carried(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is JSON")
    }

    /// Reads a record that a container carries.
    pub fn of_container(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Returns what the function may be started from: the revisions that are wanted, that serve, and that are kept.
    pub(super) fn uses(&self) -> impl Iterator<Item = RevisionUse> {
        let now = std::iter::once(&self.wanted).chain(&self.serving).map(|revision| (revision, false));
        let old = self.revisions.iter().map(|revision| (revision, true));
        now.chain(old).map(|(revision, is_old)| revision.used_by(&self.key, is_old))
    }
}

impl RevisionRecord {
    fn used_by(&self, function: &FunctionKey, is_old: bool) -> RevisionUse {
        // Users put settings in either of both.
        let mut settings = [&self.deployment.annotations, &self.deployment.labels].into_iter().flatten();
        RevisionUse {
            function: function.clone(),
            revision: self.number,
            is_old,
            digest: self.digest.clone(),
            handler: settings.find_map(|settings| settings.get("ingle.handler").cloned()),
        }
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
