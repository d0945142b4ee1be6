//! Counts, and their Prometheus text.

/// Counts of one function's calls: written on the request path, without a lock.
#[derive(Debug, Default)]
pub struct CallStats {}
