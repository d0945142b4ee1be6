//! Why a secret was not kept, changed or found.

use model::function::{Invalid, NamespaceName, SecretName};

/// An error of a secret. None of them holds a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The request itself is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such secret.
    #[error(
        "secret {secret} was not found in namespace {namespace}: see 'ingle secret list{0}', or create it with 'ingle secret create {secret}{0}'",
        namespace.option()
    )]
    NotFound {
        /// Its name.
        secret: SecretName,
        /// Where it was looked for.
        namespace: NamespaceName,
    },
    /// There is one of that name.
    #[error(
        "secret {secret} exists already in namespace {namespace}: change it with 'ingle secret update {secret}{}'",
        namespace.option()
    )]
    Exists {
        /// Its name.
        secret: SecretName,
        /// Where it is.
        namespace: NamespaceName,
    },
    /// A function needs it.
    #[error("secret {secret} is used by {functions}: remove them first, or deploy them without it")]
    InUse {
        /// Its name.
        secret: SecretName,
        /// Who uses it.
        functions: String,
    },
    /// The value is too large.
    #[error("secret {secret} is larger than {limit} bytes")]
    TooLarge {
        /// Its name.
        secret: String,
        /// The largest value in bytes.
        limit: usize,
    },
    /// There are too many.
    #[error("namespace {namespace} has {limit} secrets, which is the most: delete some")]
    Full {
        /// Which namespace.
        namespace: NamespaceName,
        /// How many it may have.
        limit: usize,
    },
    /// Together they are too large.
    #[error("the secrets have more than {limit} bytes together: export one namespace after the other")]
    ExportTooLarge {
        /// The most that is exported at once, in bytes.
        limit: usize,
    },
    /// The file system did not do it.
    #[error("{operation} failed")]
    Io {
        /// What was being done, with which thing.
        operation: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl SecretError {
    pub(super) fn io(operation: String, source: std::io::Error) -> Self {
        Self::Io { operation, source }
    }
}
