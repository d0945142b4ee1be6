//! Credentials of the API, and names that a browser attributes to the gateway: functions neither see nor send them, in
//! any kind of call.

use std::sync::Arc;

use super::later::{Seen, noting};
use super::{Gate, PATIENCE, mirror, replica};
use crate::support::TemporaryDirectory;

/// The admin's credentials: `admin:secret`.
const ADMIN: &str = "Basic YWRtaW46c2VjcmV0";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const OTHERS: [&str; 6] = [
    // `admin:other`
    "Authorization: Basic YWRtaW46b3RoZXI=",
    "Authorization: Bearer YWRtaW46c2VjcmV0",
    "authorization: secret",
    "Cookie: session=1",
    "Cookie: a=\"ingle_x\"; xingle_session=b",
    "X-Own: ingle_session=1",
];

/// Responds with all reserved headers, and with some that functions may send.
const SPEAKS: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nSet-Cookie: ingle_session=canary; Path=/\r\n\
    set-cookie: __Host-ingle=canary; Path=/; Secure\r\nSet-Cookie: =ingle_session=canary\r\nSet-Cookie: own=kept\r\n\
    WWW-Authenticate: Basic realm=\"ingle\", charset=\"canary\"\r\nWWW-Authenticate: Basic realm=\"kept\"\r\n\
    Service-Worker-Allowed: /canary\r\n\r\nno";

/// A body that calls `env`, as Alexa sends it.
const SKILL: &str = r#"{"request":{"intent":{"name":"env"}}}"#;

/// The kinds of calls: method and path.
const WAYS: [(&str, &str); 5] = [
    ("POST /function/env", ""),
    ("POST /", "X-Function: env\r\n"),
    ("POST /", ""),
    ("POST /async-function/env", ""),
    ("POST /function/env", "Prefer: respond-async, wait=5\r\n"),
];

fn request(way: (&str, &str), lines: &str) -> String {
    let (line, more) = way;
    format!("{line} HTTP/1.1\r\nHost: a\r\n{more}{lines}Content-Length: {}\r\n\r\n{SKILL}", SKILL.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_function_sees_credentials_of_the_api_in_any_kind_of_call() {
    for way in WAYS {
        let seen = Seen::default();
        let gate = Gate::new(&[noting(&seen, &[OK]).await]).await;
        let lines = format!(
            "Authorization: {ADMIN}\r\nauthorization: bASIC  YWRtaW46c2VjcmV0\r\nCookie: ingle_session=canary\r\n\
             Cookie: one=1; __Host-ingle_session=canary; two=2;ingle_a=canary\r\n{}\r\n",
            OTHERS.join("\r\n")
        );
        let answer = gate.call(&request(way, &lines)).await;
        assert!(matches!(answer.code, 200 | 202), "{way:?}: {answer:?}");
        eventually!(seen.lock().expect("no panic").len() == 1, "{way:?}: it was not called");
        let (head, body) = seen.lock().expect("no panic")[0].clone();
        assert_eq!(body, SKILL.as_bytes(), "{way:?}");
        assert!(!head.contains("canary"), "{way:?}: {head}");
        let secrets = head.matches("YWRtaW46c2VjcmV0").count();
        assert_eq!(secrets, 1, "the bearer's alone, which opens nothing; {way:?}: {head}");
        let lines: Vec<&str> = head.lines().collect();
        for other in OTHERS {
            assert!(lines.contains(&other), "{other} is missing; {way:?}: {head}");
        }
        assert!(lines.contains(&"Cookie: one=1; two=2"), "{way:?}: {head}");
        assert_eq!(head.matches("Cookie").count(), 3, "an empty one is not sent; {way:?}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_response_headers_are_removed_in_every_kind_of_call() {
    let seen = Seen::default();
    let receiver = noting(&seen, &[OK]).await;
    let state = Arc::new(TemporaryDirectory::new());
    let function = noting(&Seen::default(), &[SPEAKS]).await;
    let gate = Gate::over(state, "callback_networks = \"127.0.0.0/8\"\n", &[function], |_, _| {}).await;
    for way in WAYS {
        let callback = format!("X-Callback-Url: http://{receiver}/\r\n");
        let is_queued = way.0.contains("async-function");
        let answer = gate.call(&request(way, if is_queued { &callback } else { "" })).await;
        let head = if is_queued {
            eventually!(!seen.lock().expect("no panic").is_empty(), "no callback");
            seen.lock().expect("no panic")[0].0.to_ascii_lowercase()
        } else {
            assert_eq!(answer.code, 401, "{way:?}: {answer:?}");
            answer.head
        };
        assert!(!head.contains("canary") && !head.contains("ingle\""), "{way:?}: {head}");
        assert!(head.contains("set-cookie: own=kept"), "{way:?}: {head}");
        assert!(head.contains("www-authenticate: basic realm=\"kept\""), "{way:?}: {head}");
    }
}

/// Covers interim heads, and one that turns the connection into a tunnel.
#[tokio::test(flavor = "multi_thread")]
async fn reserved_headers_are_removed_from_interim_and_upgrade_responses() {
    let function = replica(|mut connection, _| async move {
        connection.until("\r\n\r\n").await;
        let lines = "Set-Cookie: ingle_session=canary\r\nService-Worker-Allowed: canary\r\n";
        connection.send(format!("HTTP/1.1 103 Early Hints\r\n{lines}Link: kept\r\n\r\n")).await;
        connection
            .send(format!(
                "HTTP/1.1 101 Switching Protocols\r\n{lines}Upgrade: x\r\nConnection: Upgrade\r\n\r\nend"
            ))
            .await;
    })
    .await;
    let gate = Gate::new(&[function]).await;
    let mut client = gate.connect().await;
    client.send("GET /function/env HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n").await;
    let all = tokio::time::timeout(PATIENCE, client.rest()).await.expect("it ends");
    let all = String::from_utf8_lossy(&all).into_owned();
    assert!(all.contains("Link: kept") && all.ends_with("end"), "{all}");
    assert!(!all.contains("canary"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_the_request_target_are_ignored_and_not_passed_on() {
    let gate = Gate::new(&[mirror().await]).await;
    let answer = gate.call("GET http://admin:secret@a/function/env HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.code == 400 && !answer.body.contains("secret"), "{answer:?}");
}
