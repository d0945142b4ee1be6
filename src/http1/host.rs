//! The host of a request (RFC 9110, section 7.2). Everything that routes by it must find one, and the same one.

use std::net::Ipv6Addr;

/// Longest host with its port, in bytes. A DNS name has at most 253.
const LONGEST: usize = 261;

/// Returns `value` as text if it is a valid host and port.
pub(crate) fn host(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| text.len() <= LONGEST && is_host(text))
}

/// Returns the authority of a target in absolute form.
pub(crate) fn authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let mut letters = scheme.bytes();
    let is_scheme = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then(|| &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())])
}

/// Returns whether `text` is `uri-host [ ":" port ]` (RFC 9110, section 7.2) with a port that TCP has.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, rest))) if address.parse::<Ipv6Addr>().is_ok() => ("v6", rest),
        Some(_) => return false,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port = match port.strip_prefix(':') {
        // The port may be empty after its colon (RFC 3986, section 3.2.3).
        Some(digits) => {
            digits.bytes().all(|byte| byte.is_ascii_digit())
                && (digits.is_empty() || digits.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    is_port && is_name(host.as_bytes())
}

/// Returns whether `name` is a `reg-name` (RFC 3986, section 3.2.2) that is not empty.
fn is_name(mut name: &[u8]) -> bool {
    let is_empty = name.is_empty();
    while let [first, rest @ ..] = name {
        name = match (first, rest) {
            (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            (b'-' | b'.' | b'_' | b'~', _) => rest,
            (b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=', _) => rest,
            (byte, _) if byte.is_ascii_alphanumeric() => rest,
            _ => return false,
        };
    }
    !is_empty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for host in [
            "a",
            "a:80",
            "a:",
            "A_b-c.example.",
            "1.2.3.4:65535",
            "[::1]",
            "[::ffff:1.2.3.4]:8080",
            "a%20b",
            "a~!",
        ] {
            assert_eq!(super::host(host.as_bytes()), Some(host));
        }
        let long = "a".repeat(LONGEST + 1);
        for host in [
            "",
            ":80",
            "a b",
            "a b/@c,d",
            "a/b",
            "a@b",
            "user:pw@b",
            "a?b",
            "a#b",
            "a\\b",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:+1",
            "a: 80",
            "http://a",
            "[::1",
            "::1",
            "[a]",
            "[::1]a",
            "[::1%eth0]",
            "[]",
            "a%2",
            "a%zz",
            "a\"",
            "<a>",
            "a\tb",
            "\u{e9}",
            "a, b",
            &long,
        ] {
            assert_eq!(super::host(host.as_bytes()), None, "{host}");
        }
        assert_eq!(host(b"\xff"), None);
    }

    #[test]
    fn only_a_target_in_absolute_form_has_an_authority() {
        for (target, found) in [
            ("http://a/b", Some("a")),
            ("HTTPS://a:1?b", Some("a:1")),
            ("x+y-1.z://a#b", Some("a")),
            ("http://u@a", Some("u@a")),
            ("http:///b", Some("")),
            ("/http://a/b", None),
            ("*", None),
            ("a:443", None),
            ("1x://a", None),
            ("?://a", None),
            ("://a", None),
        ] {
            assert_eq!(authority(target), found, "{target}");
        }
    }
}
