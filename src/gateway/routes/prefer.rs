//! `Prefer: respond-async, wait=10` (RFC 7240): a client that rather comes back for the answer than waits for it.

use std::time::Duration;

use http1::{Header, RequestHead};

/// How long a client waits that does not say.
const WAIT: Duration = Duration::from_secs(10);
/// How long at most: more than any connection lasts.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long a client waits for the answer before it would rather be told that it comes later. Nothing if it does not
/// say that it would.
pub(super) fn respond_async(head: &RequestHead<'_, '_>) -> Option<Duration> {
    if !head.prefers {
        return None;
    }
    let values = head.headers.iter().filter(|header| Header::of(header.name) == Header::Prefer);
    let mut wanted = false;
    let mut wait = None;
    for preference in values.flat_map(|header| header.value.split(|byte| *byte == b',')) {
        // What follows a semicolon is a parameter of the preference, and none of these two has one.
        let preference = preference.split(|byte| *byte == b';').next().unwrap_or_default();
        let mut parts = preference.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        if name.eq_ignore_ascii_case(b"respond-async") {
            wanted = true;
        } else if name.eq_ignore_ascii_case(b"wait") && wait.is_none() {
            // The first of several counts. One that cannot be read is as if it were not there.
            wait = value.and_then(|value| std::str::from_utf8(value).ok()?.trim_matches('"').parse().ok());
        }
    }
    wanted.then(|| wait.map_or(WAIT, Duration::from_secs).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http1::slots;

    #[test]
    fn a_preference_is_read_as_it_is_written() {
        for (lines, seconds) in [
            ("", None),
            ("Prefer: wait=5\r\n", None),
            ("Prefer: return=minimal\r\n", None),
            ("Prefer: respond-asynchronously\r\n", None),
            ("Prefer: respond-async\r\n", Some(10)),
            ("prefer: Respond-Async, wait=5\r\n", Some(5)),
            ("Prefer: wait = \"7\" ,respond-async; x=y\r\n", Some(7)),
            ("Prefer: respond-async\r\nPrefer: wait=0, wait=9\r\n", Some(0)),
            ("Prefer: respond-async, wait=soon\r\n", Some(10)),
            ("Prefer: respond-async, wait=-1\r\n", Some(10)),
            ("Prefer: respond-async, wait=18446744073709551615\r\n", Some(86400)),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let mut slots = slots();
            let (head, _) = RequestHead::parse(text.as_bytes(), &mut slots).expect("valid").expect("whole");
            assert_eq!(respond_async(&head), seconds.map(Duration::from_secs), "{lines}");
        }
    }
}
