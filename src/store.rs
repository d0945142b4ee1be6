//! sled: specs, leases, counters.

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed")]
pub struct StoreError {
    operation: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}
