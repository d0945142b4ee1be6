//! Functions: what is asked for, and how they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CronStatus, is_default};

/// `POST` and `PUT /system/functions`. faas-cli also sends `network` and `registryAuth`, which are
/// accepted and ignored.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// The function's name.
    pub service: String,
    /// The image to run.
    pub image: String,
    /// The namespace; `openfaas-fn` if it is absent or empty.
    pub namespace: Option<String>,
    /// The command that the watchdog runs.
    pub env_process: Option<String>,
    /// Environment variables.
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Placement constraints: kept and given back; there is one machine.
    pub constraints: Option<Vec<String>>,
    /// Names of secrets.
    pub secrets: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// What it may use at most.
    pub limits: Option<Resources>,
    /// What it asks for.
    pub requests: Option<Resources>,
    /// Whether the root file system is read-only.
    pub read_only_root_filesystem: Option<bool>,
}

/// Memory and cpu as Kubernetes quantities.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Such as `128Mi`.
    pub memory: Option<String>,
    /// Such as `500m`.
    pub cpu: Option<String>,
}

/// `DELETE /system/functions`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// The function's name.
    pub function_name: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// `POST /system/function/{name}/rollback`
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Rollback {
    /// The revision to go back to; the newest that served before this one if it is absent.
    pub revision: Option<u64>,
    /// Its namespace.
    pub namespace: Option<String>,
}

/// `POST /system/scale-function/{name}`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleRequest {
    /// The function's name; the one in the path counts.
    #[serde(default)]
    pub service_name: String,
    /// How many replicas.
    pub replicas: u32,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What list and describe answer.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionStatus {
    /// The function's name.
    pub name: String,
    /// The image, as it was sent.
    pub image: String,
    /// Its namespace.
    pub namespace: Option<String>,
    /// The command that the watchdog runs.
    pub env_process: Option<String>,
    /// Environment variables as sent.
    pub env_vars: Option<BTreeMap<String, String>>,
    /// Constraints as sent.
    pub constraints: Option<Vec<String>>,
    /// Secrets as sent.
    pub secrets: Option<Vec<String>>,
    /// Labels as sent, and `faas_function`.
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations as sent.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Limits as sent.
    pub limits: Option<Resources>,
    /// Ours: the defaults that apply where `limits` is empty. They are separate, so that sending `limits`
    /// back sets none.
    pub default_limits: Option<Resources>,
    /// Requests as sent.
    pub requests: Option<Resources>,
    /// As sent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only_root_filesystem: bool,
    /// Calls answered since the function was first deployed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub invocation_count: u64,
    /// Replicas asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replicas: u32,
    /// Replicas that can serve.
    #[serde(default, skip_serializing_if = "is_default")]
    pub available_replicas: u32,
    /// When it was deployed, RFC 3339.
    pub created_at: Option<String>,
    /// What it uses now; only in describe, with `usage=1`.
    pub usage: Option<Usage>,
    /// Ours: what the function is doing (`pulling`, `starting`, `ready`, `backing-off`, `failed`, `stopped`, `removing`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Ours: why it is not ready, in words, or how far a pull has come.
    pub reason: Option<String>,
    /// Ours: the digest that the image name was resolved to.
    pub image_digest: Option<String>,
    /// Ours: the number of this version of the spec, counted from 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision: u64,
    /// Ours: how often a replica had to be started again since the last deploy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restarts: u32,
    /// Ours: number of processes of its replicas that the kernel killed because they ran out of memory (OOMKilled).
    #[serde(default, skip_serializing_if = "is_default")]
    pub oom_kills: u64,
    /// Ours: the update that is under way, or the last one if it did not come up.
    pub update: Option<UpdateStatus>,
    /// Ours: how the last replica ended that was not told to, since the daemon started; only in describe.
    pub last_exit: Option<LastExit>,
    /// Ours: when it is called by its schedule, if it is; only in describe.
    pub cron: Option<CronStatus>,
    /// Ours: the revisions that served and that one can go back to, newest first; only in describe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<KeptRevision>,
}

/// How a replica ended that was not told to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    /// The replica.
    pub replica: String,
    /// The revision that it ran.
    pub revision: u64,
    /// The exit code of its first process.
    pub code: u32,
    /// Whether the kernel killed it for want of memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub out_of_memory: bool,
    /// Reason for which the daemon ended the replica, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, RFC 3339.
    pub at: String,
    /// Its last lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// A revision that served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptRevision {
    /// Its number.
    pub revision: u64,
    /// The image, as it was sent.
    pub image: String,
    /// What that was resolved to.
    pub image_digest: String,
    /// When it was deployed, RFC 3339.
    pub created_at: String,
}

/// A revision that does not serve yet, or did not come up, while an older one serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Its number.
    pub revision: u64,
    /// `pulling`, `starting` or `failed`.
    pub phase: String,
    /// How far it is, or why it did not come up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What all replicas of a function use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Processor time in thousandths of a core, over the last second or so.
    pub cpu: f64,
    /// Memory in bytes, without the page cache that can be dropped.
    pub total_memory_bytes: f64,
}
