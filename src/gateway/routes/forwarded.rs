//! A request as its function gets it: method, encoded path, headers but those that concern the connection.

use std::net::SocketAddr;

use calls::invoke::push_cookies;
use directory::Entry;
use http1::{Header, RequestHead, method};

use super::target::Path;
use crate::gateway::access::Access;
use crate::gateway::connection::request::RequestInfo;

/// A request on its way to a function.
pub(super) struct ForwardedRequest<'a, 'h, 'b> {
    pub(super) head: &'a RequestHead<'h, 'b>,
    pub(super) path: Path<'b>,
    pub(super) request: &'a RequestInfo,
    pub(super) peer: SocketAddr,
    pub(super) access: &'a Access,
}

impl ForwardedRequest<'_, '_, '_> {
    /// Writes the head that the function gets.
    pub(super) fn write_head(&self, entry: &Entry, out: &mut Vec<u8>) {
        self.write_head_without_framing(&entry.label, out);
        method::push_length(self.head.method, self.head.framing, out);
        out.extend_from_slice(b"\r\n");
    }

    /// The same without what says how long the body is, and without the empty line at the end.
    /// `host_if_none` is for a request that has none, as those of HTTP/1.0.
    pub(super) fn write_head_without_framing(&self, host_if_none: &str, out: &mut Vec<u8>) {
        let head = self.head;
        let slash: &[u8] = if self.path.slash { b"/" } else { b"" };
        push(out, &[head.method.as_bytes(), b" ", slash, self.path.rest.as_bytes(), b" HTTP/1.1\r\n"]);
        let (mut host, mut forwarded_host, mut proto) = (None, false, false);
        for header in head.headers {
            let kind = Header::of(header.name);
            // Every request has a Host, whatever the client says of it.
            if kind != Header::Host && head.connection.names(head.headers, header.name) {
                continue;
            }
            match kind {
                Header::Hop | Header::Connection | Header::TransferEncoding | Header::Ours => continue,
                // Sent again below, once and as we understood it.
                Header::ContentLength | Header::CallId | Header::Expect | Header::ForwardedFor => continue,
                Header::Upgrade if !head.upgrade => continue,
                // What opens the API to an admin is nothing for a function.
                Header::Authorization if self.access.admits(header.value) => continue,
                Header::Cookie => {
                    push_cookie(header, out);
                    continue;
                }
                Header::Host => host = Some(header.value),
                Header::ForwardedHost => forwarded_host = true,
                Header::ForwardedProto => proto = true,
                Header::Upgrade | Header::Accept | Header::Authorization | Header::Function => {}
                Header::Prefer | Header::Other => {}
                // They mean something in a response alone.
                Header::ServiceWorkerAllowed | Header::SetCookie | Header::WwwAuthenticate => {}
            }
            push(out, &[header.name.as_bytes(), b": ", header.value, b"\r\n"]);
        }
        if host.is_none() {
            push(out, &[b"Host: ", host_if_none.as_bytes(), b"\r\n"]);
        }
        if head.upgrade {
            push(out, &[b"Connection: Upgrade\r\n"]);
        }
        push(out, &[b"X-Call-Id: ", self.request.call_id.as_bytes()]);
        push(out, &[b"\r\nX-Start-Time: ", itoa::Buffer::new().format(self.request.started_at).as_bytes()]);
        if let Some(host) = host.filter(|_| !forwarded_host) {
            push(out, &[b"\r\nX-Forwarded-Host: ", host]);
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
    }
}

fn push(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Writes a line of cookies but those that are the gateway's; none if there are no others.
fn push_cookie(header: &httparse::Header<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    push(out, &[header.name.as_bytes(), b": "]);
    if push_cookies(header.value, out) {
        out.extend_from_slice(b"\r\n");
    } else {
        out.truncate(start);
    }
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
