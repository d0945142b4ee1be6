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
    assert!(head.connection.names(head.headers, "x-secret"));
    assert!(!head.connection.names(head.headers, "host"));
    assert!(!head.persists());
}

#[test]
fn the_end_of_a_head_is_seen_across_reads() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for from in 0..=head.len() {
        assert!(ends_after(head, from), "{from}");
    }
    assert!(!ends_after(&head[..head.len() - 1], 0));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = RequestHead::parse(&bytes, &mut slots());
        let _ = ResponseHead::parse(&bytes, &mut slots(), false);
        let _ = ends_after(&bytes, bytes.len() / 2);
    }

    #[test]
    fn a_head_is_never_taken_for_whole_before_its_end(cut in 0usize..60) {
        let text = b"POST /x HTTP/1.1\r\nHost: example\r\nContent-Length: 3\r\nA: b\r\n\r\n";
        prop_assert!(RequestHead::parse(&text[..cut], &mut slots()).expect("a valid beginning").is_none());
    }
}
