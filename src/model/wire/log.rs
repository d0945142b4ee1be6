//! Lines of function output.

use serde::{Deserialize, Serialize};

/// One line of `GET /system/logs`, as NDJSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The function's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The replica that wrote it.
    pub instance: String,
    /// When it was read, RFC 3339 with nanoseconds, UTC.
    pub timestamp: String,
    /// The line without its end.
    pub text: String,
}
