use proptest::prelude::*;

use super::*;

fn request(text: &str) -> Result<Framing, HeadError> {
    let mut slots = slots();
    RequestHead::parse(text.as_bytes(), &mut slots).map(|head| head.expect("whole").0.framing)
}

fn answer(text: &str, to_head: bool) -> Result<Framing, HeadError> {
    let mut slots = slots();
    ResponseHead::parse(text.as_bytes(), &mut slots, to_head).map(|head| head.expect("whole").0.framing)
}

#[test]
fn a_request_has_one_way_to_be_delimited() {
    for (headers, framing) in [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::None),
        ("Content-Length: 12\r\n", Framing::Length(12)),
        ("transfer-encoding: Chunked\r\n", Framing::Chunked),
    ] {
        assert_eq!(request(&format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")), Ok(framing));
    }
}

#[test]
fn what_could_smuggle_a_request_is_refused() {
    for headers in [
        "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
        "Host: a\r\nContent-Length: 5, 5\r\n",
        "Host: a\r\nContent-Length: +5\r\n",
        "Host: a\r\nContent-Length: -5\r\n",
        "Host: a\r\nContent-Length: 0x5\r\n",
        "Host: a\r\nContent-Length: 5 5\r\n",
        "Host: a\r\nContent-Length:\r\n",
        "Host: a\r\nContent-Length: 99999999999999999999\r\n",
        "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        "Host: a\r\nTransfer-Encoding: xchunked\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nTransfer-Encoding : chunked\r\n",
        "Host: a\r\n Transfer-Encoding: chunked\r\n",
        "Host: a\r\nX: a\0b\r\n",
        "Host: a\r\nX: a\rb\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\nContent-Length: 5\r\n",
        "Host: a\r\nX: a\nContent-Length: 5\r\n",
        "",
    ] {
        assert!(request(&format!("POST / HTTP/1.1\r\n{headers}\r\n")).is_err(), "{headers:?}");
    }
    assert!(request("POST / HTTP/1.1\nHost: a\r\n\r\n").is_err());
    assert!(request("POST / HTTP/1.1\r\nHost: a\r\n\n").is_err());
    assert!(request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    assert_eq!(request("POST / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(HeadError::Version));
}

#[test]
fn an_answer_without_a_body_has_none_whatever_it_says() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
    assert_eq!(answer(head, false), Ok(Framing::Length(12)));
    assert_eq!(answer(head, true), Ok(Framing::None));
    assert_eq!(answer("HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n", false), Ok(Framing::None));
    assert_eq!(answer("HTTP/1.1 204 No Content\r\n\r\n", false), Ok(Framing::None));
    assert_eq!(answer("HTTP/1.1 200 OK\r\n\r\n", false), Ok(Framing::UntilClose));
    assert!(
        answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false).is_err()
    );
    assert!(answer("HTTP/1.1 007 Bond\r\n\r\n", false).is_err());
}

#[test]
fn connections_persist_as_their_version_has_it() {
    for (text, persists) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n", true),
        // A body may come all the same.
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false),
    ] {
        assert_eq!(persists_after(text, false), persists, "{text:?}");
    }
    for (headers, persists) in
        [("Content-Length: 0\r\n", true), ("Content-Length: 5\r\n", false), ("", false)]
    {
        assert_eq!(
            persists_after(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), true),
            persists,
            "{headers:?}"
        );
    }
}

fn persists_after(answer: &str, to_head: bool) -> bool {
    let mut slots = slots();
    let head = ResponseHead::parse(answer.as_bytes(), &mut slots, to_head).expect("valid");
    head.expect("whole").0.persists()
}

#[test]
fn names_that_only_look_like_others_are_not_passed_on() {
    for name in [
        "X_Forwarded_For",
        "x-forwarded_for",
        "CONTENT_LENGTH",
        "Transfer_Encoding",
        "proxy_authorization",
        "Set_Cookie",
    ] {
        assert_eq!(Header::of(name), Header::Ours, "{name}");
    }
    for name in ["X_Own", "x_forwarded_forever", "_", "Content-Length_", "X-Forwarded-Fort"] {
        assert_eq!(Header::of(name), Header::Other, "{name}");
    }
    assert_eq!(Header::of("X-Forwarded-For"), Header::ForwardedFor);
}

#[test]
fn headers_that_connection_names_go_no_further() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n\r\n";
    let mut slots = slots();
    let (head, _) = RequestHead::parse(text, &mut slots).expect("valid").expect("whole");
    assert_eq!([0, 1, 2, 127].map(|index| head.connection.names(index)), [false, false, true, false]);
    assert!(!head.persists());
}

