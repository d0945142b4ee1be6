//! `invoke` and `logs`: what is streamed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::sync::mpsc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

#[test]
fn a_call_carries_what_was_given_and_no_password() {
    let gateway = Gateway::script(vec![(200, "answer without a line break")]);
    let user = User::of(&gateway);
    let out = user
        .run(&[
            "invoke",
            "env",
            "-n",
            "dev",
            "-d",
            "body",
            "-m",
            "PUT",
            "-H",
            "X-One: 1",
            "-H",
            "X-Two=2",
            "--path",
            "/a",
            "--query",
            "k=v",
            "--content-type",
            "application/json",
        ])
        .ok();
    assert_eq!(out, "answer without a line break");
    let seen = &gateway.seen()[0];
    assert_eq!(seen.line(), "PUT /function/env.dev/a?k=v");
    assert_eq!(seen.body, b"body");
    for (name, value) in [
        ("content-type", Some("application/json")),
        ("x-one", Some("1")),
        ("x-two", Some("2")),
        ("authorization", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[test]
fn stdin_is_the_body_whatever_its_size() {
    for (size, length) in [(0, None), (5, Some("5")), (3 << 20, None)] {
        let gateway = Gateway::script(vec![(200, "ok")]);
        let input: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).expect("small")).collect();
        User::of(&gateway).pipe(&["invoke", "env"], &input).ok();
        let seen = &gateway.seen()[0];
        assert_eq!(seen.line(), "POST /function/env");
        assert!(seen.body == input, "{} bytes came, {size} were sent", seen.body.len());
        assert_eq!(seen.header("content-length"), length);
        assert_eq!(seen.header("content-type"), Some("text/plain").filter(|_| size > 0));
    }
}

#[test]
fn data_may_be_a_file() {
    let gateway = Gateway::script(vec![(200, "ok")]);
    let user = User::of(&gateway);
    user.write("body.txt", "from a file");
    user.run(&["invoke", "env", "-d", "@body.txt"]).ok();
    assert_eq!(gateway.seen()[0].body, b"from a file");
    user.run(&["invoke", "env", "-d", "@none"]).fails(64, &["none: No such file"]);
}

#[test]
fn an_error_of_the_function_is_told_on_stderr() {
    for status in [401, 404, 500, 504] {
        let gateway = Gateway::script(vec![(status, "what went wrong\n")]);
        let part = format!("ingle: call of function env: {status}");
        User::of(&gateway).run(&["invoke", "env"]).fails(1, &[&part, "what went wrong\n"]);
    }
}

#[test]
fn invoke_reports_to_api_users_why_a_function_is_not_available() {
    let describe = |phase: &str| {
        format!(r#"{{"name":"env","image":"a","phase":"{phase}","reason":"exited with code 1"}}"#)
    };
    let called = "function env.dev is not available\n";
    for (status, then, told) in [
        (503, (200, describe("backing-off")), true),
        (504, (200, describe("starting")), true),
        // The function's own 503, an unknown password, and other statuses.
        (503, (200, describe("ready")), false),
        (503, (401, "unauthorized".to_owned()), false),
        (500, (200, describe("failed")), false),
    ] {
        let gateway = Gateway::script(vec![(status, called), (then.0, &then.1)]);
        let done = User::of(&gateway).run(&["invoke", "env", "-n", "dev"]);
        assert_eq!(done.code, Some(1), "{done:#?}");
        assert!(done.stderr.contains("function env.dev is not available"), "{done:#?}");
        assert_eq!(done.stderr.contains("exited with code 1"), told, "{status} {then:?}: {done:#?}");
        let asked = gateway.lines();
        let expected = (status != 500).then_some("GET /system/function/env?namespace=dev");
        assert_eq!(asked.get(1).map(String::as_str), expected, "{asked:?}");
        assert_eq!(gateway.seen()[0].header("authorization"), None);
    }
}

#[test]
fn headers_are_shown_when_asked_for_and_redirects_are_answers() {
    let gateway = Gateway::start(|_| Reply::new(302, "moved").with("Location", "http://127.0.0.1:1/"));
    let out = User::of(&gateway).run(&["invoke", "env", "-i"]).ok();
    assert!(out.starts_with("HTTP/1.1 302 Found\n"), "{out}");
    assert!(out.contains("\nlocation: http://127.0.0.1:1/\n") && out.ends_with("\n\nmoved"), "{out}");
}

#[test]
fn an_answer_that_breaks_off_is_a_failure() {
    let gateway = Gateway::start(|_| Reply::new(200, "half").cut_off(100));
    let done = User::of(&gateway).run(&["invoke", "env"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), "half"), "{done:#?}");
    assert!(done.stderr.contains("the answer of function env broke off"), "{done:#?}");
}

#[test]
fn an_answer_is_printed_as_it_comes() {
    let (parts, receiver) = mpsc::channel();
    let mut receiver = Some(receiver);
    let gateway = Gateway::start(move |_| Reply::parts(receiver.take().expect("one request")));
    let mut child = User::of(&gateway).command(&["invoke", "env"]).spawn().expect("run ingle");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    parts.send(b"first\n".to_vec()).expect("sent");
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "first\n");
    parts.send(b"second".to_vec()).expect("sent");
    drop(parts);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "second");
    assert!(child.wait().expect("ended").success());
}

