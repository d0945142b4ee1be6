//! afterburn: whatever its process does, no caller sees a byte that another one has caused.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use tokio::task::JoinSet;

use super::Watchdog;
use crate::support::TemporaryDirectory;

/// Answers with all that it was asked, as a careful program does, unless the path says otherwise. What it takes for
/// the head of a request goes into `requests`, with a zero after each.
const HANDLER: &str = r#"
import os, sys, time

requests, answers = sys.stdin.buffer, sys.stdout.buffer
heard = open("requests", "ab", buffering=0)

def answer(text, length=None, after=b""):
    length = len(text) if length is None else length
    answers.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, text) + after)
    answers.flush()

def later(work):
    if os.fork() == 0:
        time.sleep(0.5)
        work()
        os._exit(0)

while line := requests.readline():
    head, length, path = line, 0, line.split(b" ")[1].decode()
    while (header := requests.readline()) not in (b"\r\n", b""):
        head += header
        if header.lower().startswith(b"content-length:"):
            length = int(header.split(b":")[1])
    heard.write(head + b"\0")
    if path == "/noread":
        answer(b"I need no body")
        continue
    if path == "/almost":
        requests.read(length - 1)
        answer(b"I need no last byte")
        continue
    body = requests.read(length)
    text = head + body
    if path == "/short":
        answer(text, len(text) - 1)
    elif path == "/long":
        answer(text, len(text) + 1)
    elif path == "/whole":
        # The length in characters, where each has two bytes: the rest is what the caller wrote.
        answer(b"", 0, body)
    elif path == "/late":
        # The rest comes when nobody is answered: it could not be told from an answer else.
        answer(b"", 0)
        later(lambda: os.write(1, body))
    elif path == "/large":
        # More than the pipe holds: it is still being written when the answer seems to be over.
        answer(b"x" * 300_000, 200_000, body)
    elif path == "/print":
        print("got", path)
        sys.stdout.flush()
        answer(text)
    elif path == "/printed":
        answer(text)
        print("done", path, flush=True)
    elif path == "/debug":
        # Of itself it stays where it is until the next answer.
        answers.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        answer(text)
    elif path == "/wait":
        time.sleep(0.3)
        answer(text)
    elif path == "/slow":
        time.sleep(1.5)
        answer(text)
    elif path == "/hang":
        time.sleep(60)
    elif path == "/bare":
        # As servers answer HEAD: with the length of what they leave out.
        answer(b"" if line.startswith(b"HEAD") else text, len(text))
    else:
        answer(text)
"#;

/// Callers at the same time as the one whose request goes wrong.
const OTHERS: usize = 6;
/// Times that each mistake is made: which bytes are there when somebody looks is a matter of luck.
const ROUNDS: usize = 4;
/// Rounds for mistakes that depend on a single byte.
const LAST_BYTES: usize = 15;

/// A watchdog in front of the handler.
async fn watchdog(variables: &[(&str, &str)]) -> Watchdog {
    let directory = TemporaryDirectory::new();
    let path = directory.path().join("handler.py");
    std::fs::write(&path, HANDLER).expect("written");
    let command = format!("python3 {}", path.display());
    let all: Vec<(&str, &str)> =
        [("fprocess", command.as_str()), ("mode", "afterburn")].iter().chain(variables).copied().collect();
    Watchdog::start(directory, &all).await
}

/// A word that this caller sends and nobody else.
fn word(caller: usize) -> String {
    format!("word-of-{caller}-that-nobody-else-has")
}

/// One request of a caller, and what came back of it, whatever that is; nothing if there was no answer.
async fn ask(
    client: reqwest::Client,
    url: String,
    caller: usize,
    body: String,
) -> Option<(usize, StatusCode, String)> {
    let request = client.post(url).header("X-Word", word(caller)).body(body);
    let answer = request.send().await.ok()?;
    let (status, headers) = (answer.status(), format!("{:?}", answer.headers()));
    let text = answer.text().await.ok()?;
    Some((caller, status, format!("{headers}\n{text}")))
}

