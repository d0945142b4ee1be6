//! Facts about methods, for whoever forwards a request.

use crate::Framing;

/// Whether a request may be carried out twice: its method is safe or idempotent (RFC 9110, section 9.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Whether a body is usual with a method. Many servers do not look for one where it is not, and take it for the next
/// request; and some wait for one where it is, unless they are told that there is none.
pub fn takes_body(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}

/// Returns a method as a label of metrics: of those that clients make up there is no end.
pub fn label(method: &str) -> &'static str {
    let all = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    all.into_iter().find(|known| *known == method).unwrap_or("other")
}

/// Writes the line that says how long a request's body is, if there is one or it is usual.
pub fn push_length(method: &str, framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose if takes_body(method) => {
            out.extend_from_slice(b"Content-Length: 0\r\n");
        }
        Framing::None | Framing::UntilClose => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_exact_names() {
        let methods = [
            "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "CONNECT", "get", "Post", "",
        ];
        let those =
            |is_so: fn(&str) -> bool| methods.into_iter().filter(|method| is_so(method)).collect::<Vec<_>>();
        assert_eq!(those(is_idempotent), ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
        assert_eq!(those(takes_body), ["PUT", "POST", "PATCH"]);
    }

    #[test]
    fn a_length_is_written_where_there_is_a_body_or_one_is_usual() {
        let line = |method, framing| {
            let mut out = Vec::new();
            push_length(method, framing, &mut out);
            String::from_utf8(out).expect("text")
        };
        for (method, framing, wanted) in [
            ("GET", Framing::Length(7), "Content-Length: 7\r\n"),
            ("POST", Framing::Length(u64::MAX), "Content-Length: 18446744073709551615\r\n"),
            ("GET", Framing::Length(0), "Content-Length: 0\r\n"),
            ("GET", Framing::Chunked, "Transfer-Encoding: chunked\r\n"),
            ("GET", Framing::None, ""),
            ("DELETE", Framing::UntilClose, ""),
            ("POST", Framing::None, "Content-Length: 0\r\n"),
            ("PATCH", Framing::UntilClose, "Content-Length: 0\r\n"),
        ] {
            assert_eq!(line(method, framing), wanted, "{method} {framing:?}");
        }
    }
}