const LINES: &str = concat!(
    r#"{"name":"env","namespace":"openfaas-fn","instance":"env-1","timestamp":"2025-01-31T12:00:00Z","text":"one"}"#,
    "\n",
    r#"{"name":"env","namespace":"openfaas-fn","instance":"env-2","timestamp":"2025-01-31T12:00:01Z","text":"two ü"}"#,
    "\n"
);

#[test]
fn logs_are_shown_as_text_or_as_they_came() {
    let gateway = Gateway::script(vec![(200, LINES)]);
    let user = User::of(&gateway);
    let out = user.run(&["logs", "env"]).ok();
    assert_eq!(out, "2025-01-31T12:00:00Z env-1 one\n2025-01-31T12:00:01Z env-2 two ü\n");
    let since = "2025-01-31T12:00:00+01:00";
    let out = user
        .run(&["logs", "env", "-n", "dev", "--tail", "5", "--since", since, "--instance", "env-1", "--json"])
        .ok();
    assert_eq!(out, LINES);
    assert_eq!(
        gateway.lines(),
        [
            "GET /system/logs?name=env&follow=false",
            "GET /system/logs?name=env&namespace=dev&tail=5&since=2025-01-31T11%3A00%3A00Z&follow=false&instance=env-1"
        ]
    );
    assert!(gateway.seen()[0].header("authorization").is_some());
}

#[test]
fn a_function_without_logs_is_an_error_in_the_daemons_words() {
    let gateway = Gateway::script(vec![(404, "function env.openfaas-fn was not found\n")]);
    User::of(&gateway).run(&["logs", "env"]).fails(1, &["ingle: function env.openfaas-fn was not found"]);
}

#[test]
fn logs_are_followed_until_interrupted() {
    let (parts, receiver) = mpsc::channel();
    let mut receiver = Some(receiver);
    let gateway = Gateway::start(move |_| Reply::parts(receiver.take().expect("one request")));
    let mut child = User::of(&gateway).command(&["logs", "env", "--follow"]).spawn().expect("run ingle");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    // A line in two parts, with the next one's start.
    let (start, end) = LINES.split_at(30);
    parts.send(start.as_bytes().to_vec()).expect("sent");
    parts.send(end.as_bytes()[..100].to_vec()).expect("sent");
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "2025-01-31T12:00:00Z env-1 one\n");
    let pid = i32::try_from(child.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("interrupted");
    let done = Done::of(child.wait_with_output().expect("ended"));
    assert_eq!((done.code, done.stderr.as_str()), (Some(130), ""));
    assert_eq!(gateway.lines(), ["GET /system/logs?name=env&follow=true"]);
}