/// Whether an answer to `/echo` is that of this request, whole.
fn is_own(caller: usize, answer: &str, body: &str) -> bool {
    let text = answer.split_once('\n').expect("headers").1;
    text.starts_with("POST /echo HTTP/1.1\r\n")
        && text.contains(&format!("x-word: {}\r\n", word(caller)))
        && text.ends_with(body)
        && text.matches("HTTP/1.1").count() == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn no_caller_sees_a_byte_that_another_has_caused_whatever_the_process_does_wrong() {
    require!("python3");
    let answer = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    let smuggled = |end: &str| format!("POST /echo HTTP/1.1\r\nX-Smuggled: {}{end}", word(0));
    // A path, a body that uses it, and what its caller is told; nobody knows it where the process goes wrong later.
    let mistakes: [(&str, String, &[&str]); 12] = [
        ("/short", word(0), &["more than an answer"]),
        ("/long", word(0), &["exec_timeout"]),
        ("/whole", answer(&word(0)), &["more than an answer"]),
        ("/late", answer(&word(0)), &[]),
        ("/large", answer(&word(0)), &["more than an answer", "stdout"]),
        ("/print", word(0), &["cannot be read", "stdout"]),
        ("/printed", word(0), &[]),
        ("/debug", word(0), &["more than an answer"]),
        ("/noread", smuggled("\r\nContent-Length: 0\r\n\r\n"), &["before it had read the body"]),
        // As a part of the head of whoever comes next.
        ("/noread", smuggled(""), &["before it had read the body"]),
        // More than a pipe holds, and than anybody reads ahead.
        ("/noread", smuggled("") + &"x".repeat(100_000), &["before it had read the body"]),
        ("/noread", smuggled("\r\nContent-Length: 0\r\n\r\n").repeat(50), &["before it had read the body"]),
    ];
    for (path, bad, told) in &mistakes {
        for round in 0..ROUNDS {
            let mut watchdog = watchdog(&[("exec_timeout", "2s")]).await;
            let what = format!("{path}, round {round}");
            let mut asked = JoinSet::new();
            let echo = watchdog.url("/echo");
            let own = |caller: usize| format!("{} {}", word(caller), "y".repeat(caller % 10 * 1_000));
            // Some are there before, and some come after.
            for caller in 1..=OTHERS / 2 {
                asked.spawn(ask(watchdog.client.clone(), echo.clone(), caller, own(caller)));
            }
            asked.spawn(ask(watchdog.client.clone(), watchdog.url(path), 0, bad.clone()));
            for caller in OTHERS / 2 + 1..=OTHERS {
                asked.spawn(ask(watchdog.client.clone(), echo.clone(), caller, own(caller)));
            }
            let mut answers: Vec<_> = asked.join_all().await.into_iter().flatten().collect();
            if *path == "/late" {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // Whoever comes later is answered as well, until what is wrong is seen: with the next request at the latest.
            let mut later = OTHERS + 1;
            eventually!(
                {
                    answers.extend(ask(watchdog.client.clone(), echo.clone(), later, own(later)).await);
                    later += 1;
                    watchdog.process.try_wait().expect("waited").is_some()
                },
                "{what}: {}",
                watchdog.log()
            );
            for (caller, status, text) in &answers {
                let foreign = (0..later).find(|other| other != caller && text.contains(&word(*other)));
                assert_eq!(foreign, None, "{what}: caller {caller} sees another's word: {text}");
                match *caller {
                    0 if told.is_empty() => {}
                    0 => {
                        let wanted = if *path == "/long" {
                            StatusCode::GATEWAY_TIMEOUT
                        } else {
                            StatusCode::BAD_GATEWAY
                        };
                        assert_eq!(*status, wanted, "{what}: {text}");
                        assert!(told.iter().any(|words| text.contains(words)), "{what}: {text}");
                    }
                    _ if *status == StatusCode::OK => {
                        assert!(is_own(*caller, text, &own(*caller)), "{what}: caller {caller}: {text}");
                    }
                    // Those who waited as long as the process did not answer have waited too long, too.
                    _ if *status == StatusCode::GATEWAY_TIMEOUT => {
                        assert_eq!(*path, "/long", "{what}: {text}")
                    }
                    _ => assert_eq!(*status, StatusCode::BAD_GATEWAY, "{what}: caller {caller}: {text}"),
                }
            }
            assert_eq!(watchdog.ended(1).await.code(), Some(1), "{what}: {}", watchdog.log());
            // Nor does one caller's request begin with what another one has sent.
            let heard = std::fs::read_to_string(watchdog.path("requests")).expect("written");
            for head in heard.split('\0') {
                let callers = (0..later).filter(|caller| head.contains(&word(*caller))).count();
                assert!(callers <= 1, "{what}: {head}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_last_byte_is_no_part_of_the_next_request() {
    require!("python3");
    // The whole body or its last byte, in one piece or with more bytes than the pipe holds.
    let mistakes = [
        ("/noread", "X".to_owned()),
        ("/almost", "body-X".to_owned()),
        ("/almost", "y".repeat(100_000) + "X"),
    ];
    for (path, bad) in &mistakes {
        for round in 0..LAST_BYTES {
            let mut watchdog = watchdog(&[("exec_timeout", "400ms")]).await;
            let what = format!("{path} with {} bytes, round {round}", bad.len());
            let mut asked = JoinSet::new();
            asked.spawn(ask(watchdog.client.clone(), watchdog.url(path), 0, bad.clone()));
            for caller in 1..=3 {
                asked.spawn(ask(watchdog.client.clone(), watchdog.url("/echo"), caller, word(caller)));
            }
            for (caller, status, text) in asked.join_all().await.into_iter().flatten() {
                match status {
                    StatusCode::OK => {
                        assert!(is_own(caller, &text, &word(caller)), "{what}: {caller}: {text}")
                    }
                    StatusCode::BAD_GATEWAY => {}
                    StatusCode::GATEWAY_TIMEOUT => {
                        assert!(caller > 0 || text.contains("did not read the request"), "{what}: {text}");
                    }
                    _ => panic!("{what}: caller {caller} gets {status}: {text}"),
                }
            }
            assert_eq!(watchdog.ended(5).await.code(), Some(1), "{what}: {}", watchdog.log());
            let heard = std::fs::read_to_string(watchdog.path("requests")).expect("written");
            let heads = heard.split_terminator('\0');
            heads.for_each(|head| assert!(head.starts_with("POST /"), "{what}: {head}"));
        }
    }
}

#[tokio::test]
async fn one_limit_covers_the_wait_for_a_turn_and_the_response() {
    require!("python3");
    let mut watchdog = watchdog(&[("exec_timeout", "2s"), ("write_timeout", "60s")]).await;
    let slow = tokio::spawn(ask(watchdog.client.clone(), watchdog.url("/slow"), 1, "one".into()));
    eventually!(
        std::fs::read_to_string(watchdog.path("requests")).is_ok_and(|heard| heard.contains("/slow")),
        "it is not asked"
    );
    let began = Instant::now();
    let (status, text) = watchdog.get("/hang").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2_900), "it waited for others, and then as long again: {took:?}");
    let (_, status, text) = slow.await.expect("no panic").expect("an answer");
    assert!(status == StatusCode::OK && text.ends_with("one"), "{text}");
    assert_eq!(watchdog.ended(10).await.code(), Some(1), "{}", watchdog.log());
}

#[tokio::test]
async fn a_function_is_not_ready_and_dead_after_a_call_is_dropped_in_its_turn() {
    require!("python3");
    // When its turn comes, four fifths of its time have passed, and its limit ends before the process's.
    let mut watchdog = watchdog(&[("exec_timeout", "60s"), ("write_timeout", "2s")]).await;
    let slow = tokio::spawn(ask(watchdog.client.clone(), watchdog.url("/slow"), 1, "one".into()));
    eventually!(
        std::fs::read_to_string(watchdog.path("requests")).is_ok_and(|heard| heard.contains("/slow")),
        "it is not asked"
    );
    let (status, text) = watchdog.get("/hang").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
    slow.await.expect("no panic").expect("an answer");
    if let Ok(answer) = watchdog.client.get(watchdog.url("/_/ready")).send().await {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(watchdog.ended(10).await.code(), Some(1), "{}", watchdog.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_keeps_the_order_answers_every_kind_of_request() {
    require!("python3");
    let watchdog = watchdog(&[]).await;
    let own = |caller: usize| format!("{} {}", word(caller), "y".repeat(caller * caller * 500));
    let mut asked = JoinSet::new();
    for caller in 0..30 {
        asked.spawn(ask(watchdog.client.clone(), watchdog.url("/echo"), caller, own(caller)));
    }
    let answers: BTreeMap<usize, _> = asked
        .join_all()
        .await
        .into_iter()
        .flatten()
        .map(|(caller, status, text)| (caller, (status, text)))
        .collect();
    assert_eq!(answers.len(), 30);
    for (caller, (status, text)) in answers {
        assert_eq!(status, StatusCode::OK, "{text}");
        assert!(is_own(caller, &text, &own(caller)), "{text}");
    }
    // A head and a body that are larger than the pipe, a body of one byte, and none.
    for length in [0, 1, 2, 4_095, 4_096, 4_097, 1_000_000] {
        let body = "z".repeat(length);
        let request = watchdog.client.post(watchdog.url("/echo")).header("X-Large", "h".repeat(20_000));
        let answer = request.body(body.clone()).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.text().await.expect("text").ends_with(&format!("\r\n{body}")), "{length}");
    }
}

#[tokio::test]
async fn head_is_answered_as_get_is_without_the_body() {
    require!("python3");
    let watchdog = watchdog(&[("exec_timeout", "2s")]).await;
    for path in ["/echo", "/bare"] {
        let got = watchdog.send(Method::GET, path, "").await.text().await.expect("text");
        let answer = watchdog.send(Method::HEAD, path, "").await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}: {}", watchdog.log());
        assert_eq!(answer.headers()["content-length"], got.len().to_string(), "{path}");
        assert_eq!(answer.text().await.expect("text"), "", "{path}");
    }
    // And the next one has its own.
    let answer = watchdog.send(Method::POST, "/echo", "mine").await;
    assert!(answer.text().await.expect("text").ends_with("mine"));
}

#[tokio::test]
async fn a_request_that_is_given_up_is_the_end_of_the_process_that_is_at_it() {
    require!("python3");
    // The answer's limit is over before the process's: the request is dropped in the middle.
    let mut watchdog = watchdog(&[("exec_timeout", "60s"), ("write_timeout", "1s")]).await;
    assert_eq!(watchdog.get("/echo").await.0, StatusCode::OK);
    assert_eq!(watchdog.get("/_/ready").await.0, StatusCode::OK);
    let (status, text) = watchdog.get("/hang").await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{text}");
    assert_eq!(watchdog.ended(10).await.code(), Some(1), "{}", watchdog.log());
}

#[tokio::test]
async fn a_request_that_waits_and_is_given_up_harms_nobody() {
    require!("python3");
    let mut watchdog = watchdog(&[("exec_timeout", "60s"), ("write_timeout", "10s")]).await;
    let (client, url) = (watchdog.client.clone(), watchdog.url("/echo"));
    let first = tokio::spawn({
        let (client, url) = (watchdog.client.clone(), watchdog.url("/wait"));
        ask(client, url, 1, "one".into())
    });
    eventually!(
        std::fs::read_to_string(watchdog.path("requests")).is_ok_and(|heard| heard.contains("/wait")),
        "it is not asked"
    );
    // Its client leaves before its turn.
    let waiting = ask(client.clone(), url.clone(), 2, "two".into());
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    let (_, status, text) = first.await.expect("no panic").expect("an answer");
    assert!(status == StatusCode::OK && text.ends_with("one"), "{text}");
    let (_, status, text) = ask(client, url, 3, "three".into()).await.expect("an answer");
    assert!(status == StatusCode::OK && is_own(3, &text, "three"), "{text}");
    assert!(watchdog.process.try_wait().expect("waited").is_none());
}
