//! Which lines a client asks for.

/// A question about a function's output.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// At most this many lines that are there already, the newest; all if `None`.
    pub tail: Option<usize>,
    /// Only lines from this moment on.
    pub since: Option<jiff::Timestamp>,
    /// Go on with lines as they are written.
    pub follow: bool,
    /// Only lines of this replica.
    pub instance: Option<String>,
}
