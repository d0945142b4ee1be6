//! `deploy` and `remove`: requests, progress, and how both end.

use super::*;

/// Plays a daemon: `describe` answers with these, one after the other, the last one for ever.
pub(super) fn daemon(before: (u16, &str), accepts: Vec<(u16, &str)>, then: Vec<&str>) -> Gateway {
    let before = (before.0, before.1.to_owned());
    let mut accepts = accepts.into_iter().map(|(s, b)| (s, b.to_owned())).collect::<Vec<_>>().into_iter();
    let then: Vec<_> = then.into_iter().map(str::to_owned).collect();
    let (mut asked, mut accepted) = (0, false);
    Gateway::start(move |request| {
        if request.method != "GET" {
            let (status, body) = accepts.next().expect("no more deploys");
            accepted |= status == 202;
            let reply = Reply::new(status, body.as_bytes());
            return if status == 202 { reply.with("X-Revision", "7") } else { reply };
        }
        if !accepted {
            return Reply::new(before.0, before.1.as_bytes());
        }
        asked += 1;
        Reply::new(200, then[(asked - 1).min(then.len() - 1)].as_bytes())
    })
}

pub(super) const READY: &str = r#"{"name":"env","image":"a:1","phase":"ready","revision":7,"replicas":1,"availableReplicas":1,
    "imageDigest":"sha256:0123456789abcdef"}"#;
const OLD: &str =
    r#"{"name":"env","image":"a:0","phase":"ready","revision":6,"replicas":1,"availableReplicas":1}"#;

#[test]
fn a_new_function_is_created_and_followed_until_it_is_ready() {
    let gateway = daemon(
        (404, "function env.dev was not found"),
        vec![(404, "function env.dev was not found"), (202, "")],
        vec![
            r#"{"name":"env","image":"a:1","phase":"pulling","reason":"pulling 1.0/63.0 MB","revision":7}"#,
            r#"{"name":"env","image":"a:1","phase":"pulling","reason":"pulling 9.0/63.0 MB","revision":7}"#,
            r#"{"name":"env","image":"a:1","phase":"starting","revision":7}"#,
            READY,
        ],
    );
    let user = User::of(&gateway);
    let done = user.run(&[
        "deploy",
        "env",
        "--image",
        "a:1",
        "-n",
        "dev",
        "--fprocess",
        "cat",
        "--env",
        "A=b",
        "--min",
        "2",
        "--timeout",
        "30s",
        "--memory",
        "128Mi",
    ]);
    assert_eq!(done.stderr, "env: pulling 1.0/63.0 MB\nenv: starting\n", "{done:#?}");
    let url = format!("{}/function/env.dev", gateway.url);
    assert_eq!(done.ok(), format!("env is ready (revision 7, image 0123456789ab): {url}\n"));

    let lines = gateway.lines();
    assert_eq!(lines[0], "GET /system/function/env?namespace=dev");
    assert_eq!(lines[1..3], ["PUT /system/functions", "POST /system/functions"]);
    assert!(lines[3..].iter().all(|line| line == &lines[0]), "{lines:#?}");
    let seen = gateway.seen();
    // admin:secret
    assert!(seen.iter().all(|request| request.header("authorization") == Some("Basic YWRtaW46c2VjcmV0")));
    assert_eq!(seen[1].header("content-type"), Some("application/json"));
    for request in &seen[1..3] {
        assert_eq!(
            request.json(),
            serde_json::json!({
                "service": "env", "image": "a:1", "namespace": "dev", "envProcess": "cat", "envVars": {"A": "b"},
                "labels": {"com.openfaas.scale.min": "2"}, "annotations": {"ingle.timeout": "30s"},
                "limits": {"memory": "128Mi"}
            })
        );
    }
}

#[test]
fn a_function_that_does_not_start_is_a_failure_with_its_reason() {
    for (phase, says) in
        [("failed", "env failed: exit 1\nlast line"), ("backing-off", "is tried again: exit 1\nlast line")]
    {
        let status = format!(
            r#"{{"name":"env","image":"a:1","phase":"{phase}","reason":"exit 1\nlast line","revision":7}}"#
        );
        let gateway = daemon((404, ""), vec![(202, "")], vec![&status]);
        User::of(&gateway).run(&["deploy", "env", "--image", "a:1"]).fails(1, &["ingle: function ", says]);
    }
}

