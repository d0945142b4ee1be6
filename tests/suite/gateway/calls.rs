//! What a function gets of a request, and what a client gets of an answer.

use super::{Gate, answering, mirror, replica};

#[tokio::test(flavor = "multi_thread")]
async fn the_function_gets_the_request_as_it_was_sent() {
    let gate = Gate::new(&[mirror().await]).await;
    for (target, path) in [
        ("/function/env", "/"),
        ("/function/env/", "/"),
        ("/function/env?a=b", "/?a=b"),
        ("/function/env.openfaas-fn/a%20b?c=1&c=%2F", "/a%20b?c=1&c=%2F"),
        ("/function/env/..%2f../x", "/..%2f../x"),
        ("/function/env//a//b", "//a//b"),
        ("/function/env/../../system/functions", "/../../system/functions"),
        ("http://elsewhere:1/function/env/x", "/x"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            let answer = gate.call(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let line = answer.body.lines().next().unwrap_or_default();
            assert_eq!(line, format!("{method} {path} HTTP/1.1"), "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_added_and_those_of_the_connection_are_not_passed_on() {
    let gate = Gate::new(&[mirror().await]).await;
    let answer = gate
        .call(
            "GET /function/env HTTP/1.1\r\nHost: shop.example\r\nX-Own: kept\r\nx-own: twice\r\nTE: trailers\r\n\
             Connection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: b\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: x\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\nX-Start-Time: 1\r\n\
             Authorization: Bearer t\r\n\r\n",
        )
        .await;
    let got = answer.body.to_ascii_lowercase();
    for line in [
        "host: shop.example",
        "x-own: kept",
        "x-own: twice",
        "authorization: bearer t",
        "x-forwarded-for: 9.9.9.9, 8.8.8.8, 127.0.0.1",
        "x-forwarded-host: shop.example",
        "x-forwarded-proto: http",
    ] {
        assert!(got.lines().any(|got| got == line), "{line:?} is not in {got}");
    }
    for name in [
        "te:",
        "connection:",
        "x-private:",
        "keep-alive:",
        "proxy-authorization:",
        "upgrade:",
        "http2-settings:",
    ] {
        assert!(!got.lines().any(|line| line.starts_with(name)), "{name} is in {got}");
    }
    let start = got.lines().find_map(|line| line.strip_prefix("x-start-time: ")).expect("a start time");
    assert_eq!(start.len(), 19, "nanoseconds since 1970: {start}");
    let id = got.lines().find_map(|line| line.strip_prefix("x-call-id: ")).expect("an id");
    assert_eq!(id.len(), 36);
    assert_eq!(answer.header("x-call-id"), Some(id));
    assert_eq!(answer.header("x-start-time"), Some(start));
    assert!(answer.header("x-served-by").is_some_and(|name| name.starts_with("ingle/")));
    let duration = answer.header("x-duration-seconds").expect("a duration");
    assert_eq!(duration.split_once('.').map(|(_, decimals)| decimals.len()), Some(6), "{duration}");
}

/// Returns the header lines with this name in a head or in a mirrored request.
fn lines<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let is_named =
        |line: &&str| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
    text.lines().filter(is_named).map(|line| line.split_once(": ").map_or("", |(_, value)| value)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_gets_the_requested_host() {
    let gate = Gate::new(&[mirror().await]).await;
    for (target, version, headers, host) in [
        ("/function/env", "1.1", "Host: a.example:8080\r\n", "a.example:8080"),
        ("/function/env", "1.1", "Host: [::1]:80\r\nConnection: Host\r\n", "[::1]:80"),
        // The authority of the target overrides the header.
        ("http://b.example/function/env", "1.1", "Host: a\r\n", "b.example"),
        ("http://b.example:1/function/env", "1.0", "", "b.example:1"),
    ] {
        let answer = gate.call(&format!("GET {target} HTTP/{version}\r\n{headers}\r\n")).await;
        assert_eq!(lines(&answer.body, "host"), [host], "{target}");
        assert_eq!(lines(&answer.body, "x-forwarded-host"), [host], "{target}");
    }
    // The `X-Forwarded-Host` of another proxy is kept.
    let headers = "Host: a\r\nX-Forwarded-Host: shop.example\r\n";
    let answer = gate.call(&format!("GET http://b/function/env HTTP/1.1\r\n{headers}\r\n")).await;
    assert_eq!(lines(&answer.body, "x-forwarded-host"), ["shop.example"]);
    // HTTP/1.0 does not require a host, but functions always get one.
    let answer = gate.call("GET /function/env HTTP/1.0\r\n\r\n").await;
    assert_eq!(lines(&answer.body, "host"), ["env.openfaas-fn"]);
    assert_eq!(lines(&answer.body, "x-forwarded-host"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_valid_host_is_refused() {
    let gate = Gate::new(&[mirror().await]).await;
    for route in ["/function/env", "/async-function/env", "/", "/hello", "/nothing"] {
        for (target, headers) in [
            (route.to_owned(), ""),
            (route.to_owned(), "Host:\r\n"),
            (route.to_owned(), "Host: a b/@c,d\r\n"),
            (route.to_owned(), "Host: a\r\nHost: a\r\n"),
            (format!("http://{route}"), "Host: a\r\n"),
            (format!("http://u:p@b{route}"), "Host: a\r\n"),
            (format!("http://b{route}"), "Host: a b\r\n"),
        ] {
            let answer = gate.call(&format!("GET {target} HTTP/1.1\r\n{headers}\r\n")).await;
            assert_eq!(answer.code, 400, "{target} {headers}: {}", answer.body);
        }
    }
    assert_eq!(gate.entry.stats.calls_started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_responses_carry_via() {
    let gate = Gate::new(&[mirror().await]).await;
    for version in ["1.0", "1.1"] {
        let request = format!(
            "GET /function/env HTTP/{version}\r\nHost: a\r\nVia: 2 proxy.example\r\nConnection: Via\r\n\r\n"
        );
        let answer = gate.call(&request).await;
        assert_eq!(lines(&answer.body, "via"), ["2 proxy.example", &format!("{version} ingle")]);
        assert_eq!(lines(&answer.head, "via"), ["1.1 ingle"]);
    }
    let gate =
        Gate::new(&[answering("HTTP/1.0 200 OK\r\nVia: 1.1 other\r\nContent-Length: 0\r\n\r\n").await]).await;
    let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(lines(&answer.head, "via"), ["1.1 other", "1.0 ingle"]);
    // Responses of the gateway itself have no `Via`.
    for target in ["/function/nope", "/hello"] {
        let answer = gate.call(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(lines(&answer.head, "via"), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_a_loop_is_refused() {
    let gate = Gate::new(&[mirror().await]).await;
    let call = async |target: &str, via: String| {
        gate.call(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{via}Accept: application/json\r\n\r\n")).await
    };
    let hops = |count| "Via: 1.1 ingle\r\n".repeat(count);
    assert_eq!(call("/function/env", hops(15)).await.code, 200);
    for (target, via) in [
        ("/function/env", hops(16)),
        ("/async-function/env", hops(40)),
        ("/function/env", format!("Via: {}1.0 INGLE (x)\r\n", "1.1 ingle, 1.1 other,".repeat(15))),
    ] {
        let answer = call(target, via).await;
        assert_eq!(answer.code, 508, "{}", answer.body);
        assert!(answer.body.contains("loop_detected") && answer.body.contains("Via"), "{}", answer.body);
    }
    assert_eq!(call("/function/env", "Via: 1.1 other\r\n".repeat(40)).await.code, 200);
    assert_eq!(call("/hello", hops(40)).await.code, 200, "what calls nothing has no circles");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_calls_itself_through_the_gateway_ends() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let gate = Gate::new(&[listener.local_addr().expect("bound")]).await;
    let gateway = gate.address;
    // The function acts as a proxy that sends every request back to the gateway.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a head"));
                }
                let head = String::from_utf8(head).expect("text");
                let (_, rest) = head.split_once("\r\n").expect("a line");
                let mut onward = tokio::net::TcpStream::connect(gateway).await.expect("the gateway listens");
                let request = format!("GET /function/env HTTP/1.1\r\nConnection: close\r\n{rest}");
                onward.write_all(request.as_bytes()).await.expect("sent");
                let _ = tokio::io::copy(&mut onward, &mut stream).await;
            });
        }
    });
    let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.code, 508, "{}", answer.body);
    assert_eq!(gate.entry.stats.calls_started(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_one_date() {
    let own = "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
    let dated = Gate::new(&[answering(own).await]).await;
    let answer = dated.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(lines(&answer.head, "date"), ["thu, 01 jan 1970 00:00:00 gmt"]);
    let gate = Gate::new(&[mirror().await]).await;
    for (target, code) in [
        ("/function/env", 200),
        ("/function/nope", 404),
        ("/async-function/env", 202),
        ("/hello", 200),
        ("/nothing", 404),
        ("/ HTTP/1.1\r\nB c: d\r\nX: y", 400),
    ] {
        let answer = gate.call(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(answer.code, code, "{target}");
        let [date] = lines(&answer.head, "date")[..] else { panic!("{target}: {}", answer.head) };
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        let written = |at| printer.timestamp_to_rfc9110_string(&at).expect("a time").to_ascii_lowercase();
        let now = jiff::Timestamp::now();
        let second = jiff::SignedDuration::from_secs(1);
        assert!((0..10).any(|ago| written(now - second * ago) == date), "{date} is not now");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_id_of_the_client_is_kept() {
    let gate = Gate::new(&[mirror().await]).await;
    let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\nX-Call-Id: mine-1\r\n\r\n").await;
    assert_eq!(answer.header("x-call-id"), Some("mine-1"));
    assert_eq!(answer.body.matches("mine-1").count(), 1, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_the_functions_own() {
    let replica = answering(
        "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Call-Id: theirs\r\n\
         Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nhi",
    )
    .await;
    let gate = Gate::new(&[replica]).await;
    let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.code, answer.body.as_str()), (302, "hi"));
    assert_eq!(answer.header("location"), Some("/elsewhere"));
    assert_eq!(answer.head.matches("set-cookie: ").count(), 2);
    assert_eq!(answer.head.matches("x-call-id: ").count(), 1);
    for name in ["x-hop", "keep-alive", "connection"] {
        assert_eq!(answer.header(name), None, "{}", answer.head);
    }
    assert_eq!(gate.entry.stats.calls_started(), 1);
    eventually!(gate.entry.stats.invocations() == 1, "the call was not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_on_the_root_is_named_by_a_header() {
    let gate = Gate::new(&[mirror().await]).await;
    for name in ["env", "env.openfaas-fn"] {
        for method in ["GET", "POST", "BREW"] {
            for target in ["/", "http://elsewhere:1/"] {
                let answer = gate
                    .call(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\nx-function: {name}\r\n\r\n"))
                    .await;
                assert!(answer.body.starts_with(&format!("{method} / HTTP/1.1\r\n")), "{}", answer.body);
            }
        }
    }
    let answer =
        gate.call("POST / HTTP/1.1\r\nHost: a\r\nX-Function: env\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(answer.body.ends_with("\r\n\r\nhi"), "{}", answer.body);
    let calls = gate.entry.stats.calls_started();
    for name in ["nope", "env.dev", "", "env/x", "../env"] {
        let answer = gate.call(&format!("POST / HTTP/1.1\r\nHost: a\r\nX-Function: {name}\r\n\r\n")).await;
        let text = format!("function {name} was not found: see 'ingle list'\n");
        assert_eq!((answer.code, answer.body), (404, text));
    }
    assert_eq!(gate.entry.stats.calls_started(), calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_means_nothing_elsewhere() {
    let gate = Gate::new(&[mirror().await]).await;
    for (target, code) in [
        ("/hello", 200),
        ("/system/functions", 404),
        ("/system/", 404),
        ("/x", 404),
        ("//", 404),
        ("/?a=b", 404),
        ("/function/nope", 404),
    ] {
        let answer = gate.call(&format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Function: env\r\n\r\n")).await;
        assert_eq!(answer.code, code, "{target}: {}", answer.body);
    }
    // A name that only looks like it is another.
    let answer = gate.call("GET / HTTP/1.1\r\nHost: a\r\nX_Function: env\r\n\r\n").await;
    assert_eq!(answer.code, 404);
    assert_eq!(gate.entry.stats.calls_started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_function_is_named_in_the_answer() {
    let gate = Gate::new(&[]).await;
    let answer = gate.call("GET /function/nope HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.code, 404);
    assert_eq!(answer.body, "function nope was not found: see 'ingle list'\n");
    assert!(answer.header("x-call-id").is_some() && answer.header("x-duration-seconds").is_some());
    let json = gate.call("GET /function/nope HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n").await;
    assert_eq!(json.header("content-type"), Some("application/json"));
    assert!(json.body.contains("\"code\":\"function_not_found\""), "{}", json.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_leave_the_connection_in_step() {
    for (request, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"a\"\r\n\r\n"),
        ("GET", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        let gate = Gate::new(&[answering(answer).await]).await;
        let mut client = gate.connect().await;
        for _ in 0..2 {
            client.send(format!("{request} /function/env HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            let mut head = client.head().await;
            if answer.contains(" 103 ") {
                assert_eq!((head.code, head.header("link")), (103, Some("</a.css>")));
                head = client.head().await;
            }
            let code: u16 =
                answer.rsplit("HTTP/1.1 ").next().expect("a status")[..3].parse().expect("a number");
            assert_eq!(head.code, code);
        }
        assert_eq!(client.left, b"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_a_tunnel() {
    let replica = replica(|mut connection, _| async move {
        let head = connection.until("\r\n\r\n").await.to_ascii_lowercase();
        assert!(
            head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
            "{head}"
        );
        connection
            .send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst",
            )
            .await;
        while connection.more().await {
            let data = std::mem::take(&mut connection.left);
            connection.send(data).await;
        }
        connection.send("last").await;
    })
    .await;
    let gate = Gate::new(&[replica]).await;
    let mut client = gate.connect().await;
    client
        .send("GET /function/env HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!((head.code, head.header("upgrade")), (101, Some("websocket")));
    assert_eq!(client.exactly(5).await, b"first");
    for text in ["ping", "\0\r\n\r\n0\r\n"] {
        client.send(text).await;
        assert_eq!(client.exactly(text.len()).await, text.as_bytes());
    }
    // One side may end before the other.
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.expect("open");
    assert_eq!(client.rest().await, b"last");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_changes_the_protocol_unasked_is_refused() {
    let gate = Gate::new(&[answering("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n").await]).await;
    let answer = gate.call("GET /function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.code, 502);
    assert!(answer.body.contains("env.openfaas-fn") && answer.body.contains("protocol"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_persist_on_both_sides() {
    let gate = Gate::new(&[mirror().await]).await;
    let mut client = gate.connect().await;
    // Pipelined: sent at once, answered in order.
    let requests: String =
        (0..20).map(|n| format!("GET /function/env/{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests).await;
    for n in 0..20 {
        let answer = client.answer().await;
        assert!(answer.body.starts_with(&format!("GET /{n} ")), "{}", answer.body);
        assert_eq!(answer.header("x-connection"), Some("0"), "a new connection for each call");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_1_0_get_what_they_understand() {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let gate = Gate::new(&[answering(chunks).await]).await;
    let answer = gate.call("GET /function/env HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.body.as_str(), answer.header("transfer-encoding")), ("hi", None));
    assert_eq!(answer.header("connection"), Some("close"));
    let gate = Gate::new(&[answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await]).await;
    let mut client = gate.connect().await;
    for _ in 0..2 {
        client.send("GET /function/env HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(client.answer().await.header("connection"), Some("keep-alive"));
    }
}
