//! `POST /`: requests of Alexa skills, which call the function that their intent is named after.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use directory::CallStats;
use directory::{Entry, Phase};
use model::function::Incarnation;
use model::wire::Deployment;

use super::later::{Seen, noting, request};
use super::{Gate, SocketAddr, endpoint, mirror, nowhere, replica};
use crate::support::view::view;

/// What a body may have.
const LIMIT: usize = 256 << 10;

/// A request as Alexa sends it, with this intent. Its spaces and lines are such as nobody would write again in the
/// same way.
fn skill(intent: &str) -> String {
    format!(
        r#"{{"version":"1.0", "session":{{"new":true,"sessionId":"amzn1.echo-api.session.1","attributes":{{"count":1}}}},
  "context":{{"System":{{"apiEndpoint":"https://api.eu.amazonalexa.com"}}}},
  "request":{{"type":"IntentRequest","requestId":"amzn1.echo-api.request.1","locale":"de-DE","timestamp":"2026-01-31T08:00:00Z",
    "intent":{{"name":"{intent}","confirmationStatus":"NONE","slots":{{"city":{{"name":"city","value":"Köln"}}}}}}}} }}"#
    )
}

/// A `POST /` with this body.
fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn padded(length: usize) -> String {
    let body = skill("env");
    format!("{body}{}", " ".repeat(length - body.len()))
}

