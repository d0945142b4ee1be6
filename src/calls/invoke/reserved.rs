//! Names reserved for the gateway. Functions share its origin, so a browser would attribute cookies and challenges of
//! a function under these names to the gateway.

use http1::Header;

/// The realm of the gateway's basic authentication. Browsers keep passwords by origin and realm.
pub const REALM: &str = "ingle";
/// Prefixes of the names of the gateway's cookies.
const COOKIES: [&[u8]; 3] = [b"ingle_", b"__Host-ingle", b"__Secure-ingle"];

/// Returns whether a header of a function's response may reach the caller.
pub fn may_pass(kind: Header, value: &[u8]) -> bool {
    match kind {
        Header::SetCookie => !is_reserved_cookie(value),
        Header::WwwAuthenticate => !names_realm(value),
        // It would let a function's script control pages outside of the function's own path.
        Header::ServiceWorkerAllowed => false,
        _ => true,
    }
}

/// Appends the value of a `Cookie` header without reserved cookies to `out`. Returns `false` if no others are left.
pub fn push_cookies(value: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    // Split as browsers write them: quotation marks have no meaning, so no value can swallow the next cookie.
    for cookie in value.split(|byte| *byte == b';').filter(|cookie| !is_reserved_cookie(cookie)) {
        if out.len() > start {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(cookie.trim_ascii());
    }
    out.len() > start
}

/// Returns whether the cookie at the start of a list or of `Set-Cookie` has a reserved name. For a cookie without a
/// name the value counts, because a browser sends only that.
fn is_reserved_cookie(cookie: &[u8]) -> bool {
    let begins = cookie.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != b'=');
    let named = &cookie[begins.unwrap_or(cookie.len())..];
    COOKIES.iter().any(|start| named.get(..start.len()).is_some_and(|name| name.eq_ignore_ascii_case(start)))
}

/// Returns whether a challenge names the gateway's realm, however it is quoted.
fn names_realm(challenges: &[u8]) -> bool {
    let name = b"realm";
    challenges
        .windows(name.len())
        .enumerate()
        .filter(|(_, part)| part.eq_ignore_ascii_case(name))
        .any(|(at, _)| is_ours(&challenges[at + name.len()..]))
}

/// Returns whether `= "TEXT"` or `= TOKEN` is the gateway's realm. Reads no more bytes than needed, because a
/// head may contain a thousand of them.
fn is_ours(after: &[u8]) -> bool {
    let Some(value) = after.trim_ascii_start().strip_prefix(b"=") else { return false };
    let value = value.trim_ascii_start();
    let text =
        value.strip_prefix(b"\"").or_else(|| value.strip_prefix(b"'")).unwrap_or(value).trim_ascii_start();
    // A backslash escapes the next character, whatever it is.
    let mut text = text.iter().filter(|byte| **byte != b'\\');
    REALM.bytes().all(|byte| text.next().is_some_and(|other| other.eq_ignore_ascii_case(&byte)))
        && text
            .find(|byte| !byte.is_ascii_whitespace())
            .is_none_or(|byte| matches!(byte, b'"' | b'\'' | b',' | b';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_cookies_are_removed_from_a_list_and_others_stay_unchanged() {
        for (sent, passed) in [
            ("a=b", "a=b"),
            ("a=b; c=\"d, e\"; f", "a=b; c=\"d, e\"; f"),
            ("ingle_session=x", ""),
            ("__Host-ingle_session=x; __host-ingle=y;__Secure-ingle.z=1", ""),
            ("a=b; ingle_session=x; c=d", "a=b; c=d"),
            ("a=\"b; ingle_session=x; c=\"", "a=\"b; c=\""),
            ("ingle_session=x;a=b;", "a=b; "),
            (" =ingle_session=x; INGLE_SESSION=x;\tingle_ = y; a=ingle_session=x", "a=ingle_session=x"),
            ("ingle=1; xingle_session=1; __Host-other=1", "ingle=1; xingle_session=1; __Host-other=1"),
        ] {
            let mut out = b"Cookie: ".to_vec();
            let some = push_cookies(sent.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("Cookie: {passed}"), "{sent}");
            assert_eq!(some, !passed.is_empty(), "{sent}");
        }
    }

    #[test]
    fn response_headers_with_reserved_names_do_not_pass() {
        let cut = |name: &str, value: &str| !may_pass(Header::of(name), value.as_bytes());
        for (name, value) in [
            ("Set-Cookie", "ingle_session=x; Path=/"),
            ("set-cookie", " __HOST-ingle_session = x"),
            ("Set-Cookie", "=ingle_session=x"),
            ("Set-Cookie", "ingle_session"),
            ("WWW-Authenticate", "Basic realm=\"ingle\""),
            ("WWW-Authenticate", "Basic charset=\"UTF-8\", REALM = \"In\\gle\""),
            ("WWW-Authenticate", "Bearer realm=\"mine\", Basic realm=ingle, x=y"),
            ("WWW-Authenticate", "Basic realm=\"ingle"),
            ("Service-Worker-Allowed", "/"),
        ] {
            assert!(cut(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("Set-Cookie", "session=ingle_; Path=/"),
            ("Set-Cookie", ""),
            ("WWW-Authenticate", "Basic realm=\"mine\""),
            ("WWW-Authenticate", "Basic realm=\"single\""),
            ("WWW-Authenticate", "Negotiate"),
            ("WWW-Authenticate", "realm"),
            ("Service-Worker", "script"),
        ] {
            assert!(!cut(name, value), "{name}: {value}");
        }
    }
}
