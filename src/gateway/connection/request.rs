//! A request apart from its headers: what every route has to know of it.

use std::time::{Duration, SystemTime};

use http1::{Framing, Header, RequestHead};
use tokio::time::Instant;

/// A request, apart from its target and headers.
#[derive(Debug)]
pub(in crate::gateway) struct RequestInfo {
    pub(in crate::gateway) framing: Framing,
    pub(in crate::gateway) http10: bool,
    /// The connection can carry another request.
    pub(in crate::gateway) persists: bool,
    pub(in crate::gateway) expects_continue: bool,
    pub(in crate::gateway) upgrade: bool,
    /// Errors are wanted as JSON.
    pub(in crate::gateway) json: bool,
    pub(in crate::gateway) to_head: bool,
    pub(in crate::gateway) call_id: CallId,
    pub(in crate::gateway) started: Instant,
    /// The same in nanoseconds of Unix time.
    pub(in crate::gateway) started_at: u128,
}

/// The id of a call: the client's own, else a new one.
#[derive(Debug)]
pub(in crate::gateway) enum CallId {
    Sent(Box<[u8]>),
    New([u8; 36]),
}

impl CallId {
    fn of(head: &RequestHead<'_, '_>) -> Self {
        match head.header(Header::CallId) {
            Some(sent) if !sent.is_empty() && sent.len() <= 256 => Self::Sent(sent.into()),
            _ => {
                let mut text = [0; 36];
                uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
                Self::New(text)
            }
        }
    }

    pub(in crate::gateway) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sent(sent) => sent,
            Self::New(text) => text,
        }
    }
}

impl RequestInfo {
    pub(in crate::gateway) fn of(head: &RequestHead<'_, '_>) -> Self {
        Self {
            framing: head.framing,
            http10: head.http10,
            persists: head.persists(),
            expects_continue: head.expects_continue,
            upgrade: head.upgrade,
            json: head.json,
            to_head: head.method == "HEAD",
            call_id: CallId::of(head),
            started: Instant::now(),
            started_at: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |time| time.as_nanos()),
        }
    }

    pub(in crate::gateway) fn has_body(&self) -> bool {
        self.framing != Framing::None
    }

    /// The headers that every answer has, whoever made it.
    pub(in crate::gateway) fn push_headers(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"X-Call-Id: ");
        out.extend_from_slice(self.call_id.as_bytes());
        out.extend_from_slice(b"\r\nX-Start-Time: ");
        out.extend_from_slice(itoa::Buffer::new().format(self.started_at).as_bytes());
        out.extend_from_slice(b"\r\nX-Duration-Seconds: ");
        push_seconds(out, self.started.elapsed());
        out.extend_from_slice(
            concat!("\r\nX-Served-By: ingle/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes(),
        );
    }
}

/// Seconds with six decimals.
fn push_seconds(out: &mut Vec<u8>, time: Duration) {
    out.extend_from_slice(itoa::Buffer::new().format(time.as_secs()).as_bytes());
    out.push(b'.');
    // The digit in front holds the place of the zeros that a number does not begin with.
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(&digits.format(1_000_000 + time.subsec_micros()).as_bytes()[1..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_six_decimals() {
        for (micros, text) in
            [(0, "0.000000"), (1, "0.000001"), (1_234_567, "1.234567"), (60_000_000, "60.000000")]
        {
            let mut out = Vec::new();
            push_seconds(&mut out, Duration::from_micros(micros));
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
