//! Responses that the gateway makes itself, and what becomes of the connection after one.

use std::cell::RefCell;
use std::io::Write as _;

use http1::Decoder;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::request::RequestInfo;
use crate::gateway::error::ErrorResponse;

/// The fate of a connection after a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) enum Disposition {
    /// It waits for the next one.
    KeepAlive,
    /// It waits for the next one, once the rest of the request's body has been read.
    Drain(Decoder),
    /// It is closed, once the client has had the time to read the response.
    LingeringClose,
    /// It is closed at once.
    Close,
}

impl Disposition {
    /// Returns the fate of a connection on which a response was written whole, or was not `written`.
    pub(in crate::gateway) fn after(written: bool, persists: bool) -> Self {
        match written {
            true if persists => Self::KeepAlive,
            true => Self::LingeringClose,
            false => Self::Close,
        }
    }
}

/// Writes an error as a whole error.
pub(super) fn push_error(
    out: &mut Vec<u8>,
    request: Option<&RequestInfo>,
    error: &ErrorResponse,
    persists: bool,
) {
    let (content_type, body) = error.body(request.is_some_and(|request| request.json));
    let reason = error.status.canonical_reason().unwrap_or_default();
    let length = body.len();
    let mut push = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("a vector takes all bytes");
    push(format_args!("HTTP/1.1 {} {reason}\r\n", error.status.as_u16()));
    push(format_args!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"));
    if let Some(seconds) = error.retry_after {
        push(format_args!("Retry-After: {seconds}\r\n"));
    }
    push_connection(out, persists, request.is_some_and(|request| request.http10));
    push_date(out);
    if let Some(request) = request {
        request.push_headers(out);
    }
    out.extend_from_slice(b"\r\n");
    if !request.is_some_and(|request| request.to_head) {
        out.extend_from_slice(body.as_bytes());
    }
}

/// Writes the response to an async call that was accepted.
pub(in crate::gateway) fn push_accepted(
    out: &mut Vec<u8>,
    request: &RequestInfo,
    persists: bool,
    preferred: bool,
) {
    out.extend_from_slice(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n");
    if preferred {
        out.extend_from_slice(b"Preference-Applied: respond-async\r\n");
    }
    push_connection(out, persists, request.http10);
    push_date(out);
    request.push_headers(out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the `Date` of the response; the text is made once a second.
pub(super) fn push_date(out: &mut Vec<u8>) {
    thread_local! {
        static LINE: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let now = Timestamp::now();
    LINE.with_borrow_mut(|(second, line)| {
        if *second != now.as_second() {
            let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap_or_default();
            (*second, *line) = (now.as_second(), format!("Date: {date}\r\n"));
        }
        out.extend_from_slice(line.as_bytes());
    });
}

/// Writes the `Via` of a message that arrived in this version of HTTP.
pub(in crate::gateway) fn push_via(out: &mut Vec<u8>, http10: bool) {
    out.extend_from_slice(if http10 { b"Via: 1.0 ingle\r\n" } else { b"Via: 1.1 ingle\r\n" });
}

/// Writes what becomes of the connection, where the version of the client does not say it.
pub(super) fn push_connection(out: &mut Vec<u8>, persists: bool, http10: bool) {
    if !persists {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}
