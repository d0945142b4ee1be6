//! What a process learns of its request: variables, much as CGI had them.

use std::collections::HashSet;
use std::ffi::CString;

use percent_encoding::percent_decode_str;

use super::spawn::variable;
use http1::{Framing, Header, RequestHead};

/// The variables of a request.
///
/// A header `X-Call-Id` becomes `Http_X_Call_Id`: in the case that Go's programs give names, because that is what
/// functions look for; clients and proxies write them as they like.
pub(super) fn variables(head: &RequestHead<'_, '_>) -> Vec<CString> {
    let text = |name: &str, value: &[u8]| variable(name.as_bytes(), value);
    let (path, query) = split(head.target);
    let length = match head.framing {
        Framing::Length(length) => length.to_string(),
        Framing::Chunked => "-1".into(),
        Framing::None | Framing::UntilClose => "0".into(),
    };
    let mut variables = Vec::with_capacity(16);
    variables.extend(text("Http_Method", head.method.as_bytes()));
    // The same twice: the first of the watchdogs had it under both names.
    variables.extend(text("Http_ContentLength", length.as_bytes()));
    variables.extend(text("Http_Content_Length", length.as_bytes()));
    if head.framing == Framing::Chunked {
        variables.extend(text("Http_Transfer_Encoding", b"chunked"));
    }
    if !query.is_empty() {
        variables.extend(text("Http_Query", query.as_bytes()));
    }
    if !path.is_empty() {
        let path: Vec<u8> = percent_decode_str(path).collect();
        variables.extend(text("Http_Path", &path));
    }
    let name_of =
        |variable: &CString| variable.to_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let mut known: HashSet<Vec<u8>> = variables.iter().filter_map(name_of).collect();
    for header in head.headers {
        match Header::of(header.name) {
            Header::Host => variables.extend(text("Http_Host", header.value)),
            Header::ContentLength | Header::TransferEncoding => {}
            _ if !is_variable(header.name) => {}
            _ => {
                let name = format!("Http_{}", canonical(header.name).replace('-', "_"));
                // The first of several counts.
                if known.insert(name.as_bytes().to_vec()) {
                    variables.extend(text(&name, header.value));
                }
            }
        }
    }
    variables
}

/// Returns whether a header becomes a variable. A name with an underscore or another special character could
/// be mistaken for another header, which a proxy in front may have checked. `Proxy` would become
/// `Http_Proxy`, from which Python, for one, takes the proxy of its own requests.
fn is_variable(name: &str) -> bool {
    !name.eq_ignore_ascii_case("proxy")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Path and query of a target, which may be a whole URL.
pub(super) fn split(target: &str) -> (&str, &str) {
    let local = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    };
    local.split_once('?').unwrap_or((local, ""))
}

/// A header's name as Go writes it: each word with a capital and the rest small.
pub(super) fn canonical(name: &str) -> String {
    let mut first = true;
    let letters = name.chars().map(|letter| {
        let written = if first { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
        first = letter == '-';
        written
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http1::slots;

    fn of(request: &str) -> Vec<String> {
        let mut slots = slots();
        let (head, _) = RequestHead::parse(request.as_bytes(), &mut slots).expect("valid").expect("whole");
        let mut all: Vec<String> =
            variables(&head).into_iter().map(|variable| variable.into_string().expect("UTF-8")).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn names_have_the_case_that_functions_look_for() {
        let request = "POST /a%20b/c?q=1&r=%20 HTTP/1.1\r\nhost: fn\r\nx-call-id: 7\r\nX-CALL-ID: 8\r\n\
                       ETag: e\r\nContent-length: 3\r\n\r\n";
        assert_eq!(
            of(request),
            [
                "Http_ContentLength=3",
                "Http_Content_Length=3",
                "Http_Etag=e",
                "Http_Host=fn",
                "Http_Method=POST",
                "Http_Path=/a b/c",
                "Http_Query=q=1&r=%20",
                "Http_X_Call_Id=7",
            ]
        );
    }

    #[test]
    fn only_headers_of_letters_digits_and_hyphens_become_variables_except_proxy() {
        let head = "GET / HTTP/1.1\r\nHost: fn\r\n";
        let plain = of(&format!("{head}\r\n"));
        for name in ["Proxy", "pRoXy", "X_Call_Id", "X.Y", "BASH_FUNC_a%%", "X!", "X$Y", "X`Y", "X'Y", "A|B"]
        {
            assert_eq!(of(&format!("{head}{name}: x\r\n\r\n")), plain, "{name}");
        }
        for name in ["X-Proxy", "X-Call-Id", "X2", "Proxy-Id"] {
            assert_eq!(of(&format!("{head}{name}: x\r\n\r\n")).len(), plain.len() + 1, "{name}");
        }
    }

    #[test]
    fn a_body_of_unknown_length_is_said_so() {
        let all = of("PUT / HTTP/1.1\r\nHost: fn\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(all.contains(&"Http_Content_Length=-1".into()), "{all:?}");
        assert!(all.contains(&"Http_Transfer_Encoding=chunked".into()), "{all:?}");
        assert!(of("GET / HTTP/1.1\r\nHost: fn\r\n\r\n").contains(&"Http_Content_Length=0".into()));
    }

    #[test]
    fn a_target_may_be_a_url_and_a_path_may_hold_one() {
        assert_eq!(split("/a?b?c"), ("/a", "b?c"));
        assert_eq!(split("http://h:1/a?b"), ("/a", "b"));
        assert_eq!(split("http://h"), ("/", ""));
        assert_eq!(split("/http://h/a"), ("/http://h/a", ""));
        assert!(
            !of("GET /a%00b HTTP/1.1\r\nHost: fn\r\n\r\n").iter().any(|text| text.starts_with("Http_Path"))
        );
    }
}
