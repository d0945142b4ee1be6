//! What can go wrong with images and containers.

/// An error of the runtime. The variants are what a caller decides by; the text names the thing and
/// the way out.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine does not answer.
    #[error("containerd cannot be reached at {socket}: is it running? (systemctl status containerd)")]
    Down {
        /// Its socket.
        socket: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine did not answer in time.
    #[error("containerd did not finish {operation} in time")]
    Timeout {
        /// What was asked.
        operation: String,
    },
    /// The registry has no such image.
    #[error("image {image} was not found at {registry}: check the name and the tag")]
    ImageNotFound {
        /// The image.
        image: String,
        /// Who was asked.
        registry: String,
    },
    /// The pull policy forbids asking, and the image is not here.
    #[error("image {image} is not on this machine and its pull policy is Never: run 'ingle image load'")]
    ImageNotLoaded {
        /// The image.
        image: String,
    },
    /// The pull policy forbids asking, and what was deployed is not here any more.
    #[error(
        "image {image} was removed from this machine and its pull policy is Never: load it again with 'ingle image load', or deploy another ({digest} was deployed)"
    )]
    ImageGone {
        /// The image.
        image: String,
        /// What its name meant when it was deployed.
        digest: String,
    },
    /// The registry wants other credentials, or some.
    #[error(
        "{registry} refused access to image {image}: check the name, or log in with 'docker login {registry}', or put the credentials into {config}"
    )]
    Unauthorized {
        /// The image.
        image: String,
        /// Who refused.
        registry: String,
        /// Where credentials are read from.
        config: String,
    },
    /// The registry does not answer, or not as a registry.
    #[error("registry {registry} could not be reached for image {image}")]
    RegistryUnreachable {
        /// The image.
        image: String,
        /// Who did not answer.
        registry: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image is for another architecture.
    #[error("image {image} is for {have}, this machine is {want}: build it for {want}")]
    WrongPlatform {
        /// The image.
        image: String,
        /// This machine.
        want: String,
        /// What there is.
        have: String,
    },
    /// Neither the image nor the request says what to run.
    #[error("image {image} has no entrypoint and no command: set one in the image, or give envProcess")]
    NoCommand {
        /// The image.
        image: String,
    },
    /// The image, archive or manifest is not what it should be.
    #[error("image {image} is malformed: {reason}")]
    BadImage {
        /// The image or archive.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// The request cannot be carried out with this image, as with a user that it does not have.
    #[error("{0}")]
    BadRequest(String),
    /// There is no such thing.
    #[error("{what} was not found in containerd")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Anything else: the operation, and what containerd or the kernel said.
    #[error("{operation} failed")]
    Failed {
        /// What was being done, with which thing.
        operation: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RuntimeError {
    /// An error of `operation` with its cause.
    pub fn failed(
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { operation: operation.into(), source: source.into() }
    }
}
