//! Why a replica did not come up.

use std::time::Duration;

use host::bundles::HandlerError;
use host::logs::LogError;
use host::network::NetworkError;
use host::runtime::RuntimeError;
use host::secrets::SecretError;
use model::function::FunctionKey;

/// An error of a launch.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The image could not be fetched or unpacked.
    #[error(transparent)]
    Pull(RuntimeError),
    /// No network could be made.
    #[error("no network for function {function}")]
    Network {
        /// The function.
        function: FunctionKey,
        /// Why not.
        #[source]
        source: NetworkError,
    },
    /// A secret is not there any more.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Its handler is not there any more.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// Its output could not be set up.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// The container could not be made or started.
    #[error(transparent)]
    Container(RuntimeError),
    /// The process ended before it answered.
    #[error("function {function} exited with code {code} before it answered{}", shown(.output))]
    Exited {
        /// The function.
        function: FunctionKey,
        /// Its exit code.
        code: u32,
        /// Its last lines.
        output: Vec<String>,
    },
    /// The process runs but does not answer.
    #[error("function {function} did not become ready within {}s ({last}){}", .limit.as_secs_f32(), shown(.output))]
    NotReady {
        /// The function.
        function: FunctionKey,
        /// How long it was given.
        limit: Duration,
        /// What the last attempt met.
        last: String,
        /// Its last lines.
        output: Vec<String>,
    },
    /// An error of the daemon.
    #[error("the start of a replica of function {function} broke off, which is an error of ingle")]
    Panicked {
        /// The function.
        function: FunctionKey,
        /// What the panic said.
        #[source]
        source: tokio::task::JoinError,
    },
    /// The replica is not wanted any more.
    #[error("the start was called off")]
    Cancelled,
}

impl LaunchError {
    /// Whether the revision is not at fault: containerd, or the shim that it had started, was not there.
    pub fn is_engine_away(&self) -> bool {
        matches!(self, Self::Pull(RuntimeError::Down { .. }) | Self::Container(RuntimeError::Down { .. }))
    }

    /// Whether trying the same again cannot help: the image or the request is at fault.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Pull(error) | Self::Container(error) => match error {
                RuntimeError::WrongPlatform { .. }
                | RuntimeError::NoCommand { .. }
                | RuntimeError::BadImage { .. }
                | RuntimeError::BadRequest(_)
                | RuntimeError::ImageNotLoaded { .. } => true,
                RuntimeError::Down { .. }
                | RuntimeError::Timeout { .. }
                | RuntimeError::ImageNotFound { .. }
                | RuntimeError::Unauthorized { .. }
                | RuntimeError::RegistryUnreachable { .. }
                // It may be loaded again.
                | RuntimeError::ImageGone { .. }
                | RuntimeError::NotFound { .. }
                | RuntimeError::Failed { .. } => false,
            },
            Self::Network { .. }
            | Self::Secret(_)
            | Self::Handler(_)
            | Self::Logs(_)
            | Self::Exited { .. }
            | Self::NotReady { .. }
            | Self::Panicked { .. }
            | Self::Cancelled => false,
        }
    }
}

/// The last lines of output, as the end of a message.
fn shown(output: &[String]) -> String {
    if output.is_empty() { String::new() } else { format!("; its last output: {}", output.join(" | ")) }
}
