//! A request as its function gets it: method, encoded path, headers but those that concern the connection.

use std::net::SocketAddr;

use calls::invoke::push_cookies;
use directory::Entry;
use http1::{Framing, Header, RequestHead, method};

use super::target::Path;
use crate::gateway::access::Access;
use crate::gateway::connection::request::RequestInfo;
use crate::gateway::connection::response::push_via;

/// A request on its way to a function.
pub(super) struct ForwardedRequest<'a, 'h, 'b> {
    pub(super) head: &'a RequestHead<'h, 'b>,
    pub(super) path: Path<'b>,
    pub(super) request: &'a RequestInfo,
    pub(super) peer: SocketAddr,
    pub(super) access: &'a Access,
}

impl ForwardedRequest<'_, '_, '_> {
    /// Writes the head that the function gets. A body without a length is gathered first, if it is small.
    pub(super) fn write_head(&self, entry: &Entry, out: &mut Vec<u8>) {
        self.write_head_without_framing(&entry.label, out);
        if self.head.framing != Framing::Chunked {
            method::push_length(self.head.method, self.head.framing, out);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The same without what says how long the body is, and without the empty line at the end.
    /// `host_if_none` is for a request that has none, as those of HTTP/1.0.
    pub(super) fn write_head_without_framing(&self, host_if_none: &str, out: &mut Vec<u8>) {
        let head = self.head;
        let slash: &[u8] = if self.path.slash { b"/" } else { b"" };
        push(out, &[head.method.as_bytes(), b" ", slash, self.path.rest.as_bytes(), b" HTTP/1.1\r\n"]);
        push(out, &[b"Host: ", head.host.unwrap_or(host_if_none).as_bytes(), b"\r\n"]);
        let (mut forwarded_host, mut proto) = (false, false);
        for (index, header) in head.headers.iter().enumerate() {
            // Hops are counted, so `Connection` must not remove this header.
            let kind = Header::of(header.name);
            if kind != Header::Via && head.connection.names(index) {
                continue;
            }
            match kind {
                // Already sent above, once and as this gateway understood it.
                Header::Host => continue,
                Header::Hop | Header::Connection | Header::TransferEncoding | Header::Ours => continue,
                // Sent below.
                Header::ContentLength | Header::CallId | Header::Expect | Header::ForwardedFor => continue,
                Header::Upgrade if !head.upgrade => continue,
                // Credentials that open the API are not for functions.
                Header::Authorization if self.access.admits(header.value) => continue,
                Header::Cookie => {
                    push_cookie(header, out);
                    continue;
                }
                Header::ForwardedHost => forwarded_host = true,
                Header::ForwardedProto => proto = true,
                Header::Upgrade
                | Header::Accept
                | Header::Authorization
                | Header::Date
                | Header::Function => {}
                Header::Prefer | Header::Via | Header::Other => {}
                // These headers have a meaning only in a response.
                Header::ServiceWorkerAllowed | Header::SetCookie | Header::WwwAuthenticate => {}
            }
            push(out, &[header.name.as_bytes(), b": ", header.value, b"\r\n"]);
        }
        if head.upgrade {
            push(out, &[b"Connection: Upgrade\r\n"]);
        }
        push(out, &[b"X-Call-Id: ", self.request.call_id.as_bytes()]);
        push(out, &[b"\r\nX-Start-Time: ", itoa::Buffer::new().format(self.request.started_at).as_bytes()]);
        if let Some(host) = head.host.filter(|_| !forwarded_host) {
            push(out, &[b"\r\nX-Forwarded-Host: ", host.as_bytes()]);
        }
        push(out, &[b"\r\nX-Forwarded-For: "]);
        for earlier in head.headers.iter().filter(|header| Header::of(header.name) == Header::ForwardedFor) {
            push(out, &[earlier.value, b", "]);
        }
        push_address(out, self.peer);
        if !proto {
            out.extend_from_slice(b"\r\nX-Forwarded-Proto: http");
        }
        out.extend_from_slice(b"\r\n");
        push_via(out, head.http10);
    }
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Writes a line of cookies without the gateway's own; no line if there are no others.
fn push_cookie(header: &httparse::Header<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    push(out, &[header.name.as_bytes(), b": "]);
    if push_cookies(header.value, out) {
        out.extend_from_slice(b"\r\n");
    } else {
        out.truncate(start);
    }
}

/// Returns how often a request has passed through a gateway of this kind. Functions that call themselves or
/// each other through the gateway form a loop.
pub(super) fn hops(head: &RequestHead<'_, '_>) -> usize {
    if !head.via {
        return 0;
    }
    let lists = head.headers.iter().filter(|header| Header::of(header.name) == Header::Via);
    let hops = lists.flat_map(|header| header.value.split(|byte| *byte == b','));
    hops.filter(|hop| {
        // `[ protocol-name "/" ] protocol-version RWS received-by [ RWS comment ]` (RFC 9110, section 7.6.3)
        let mut words = hop.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|by| by.eq_ignore_ascii_case(b"ingle"))
    })
    .count()
}

/// The client's address, without going through `fmt` for the common kind.
fn push_address(out: &mut Vec<u8>, peer: SocketAddr) {
    match peer.ip().to_canonical() {
        std::net::IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        address @ std::net::IpAddr::V6(_) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_through_ingle_are_counted_in_all_lines_of_via() {
        for (lines, count) in [
            ("", 0),
            ("Via: 1.1 ingle\r\n", 1),
            ("via: 1.0 Ingle\r\nVIA: HTTP/1.1\tingle (a note), 1.1 proxy.example:80 ,,  1.1   ingle\r\n", 3),
            ("Via: 1.1 single, 1.1 ingle:80, ingle, 1.1, 1.1 other (ingle)\r\n", 0),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let mut slots = http1::slots();
            let (head, _) = RequestHead::parse(text.as_bytes(), &mut slots).expect("valid").expect("whole");
            assert_eq!(hops(&head), count, "{lines}");
        }
    }

    #[test]
    fn addresses_are_written_as_clients_know_them() {
        for (peer, text) in [
            ("10.0.255.1:80", "10.0.255.1"),
            ("[::ffff:1.2.3.4]:80", "1.2.3.4"),
            ("[2001:db8::1]:80", "2001:db8::1"),
        ] {
            let mut out = Vec::new();
            push_address(&mut out, peer.parse().expect("an address"));
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }
}
