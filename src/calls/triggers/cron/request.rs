//! The request that a function gets by its schedule.

use std::io::Write as _;

use jiff::Timestamp;

use model::function::FunctionKey;

/// Its head as the queue keeps it: without what says how long the body is, and without the empty line at its end. What
/// a connector of OpenFaaS sends, and when the run was due, if it was.
pub(super) fn of(function: &FunctionKey, call_id: &str, due: Option<Timestamp>, now: Timestamp) -> Vec<u8> {
    let mut head = format!(
        "POST / HTTP/1.1\r\nHost: {function}\r\nUser-Agent: ingle\r\nX-Topic: cron-function\r\n\
         X-Connector: cron-connector\r\nX-Call-Id: {call_id}\r\nX-Start-Time: {}\r\n",
        now.as_nanosecond()
    )
    .into_bytes();
    if let Some(due) = due {
        write!(head, "X-Scheduled-At: {due}\r\n").expect("a vector takes every write");
    }
    head
}