#[test]
fn a_failed_update_is_a_failure_although_the_old_revision_serves() {
    let with = |update: &str| OLD.replace("\"revision\"", &format!("\"update\":{update},\"revision\""));
    let pulling = with(r#"{"revision":7,"phase":"pulling","reason":"pulling 1.0/2.0 MB"}"#);
    let failed = with(r#"{"revision":7,"phase":"failed","reason":"it exited with code 3"}"#);
    let gateway = daemon((200, OLD), vec![(202, "")], vec![OLD, &pulling, &failed]);
    let done = User::of(&gateway).run(&["deploy", "env", "--image", "a:1"]);
    assert!(done.stderr.contains("env: pulling 1.0/2.0 MB"), "{done:#?}");
    done.fails(
        1,
        &["function env could not be updated, and revision 6 goes on serving: it exited with code 3"],
    );
}

#[test]
fn a_refused_deploy_is_told_in_the_daemons_words_and_not_followed() {
    let gateway = daemon((404, ""), vec![(400, "limits.memory: \"lots\" is not a quantity\n")], vec![READY]);
    User::of(&gateway)
        .run(&["deploy", "env", "--image", "a:1", "--memory", "lots"])
        .fails(1, &["ingle: function env: limits.memory: \"lots\" is not a quantity\n"]);
    assert_eq!(gateway.lines().len(), 2);
}

#[test]
fn without_waiting_there_is_one_request() {
    let gateway = daemon((404, ""), vec![(202, "")], vec![READY]);
    let out = User::of(&gateway).run(&["deploy", "env", "--image", "a:1", "--no-wait"]).ok();
    assert_eq!(out, format!("env was accepted: {}/function/env\n", gateway.url));
    assert_eq!(gateway.lines(), ["PUT /system/functions"]);
}

#[test]
fn waiting_has_an_end() {
    let starting = r#"{"name":"env","image":"a:1","phase":"starting","revision":7}"#;
    let gateway = daemon((404, ""), vec![(202, "")], vec![starting]);
    User::of(&gateway)
        .run(&["deploy", "env", "--image", "a:1", "--wait-timeout", "300ms"])
        .fails(1, &["env is not ready yet (starting)", "ingle describe env"]);
}

#[test]
fn a_gateway_without_phases_is_followed_by_its_replicas() {
    let none = r#"{"name":"env","image":"a:1"}"#;
    let up = r#"{"name":"env","image":"a:1","replicas":1,"availableReplicas":1,"usage":null}"#;
    let gateway = Gateway::script(vec![(404, ""), (202, ""), (200, none), (200, up)]);
    let out = User::of(&gateway).run(&["deploy", "env", "--image", "a:1"]).ok();
    assert_eq!(out, format!("env is ready: {}/function/env\n", gateway.url));
}

#[test]
fn a_rollback_is_followed_until_it_answers() {
    let gateway = daemon((200, OLD), vec![(202, "")], vec![OLD, READY]);
    let out = User::of(&gateway).run(&["rollback", "env", "--to", "1", "-n", "dev"]).ok();
    let url = format!("{}/function/env.dev", gateway.url);
    assert_eq!(out, format!("env is ready (revision 7, image 0123456789ab): {url}\n"));
    assert_eq!(gateway.lines()[0], "POST /system/function/env/rollback?namespace=dev");
    assert_eq!(gateway.seen()[0].json(), serde_json::json!({"revision": 1}));
    assert_eq!(gateway.lines().len(), 3);

    let gateway = daemon((200, OLD), vec![(202, "")], vec![OLD]);
    let out = User::of(&gateway).run(&["rollback", "env", "--no-wait"]).ok();
    assert_eq!(out, format!("env was accepted as revision 7: {}/function/env\n", gateway.url));
    assert_eq!(gateway.seen()[0].json(), serde_json::json!({}));

    let gateway = Gateway::script(vec![(409, "nothing to go back to")]);
    let done = User::of(&gateway).run(&["rollback", "env"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(1), "ingle: nothing to go back to\n"), "{done:#?}");
}

const STACK: &str = "
version: 1.0
provider: {name: openfaas}
functions:
  env: {image: 'a:${TAG:-0}', environment: {A: file, B: file}, namespace: dev}
  gif: {image: b, secrets: [s]}
";

#[test]
fn all_functions_of_a_stack_file_are_deployed() {
    let gateway = daemon((404, ""), vec![(202, ""), (202, "")], vec![READY]);
    let user = User::of(&gateway).set("TAG", "9");
    user.write("stack.yml", STACK);
    let out = user.run(&["deploy", "-f", "stack.yml", "--env", "A=option"]).ok();
    assert_eq!(out.lines().count(), 2, "{out}");
    let sent: Vec<_> = gateway.seen().iter().filter(|r| r.method == "PUT").map(Request::json).collect();
    assert_eq!(
        sent,
        [
            serde_json::json!({"service": "env", "image": "a:9", "namespace": "dev",
                "envVars": {"A": "option", "B": "file"}}),
            serde_json::json!({"service": "gif", "image": "b", "secrets": ["s"], "envVars": {"A": "option"}}),
        ]
    );
    // Both were handed over before the first was waited for.
    let lines = gateway.lines();
    assert_eq!(lines.iter().rposition(|line| line.starts_with("PUT")), Some(3), "{lines:#?}");
}

#[test]
fn one_of_a_stack_may_fail_without_the_others() {
    let gateway = daemon((404, ""), vec![(400, "image: no"), (202, "")], vec![READY]);
    let user = User::of(&gateway);
    user.write("stack.yml", STACK);
    let done = user.run(&["deploy", "-f", "stack.yml"]);
    assert_eq!(done.code, Some(1), "{done:#?}");
    assert!(done.stdout.starts_with("gif is ready"), "{done:#?}");
    assert_eq!(done.stderr, "ingle: function env: image: no\ningle: 1 of 2 functions failed\n");
}

#[test]
fn a_stack_comes_from_stdin_or_a_url_and_may_be_filtered() {
    let gateway = daemon((404, ""), vec![(202, "")], vec![READY]);
    let user = User::of(&gateway);
    user.pipe(&["deploy", "--yaml", "-", "--filter", "g*"], STACK.as_bytes()).ok();
    assert_eq!(gateway.seen()[1].json()["service"], "gif");

    let files = Gateway::script(vec![(200, STACK)]);
    let gateway = daemon((404, ""), vec![(202, "")], vec![READY]);
    let url = format!("{}/stack.yml", files.url);
    User::of(&gateway).run(&["deploy", "-f", &url, "--regex", "^e"]).ok();
    assert_eq!(gateway.seen()[1].json()["service"], "env");
    assert_eq!(files.seen()[0].header("authorization"), None);

    let missing = Gateway::script(vec![(404, "")]);
    User::of(&gateway)
        .run(&["deploy", "-f", &format!("{}/x", missing.url)])
        .fails(64, &["stack file", "the server answered 404"]);
}

#[test]
fn the_gateway_of_a_stack_file_counts_and_gets_no_password_from_the_environment() {
    let gateway = daemon((404, ""), vec![(202, "")], vec![READY]);
    let other = daemon((404, ""), vec![(202, "")], vec![READY]);
    let user = User::of(&other);
    let text = STACK.replace("openfaas}", &format!("openfaas, gateway: '{}/'}}", gateway.url));
    user.write("stack.yml", &text);
    user.run(&["deploy", "-f", "stack.yml", "--filter", "env", "--no-wait"]).ok();
    assert_eq!(gateway.seen()[0].header("authorization"), None);
    assert!(other.lines().is_empty());

    user.run(&["deploy", "-f", "stack.yml", "--filter", "env", "--no-wait", "--gateway", &other.url]).ok();
    assert!(other.seen()[0].header("authorization").is_some());
}

#[test]
fn the_code_of_a_stack_files_handler_is_handed_over_unless_a_lang_builds_it() {
    for command in ["deploy", "apply"] {
        // The handler is not there, and taken; then the function is new.
        let answers = vec![(404, ""), (201, ""), (404, ""), (202, "")];
        let gateway = daemon((404, ""), answers, vec![READY]);
        let user = User::of(&gateway);
        std::fs::create_dir_all(user.home().join("stacks/code")).expect("made");
        user.write("stacks/code/handler.py", "print('hello')");
        user.write("stacks/stack.yml", "\u{feff}functions: {env: {image: 'python:3', handler: ./code}}");
        user.run(&[command, "-f", "stacks/stack.yml"]).ok();
        let seen = gateway.seen();
        let sent: Vec<_> = seen.iter().filter(|request| request.method == "PUT").collect();
        let [handler, function] = sent[..] else { panic!("{:#?}", gateway.lines()) };
        assert_eq!(handler.header("content-type"), Some("application/x-tar"), "{handler:#?}");
        let digest = handler.target.rsplit('/').next().expect("a digest");
        assert_eq!(
            function.json(),
            serde_json::json!({"service": "env", "image": "python:3", "annotations": {"ingle.handler": digest}})
        );

        let gateway = daemon((404, ""), vec![(202, "")], vec![READY]);
        let user = User::of(&gateway);
        user.write("stack.yml", "functions: {env: {image: a, lang: go, handler: ./none}}");
        user.run(&[command, "-f", "stack.yml"]).ok();

        let gateway = daemon((404, ""), vec![], vec![READY]);
        let user = User::of(&gateway);
        user.write("stack.yml", "functions: {env: {image: a, handler: ./none}}");
        user.run(&[command, "-f", "stack.yml"])
            .fails(64, &["functions.env.handler", "./none", "No such file"]);
        assert!(gateway.lines().is_empty());
    }
}

#[test]
fn a_wrong_stack_file_sends_nothing() {
    let gateway = daemon((404, ""), vec![], vec![READY]);
    let user = User::of(&gateway);
    user.write("stack.yml", "functions: {env: {image: a}, bad: {image: b, secrets: 7}}");
    user.run(&["deploy", "-f", "stack.yml"]).fails(64, &["stack file stack.yml", "functions.bad.secrets"]);
    user.run(&["remove", "-f", "stack.yml"]).fails(64, &["functions.bad.secrets"]);
    user.run(&["deploy", "-f", "none.yml"]).fails(64, &["stack file none.yml", "No such file"]);
    user.write("stack.yml", "functions: {'../x': {image: a}}");
    user.run(&["deploy", "-f", "stack.yml"]).fails(64, &["../x"]);
    assert!(gateway.lines().is_empty());
}

#[test]
fn functions_are_removed_by_name_or_stack_file() {
    let gateway = Gateway::start(|request| {
        let gone = request.json()["functionName"] == "gone";
        if gone { Reply::new(404, "function gone.openfaas-fn was not found\n") } else { Reply::new(202, "") }
    });
    let user = User::of(&gateway);
    let done = user.run(&["remove", "a", "gone", "b"]);
    assert_eq!(done.code, Some(1));
    assert_eq!(done.stdout, "a was removed\nb was removed\n");
    assert_eq!(
        done.stderr,
        "ingle: function gone.openfaas-fn was not found\ningle: 1 of 3 functions failed\n"
    );
    user.run(&["rm", "gone"]).fails(1, &["ingle: function gone.openfaas-fn was not found\n"]);

    user.write("stack.yml", STACK);
    user.run(&["remove", "-f", "stack.yml"]).ok();
    let seen = gateway.seen();
    assert!(seen.iter().all(|request| request.line() == "DELETE /system/functions"));
    assert_eq!(seen[0].json(), serde_json::json!({"functionName": "a"}));
    let last: Vec<_> = seen[4..].iter().map(Request::json).collect();
    assert_eq!(
        last,
        [
            serde_json::json!({"functionName": "env", "namespace": "dev"}),
            serde_json::json!({"functionName": "gif"})
        ]
    );
}
