//! JSON as clients send and read it: serde types, nothing else.
//!
//! The names are those that faas-cli and the OpenFaaS SDKs use. Optional fields are left out when
//! they are empty. Unknown fields are accepted, because older and newer clients send more.

mod alexa;
mod calls;
mod cron;
mod function;
mod log;
mod namespace;
mod queue;
mod secret;
mod system;

pub use alexa::{AlexaRequest, Intent, SkillRequest};
pub use calls::Call;
pub use cron::{CronAccepted, CronLeftOut, CronRun, CronStatus};
pub use function::{
    Deletion, Deployment, FunctionStatus, KeptRevision, LastExit, Resources, Rollback, ScaleRequest,
    UpdateStatus, Usage,
};
pub use log::LogLine;
pub use namespace::Namespace;
pub use queue::{DeadCall, DeadCount, QueueChange, QueueStatus, Replayed, Try};
pub use secret::{Secret, SecretsExport};
pub use system::{
    DiskUsage, ErrorBody, FileSystem, Image, Info, LoadedImages, Orphan, Provider, Pruned, QueueUsage,
    Repaired, Restored, SetAside, Share, SkippedImage, StoreStatus, Version,
};

/// Whether a field says nothing, and is left out.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