impl Gate {
    /// Adds a function.
    fn add(&self, name: &str, namespace: Option<&str>, replica: SocketAddr) {
        let mut view = view(name, vec![endpoint(replica)]);
        let namespace = namespace.map(str::to_owned);
        let deployment = Deployment { namespace, ..(*view.deployment).clone() };
        view.spec = Arc::new((&deployment).try_into().expect("a valid deployment"));
        let (entry, _) = Entry::new(view.spec.key.clone(), Incarnation::new(1), CallStats::default(), view);
        self.writer.lock().expect("not poisoned").insert([entry]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_of_the_intent_gets_the_request_as_it_was_sent() {
    let gate = Gate::new(&[mirror().await]).await;
    let body = skill("env");
    let answer = gate
        .call(&format!(
            "POST / HTTP/1.1\r\nHost: skills.example\r\nContent-Type: application/json; charset=utf-8\r\n\
             Signature-256: c2ln\r\nSignatureCertChainUrl: https://s3.amazonaws.com/echo.api/1.pem\r\nConnection: X-Hop\r\n\
             X-Hop: 1\r\nTE: trailers\r\nX-Served-By: other\r\nX-Forwarded-For: 9.9.9.9\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(answer.code, 200);
    let (head, got) = answer.body.split_once("\r\n\r\n").expect("a head and a body");
    assert_eq!(got, body);
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post / http/1.1\r\n"), "{head}");
    for line in [
        "host: skills.example",
        "content-type: application/json; charset=utf-8",
        "signature-256: c2ln",
        "signaturecertchainurl: https://s3.amazonaws.com/echo.api/1.pem",
        "x-forwarded-for: 9.9.9.9, 127.0.0.1",
        "x-forwarded-host: skills.example",
        "x-forwarded-proto: http",
        &format!("content-length: {}", body.len()),
    ] {
        assert_eq!(head.lines().filter(|got| *got == line).count(), 1, "{line:?} is not in {head}");
    }
    for name in ["te:", "connection:", "x-hop:", "x-served-by:"] {
        assert!(!head.lines().any(|line| line.starts_with(name)), "{name} is in {head}");
    }
    for name in ["x-call-id", "x-start-time"] {
        let sent = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        assert!(sent.is_some() && sent == answer.header(name), "{name}: {sent:?} and {}", answer.head);
    }
    assert!(answer.header("x-duration-seconds").is_some() && answer.header("x-served-by").is_some());
    assert_eq!(gate.entry.stats.calls_started(), 1);
    eventually!(gate.entry.stats.invocations() == 1, "the call was not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_a_skill_is_refused_before_its_body() {
    let gate = Gate::with(&[mirror().await], |_, limits| limits.alexa = false).await;
    let answer = gate.call("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 262144\r\n\r\n").await;
    assert_eq!((answer.code, answer.header("connection")), (404, Some("close")));
    for text in ["gateway.alexa", "X-Function", "/function/NAME"] {
        assert!(answer.body.contains(text), "{text} is not in {}", answer.body);
    }
    let body = "{}";
    let head =
        format!("POST / HTTP/1.1\r\nHost: a\r\nX-Function: env\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(gate.call(&format!("{head}{body}")).await.code, 200, "the header has nothing to do with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_in_any_form_and_the_next_request_after_them() {
    let gate = Gate::new(&[mirror().await]).await;
    let body = skill("env");
    let (first, second) = body.split_at(100);
    let chunks =
        format!("{:x};a=b\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\nT: x\r\n\r\n", first.len(), second.len());
    for (header, sent) in [
        (format!("Content-Length: {}", body.len()), &body),
        ("Transfer-Encoding: chunked".to_owned(), &chunks),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n{sent}");
        let mut client = gate.connect().await;
        for size in [1, 100, request.len()] {
            let both = format!("{request}GET /function/env/next HTTP/1.1\r\nHost: a\r\n\r\n");
            for piece in both.as_bytes().chunks(size) {
                client.send(piece).await;
                tokio::task::yield_now().await;
            }
            let answer = client.answer().await;
            let (head, got) = answer.body.split_once("\r\n\r\n").expect("a head and a body");
            assert_eq!(got, body);
            let head = head.to_ascii_lowercase();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            assert!(!head.contains("transfer-encoding") && !head.contains("\r\nt:"), "{head}");
            let next = client.answer().await;
            assert!(next.body.starts_with("GET /next "), "{}", next.body);
        }
        // A client that waits to be asked.
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{header}\r\nExpect: 100-continue\r\n\r\n");
        client.send(head).await;
        assert_eq!(client.head().await.code, 100);
        client.send(sent).await;
        let answer = client.answer().await;
        assert!(answer.body.ends_with(&body) && !answer.body.contains("Expect"), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_1_0_are_served() {
    let gate = Gate::new(&[mirror().await]).await;
    let body = skill("env");
    let answer = gate.call(&format!("POST / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!((answer.code, answer.header("connection")), (200, Some("close")));
    assert!(answer.body.contains("\r\nHost: gateway\r\n") && answer.body.ends_with(&body), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_the_functions_own() {
    let seen = Seen::default();
    let answer = "HTTP/1.1 418 Teapot\r\nContent-Type: application/json\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                  Connection: X-Hop\r\nX-Hop: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let gate = Gate::new(&[noting(&seen, &[answer]).await]).await;
    let answer = gate.call(&post(&skill("env"))).await;
    assert_eq!((answer.code, answer.body.as_str()), (418, "hi"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.head.matches("set-cookie: ").count(), 2);
    for name in ["x-hop", "connection"] {
        assert_eq!(answer.header(name), None, "{}", answer.head);
    }
    assert_eq!(seen.lock().expect("no panic").len(), 1);
}

/// A replica that answers with this text.
async fn saying(text: &'static str) -> SocketAddr {
    replica(move |mut connection, _| async move {
        while request(&mut connection).await.is_some() {
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_mean_what_they_mean_in_a_url() {
    let gate = Gate::new(&[saying("env").await]).await;
    gate.add("WeatherIntent", None, saying("weather").await);
    gate.add("WeatherIntent", Some("dev"), saying("dev").await);
    gate.add("AMAZON.HelpIntent", None, saying("help").await);
    for (intent, text) in [
        ("WeatherIntent", "weather"),
        ("WeatherIntent.openfaas-fn", "weather"),
        ("WeatherIntent.dev", "dev"),
        ("AMAZON.HelpIntent", "help"),
        (r"\u0065nv", "env"),
    ] {
        let answer = gate.call(&post(&skill(intent))).await;
        assert_eq!((answer.code, answer.body.as_str()), (200, text), "{intent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_without_a_function_is_named_in_the_answer() {
    let gate = Gate::new(&[nowhere().await]).await;
    let mut client = gate.connect().await;
    let long = "x".repeat(1000);
    let cut = "x".repeat(128);
    for (intent, shown) in [
        ("NewsIntent", "NewsIntent"),
        ("env.dev", "env.dev"),
        ("weatherintent", "weatherintent"),
        (r"a\r\nb\u0000", "ab"),
        (long.as_str(), cut.as_str()),
    ] {
        client.send(post(&skill(intent))).await;
        let answer = client.answer().await;
        assert_eq!(answer.code, 404);
        assert_eq!(answer.body, format!("function {shown} was not found: see 'ingle list'\n"));
        assert!(
            answer.header("x-call-id").is_some() && answer.header("connection").is_none(),
            "{}",
            answer.head
        );
    }
    let body = skill("NewsIntent");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n";
    let answer = gate.call(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await;
    assert!(answer.body.contains("\"code\":\"function_not_found\""), "{}", answer.body);
    assert_eq!(gate.entry.stats.calls_started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_intent_is_told_what_is_expected() {
    let gate = Gate::new(&[nowhere().await]).await;
    let mut client = gate.connect().await;
    for (body, text) in [
        (r#"{"version":"1.0","request":{"type":"LaunchRequest","requestId":"1"}}"#, "missing field `intent`"),
        (r#"{"request":{"type":"SessionEndedRequest","reason":"USER_INITIATED"}}"#, "missing field `intent`"),
        (r#"{"request":{"type":"IntentRequest","intent":{"slots":{}}}}"#, "missing field `name`"),
        (r#"{"request":{"intent":{"name":7}}}"#, "invalid type"),
        (r#"{"request":{"intent":{"name":"env"}},"request":{"intent":{"name":"env"}}}"#, "duplicate field"),
        (r#"{"intent":{"name":"env"}}"#, "missing field `request`"),
        (r#"{"request":{"intent":{"name":"env"}}"#, "EOF"),
        (r#"{"request":{"intent":{"name":"env"}}} {}"#, "trailing characters"),
        ("hello", "expected value"),
        ("", "EOF"),
    ] {
        client.send(post(body)).await;
        let answer = client.answer().await;
        assert_eq!(answer.code, 400, "{body}");
        for text in [text, "Alexa", "request.intent.name", "X-Function", "/function/NAME"] {
            assert!(answer.body.contains(text), "{text} is not in {}", answer.body);
        }
        assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);
    }
    // Without a length there is no body.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.header("content-type")), (400, Some("application/json")));
    assert!(answer.body.contains("\"code\":\"no_intent\""), "{}", answer.body);
    assert_eq!(gate.entry.stats.calls_started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_limit() {
    let gate = Gate::new(&[mirror().await]).await;
    let chunks = |body: &str| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    let (most, more) = (padded(LIMIT), padded(LIMIT + 1));
    for request in [post(&most), chunks(&most)] {
        let answer = gate.call(&request).await;
        assert_eq!(answer.code, 200);
        assert!(answer.body.ends_with(&format!("\r\n\r\n{most}")), "the body is another");
    }
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        more.len()
    );
    // The first without being asked for the body.
    for request in [head, post(&more), chunks(&more)] {
        let answer = gate.call(&request).await;
        assert_eq!((answer.code, answer.header("connection")), (413, Some("close")));
        assert!(
            answer.body.contains("262144 bytes") && answer.body.contains("/function/"),
            "{}",
            answer.body
        );
    }
    assert_eq!(gate.entry.stats.calls_started(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_own_limit_holds() {
    let body = skill("env");
    for (limit, code) in [(body.len(), 200), (body.len() - 1, 413)] {
        let gate = Gate::with(&[mirror().await], |view, _| view.body_limit = limit as u64).await;
        let mut client = gate.connect().await;
        for _ in 0..2 {
            client.send(post(&body)).await;
            let answer = client.answer().await;
            assert_eq!(answer.code, code);
            if code == 413 {
                let text = format!("{limit} bytes that function env.openfaas-fn takes (ingle.body-limit)");
                assert!(answer.body.contains(&text), "{}", answer.body);
            }
        }
        eventually!(gate.entry.stats.invocations() == 2, "the calls were not counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_refused() {
    const SOON: Duration = Duration::from_millis(300);
    let gate = Gate::with(&[nowhere().await], |_, limits| limits.idle_timeout = SOON).await;
    let mut client = gate.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{").await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (408, Some("close")));
    assert!(answer.body.contains("300ms (gateway.idle_timeout)"), "{}", answer.body);
    // Nor may it come byte by byte for ever.
    let mut client = gate.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await;
    let begin = Instant::now();
    let mut tick = tokio::time::interval(SOON / 10);
    while begin.elapsed() < SOON * 2 {
        tick.tick().await;
        client.send(" ").await;
    }
    let answer = client.answer().await;
    assert_eq!(answer.code, 408);
    assert!(answer.body.contains("did not arrive within 300ms"), "{}", answer.body);
    // One that is no chunk is said to be.
    let answer = gate.call("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
    assert_eq!(answer.code, 400);
    assert!(answer.body.contains("malformed"), "{}", answer.body);
    // And one that is cut has nobody to be told.
    let mut client = gate.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.expect("open");
    assert_eq!(client.rest().await, b"");
    assert_eq!(gate.entry.stats.calls_started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fails_as_any_call_does() {
    let silent = replica(|mut connection, _| async move { drop(connection.rest().await) }).await;
    let garbage = noting(&Seen::default(), &["HELLO\r\n\r\n"]).await;
    let quick = Duration::from_millis(150);
    for (replica, code, text) in [
        (silent, 504, "function env.openfaas-fn did not answer within its timeout of 150ms (ingle.timeout)"),
        (garbage, 502, "function env.openfaas-fn sent an answer that is not valid HTTP"),
        (nowhere().await, 502, "function env.openfaas-fn could not be reached: "),
    ] {
        let gate = Gate::with(&[replica], |view, _| view.timeout = quick).await;
        let mut client = gate.connect().await;
        for _ in 0..2 {
            client.send(post(&skill("env"))).await;
            let answer = client.answer().await;
            assert_eq!(answer.code, code, "{}", answer.body);
            assert!(answer.body.starts_with(text), "{}", answer.body);
        }
        eventually!(gate.entry.stats.invocations() == 2, "the calls were not counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_wakes_the_function_and_waits() {
    let gate = Gate::with(&[], |view, _| view.phase = Phase::Stopped).await;
    let mut client = gate.connect().await;
    client.send(post(&skill("env"))).await;
    tokio::time::timeout(super::PATIENCE, gate.entry.wanted.notified()).await.expect("the owner is rung for");
    eventually!(gate.entry.waiting.load(Ordering::Relaxed) == 1, "it does not wait");
    gate.publish(view("env", vec![endpoint(saying("awake").await)]));
    assert_eq!(client.answer().await.body, "awake");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_closes_and_a_replica_that_refuses_are_unseen() {
    let body = skill("env");
    let gate = Gate::new(&[nowhere().await, mirror().await]).await;
    for _ in 0..4 {
        let answer = gate.call(&post(&body)).await;
        assert_eq!(answer.code, 200);
        assert!(answer.body.ends_with(&format!("\r\n\r\n{body}")), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_post_on_the_root_itself_is_one() {
    let gate = Gate::new(&[mirror().await]).await;
    let body = skill("env");
    for start in
        ["GET /", "PUT /", "OPTIONS /", "POST /?a=b", "POST //", "POST /%2f", "POST /skill", "POST /ui/"]
    {
        let request = format!("{start} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        // What the router of these tests says of everything that it does not know.
        let answer = gate.call(&request).await;
        assert_eq!((answer.code, answer.body.as_str()), (404, ""), "{start}");
    }
    assert_eq!(gate.entry.stats.calls_started(), 0);
    let answer = gate.call(&post(&body).replace("POST /", "POST http://elsewhere:1")).await;
    assert!(answer.body.starts_with("POST / HTTP/1.1\r\n"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_more_than_the_body() {
    let gate = Gate::new(&[mirror().await]).await;
    for (name, code) in [("env", 200), ("nope", 404)] {
        let request =
            post(&skill("WeatherIntent")).replace("Host: a", &format!("Host: a\r\nX-Function: {name}"));
        assert_eq!(gate.call(&request).await.code, code);
    }
}
