//! How to find out whether a replica can serve.

use std::time::Duration;

/// An HTTP probe: `GET` on a path of the function's own server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The path to ask, with its leading `/`.
    pub path: String,
    /// How long to wait before the first attempt.
    pub initial_delay: Duration,
    /// Pause between two attempts, once the replica serves.
    pub period: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How many attempts in a row must fail before the replica counts as broken.
    pub failure_threshold: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            path: "/_/health".into(),
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
        }
    }
}

/// The probes that a function asks for by annotation. Without one, a replica is ready when it
/// accepts a connection and neither `/_/ready` nor `/_/health` says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// `com.openfaas.ready.http.*`: must answer 200 before the first call is sent.
    pub ready: Option<Probe>,
    /// `com.openfaas.health.http.*`: must keep answering 200, or the replica is replaced.
    pub health: Option<Probe>,
}