#[test]
fn a_head_is_parsed_at_its_start_and_at_its_end_however_it_arrives() {
    for (before, end) in [("", "\r\n\r\n"), ("\r\n", "\r\n\r\n"), ("\r\n\r\n\n\r\n", "\n\n"), ("", "\n\r\n")]
    {
        let head = format!("{before}GET / HTTP/1.1\r\nHost: a{end}");
        let head = head.as_bytes();
        // In one piece, in two, and byte by byte.
        for cut in 0..=head.len() {
            let mut scan = HeadScan::default();
            assert_eq!(scan.is_due(&head[..cut]), cut > before.len(), "{cut}");
            assert_eq!(scan.is_empty(), cut == 0);
            assert_eq!(scan.is_due(head), cut < head.len(), "{cut} of {head:?}");
        }
        let mut scan = HeadScan::default();
        let due: Vec<usize> = (0..=head.len()).filter(|end| scan.is_due(&head[..*end])).collect();
        assert_eq!(due, [before.len() + 1, head.len()]);
    }
    // Line breaks alone are no head, and each is read once.
    let mut scan = HeadScan::default();
    assert!((0..1000).all(|count| !scan.is_due("\r\n".repeat(count).as_bytes())));
}

#[test]
fn a_method_has_at_most_32_bytes() {
    let of = |length| request(&format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(length)));
    assert_eq!(of(MAX_METHOD), Ok(Framing::None));
    assert_eq!(of(MAX_METHOD + 1), Err(HeadError::Bad("the method has more than 32 bytes")));
}

#[test]
fn connection_names_at_most_32_options() {
    let list = |count: usize| vec!["a"; count].join(",");
    for (lines, is_refused) in [
        (vec![list(32)], false),
        (vec![list(33)], true),
        (vec![list(16), format!("{},,,", list(16))], false),
        (vec![list(16), list(16), "close".to_owned()], true),
    ] {
        let headers: String = lines.iter().map(|line| format!("Connection: {line}\r\n")).collect();
        assert_eq!(request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).is_err(), is_refused);
        assert_eq!(answer(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"), false).is_err(), is_refused);
    }
}

#[test]
fn a_request_needs_exactly_one_valid_host() {
    let host = |text: &str| {
        let mut slots = slots();
        let parsed = RequestHead::parse(text.as_bytes(), &mut slots);
        parsed.map(|head| head.expect("whole").0.host.map(str::to_owned))
    };
    let some = |host: &str| Ok(Some(host.to_owned()));
    for (target, headers, found) in [
        ("/", "Host: a\r\n", some("a")),
        ("*", "Host: a:1\r\n", some("a:1")),
        // The authority of a target overrides the header (RFC 9112, section 3.2.2).
        ("http://b/", "Host: a\r\n", some("b")),
        ("HTTPS://b:1?x", "Host: a\r\n", some("b:1")),
        ("x://b/", "Host: a\r\n", some("b")),
        ("/x://b/", "Host: a\r\n", some("a")),
    ] {
        assert_eq!(host(&format!("GET {target} HTTP/1.1\r\n{headers}\r\n")), found, "{target}");
    }
    assert_eq!(host("GET / HTTP/1.0\r\n\r\n"), Ok(None));
    assert_eq!(host("GET http://b/ HTTP/1.0\r\n\r\n"), some("b"));
    for version in ["1.0", "1.1"] {
        for (target, headers) in [
            ("/", "Host:\r\n"),
            ("/", "Host: a b/@c,d\r\n"),
            ("/", "Host: a\r\nHost: a\r\n"),
            ("/", "host: a\r\nHOST: b\r\n"),
            ("http://b/", "Host:\r\n"),
            ("http://b/", "Host: a\r\nHost: b\r\n"),
            ("http:///x", "Host: a\r\n"),
            ("http://u@b/", "Host: a\r\n"),
            ("http://b:x/", "Host: a\r\n"),
        ] {
            assert!(
                host(&format!("GET {target} HTTP/{version}\r\n{headers}\r\n")).is_err(),
                "{target} {headers}"
            );
        }
    }
    assert!(host("GET / HTTP/1.1\r\n\r\n").is_err());
    assert!(host("GET http://b/ HTTP/1.1\r\n\r\n").is_err(), "HTTP/1.1 has the header all the same");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RequestHead::parse(&bytes, &mut slots());
        let _ = ResponseHead::parse(&bytes, &mut slots(), false);
        let mut scan = HeadScan::default();
        for end in 0..=bytes.len() {
            let _ = scan.is_due(&bytes[..end]);
        }
    }

    /// Compares the result with the plain method: each header with each name.
    #[test]
    fn connection_finds_exactly_the_headers_that_it_names(
        names in prop::collection::vec("[aAbB-]{1,3}", 0..8),
        headers in prop::collection::vec("[aAbB-]{1,3}", 0..40),
    ) {
        let lines: String = headers.iter().map(|name| format!("{name}: 1\r\n")).collect();
        let text = format!("HTTP/1.1 200 OK\r\n{lines}Connection: {}\r\n\r\n", names.join(" ,"));
        let mut slots = slots();
        let (head, _) = ResponseHead::parse(text.as_bytes(), &mut slots, false).expect("valid").expect("whole");
        for (index, header) in headers.iter().enumerate() {
            let is_named = names.iter().any(|name| name.eq_ignore_ascii_case(header));
            prop_assert_eq!(head.connection.names(index), is_named);
        }
    }

    #[test]
    fn a_head_is_never_taken_for_whole_before_its_end(cut in 0usize..60) {
        let text = b"POST /x HTTP/1.1\r\nHost: example\r\nContent-Length: 3\r\nA: b\r\n\r\n";
        prop_assert!(RequestHead::parse(&text[..cut], &mut slots()).expect("a valid beginning").is_none());
    }
}
