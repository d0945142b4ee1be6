//! One process, one protocol: afterburn and openwhisk.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Watchdog, free_address};
use crate::support::TemporaryDirectory;

/// Reads requests and answers them with number of process, path, and body.
const ECHO: &str = r#"
while IFS= read -r line; do
    line=${line%"$(printf '\r')"}
    case $line in
        *HTTP/1.1) path=${line#* }; path=${path%% *} ;;
        Content-Length:*) length=${line#*: } ;;
        "") body=$(dd bs=1 count="$length" 2>/dev/null)
            case $path in
                /die) exit 4 ;;
                /hang) sleep 60 ;;
                /nonsense) echo nonsense; echo ;;
                *) answer="$$ $path $body"
                   printf 'HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: %s\r\n\r\n%s' "${#answer}" "$answer" ;;
            esac ;;
    esac
done
"#;

#[tokio::test]
async fn one_process_answers_all_each_its_own() {
    let watchdog = Watchdog::script(ECHO, &[("mode", "afterburn")]).await;
    let mut processes = BTreeSet::new();
    // Asked at once, answered one after the other.
    let requests = (0..20).map(|number| {
        let path = format!("/{number}");
        let watchdog = &watchdog;
        async move {
            let answer = watchdog.send(Method::POST, &path, format!("body {number}")).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["x-own"], "1");
            assert!(answer.headers().contains_key("x-duration-seconds"));
            let text = answer.text().await.expect("text");
            let (process, rest) = text.split_once(' ').expect("two words");
            assert_eq!(rest, format!("/{number} body {number}"));
            process.to_owned()
        }
    });
    processes.extend(futures_util::future::join_all(requests).await);
    assert_eq!(processes.len(), 1, "{processes:?}");
}

#[tokio::test]
async fn a_process_that_does_not_answer_is_the_end_of_the_watchdog() {
    for (path, status, words) in [
        ("/die", StatusCode::BAD_GATEWAY, "closed its output"),
        ("/hang", StatusCode::GATEWAY_TIMEOUT, "within exec_timeout"),
        ("/nonsense", StatusCode::BAD_GATEWAY, "cannot be read"),
    ] {
        let variables = [("mode", "afterburn"), ("exec_timeout", "500ms")];
        let mut watchdog = Watchdog::script(ECHO, &variables).await;
        assert_eq!(watchdog.get("/fine").await.0, StatusCode::OK);
        let (found, text) = watchdog.get(path).await;
        assert_eq!(found, status, "{path}: {text}");
        assert!(text.contains(words), "{path}: {text}");
        assert_eq!(watchdog.ended(10).await.code(), Some(1), "{path}: {}", watchdog.log());
    }
}

#[tokio::test]
async fn a_command_is_called_as_an_action() {
    let script = "read -r input; echo said; echo aside >&2; \
                  echo \"{\\\"input\\\": $input, \\\"name\\\": \\\"$__OW_ACTION_NAME\\\", \
                  \\\"key\\\": \\\"$__OW_API_KEY\\\", \\\"host\\\": \\\"$__OW_API_HOST\\\"}\"";
    let watchdog = Watchdog::script(script, &[("mode", "openwhisk")]).await;
    let ask = async |path: &str, body: Value| {
        let answer = watchdog.send(Method::POST, path, body.to_string()).await;
        (answer.status(), answer.json::<Value>().await.expect("JSON"))
    };
    // The request of OpenWhisk.
    let env = json!({ "__OW_API_HOST": "http://evil.example", "__OW_ALLOW_CONCURRENT": "true" });
    let value = json!({ "name": "a", "main": "main", "code": "x", "binary": false, "env": env });
    let init = json!({ "value": value });
    assert_eq!(ask("/init", init.clone()).await, (StatusCode::OK, json!({ "ok": true })));
    assert_eq!(ask("/init", init).await.0, StatusCode::FORBIDDEN, "once");
    let run = json!({ "value": { "a": 1 }, "action_name": "guest/a", "namespace": "guest", "api_key": "k:s",
                      "activation_id": "7", "transaction_id": "8", "deadline": "1" });
    let wanted = json!({ "input": { "a": 1 }, "name": "guest/a", "key": "k:s", "host": "" });
    assert_eq!(ask("/run", run).await, (StatusCode::OK, wanted));
    let ends = || watchdog.log().matches("XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX").count();
    eventually!(ends() == 2, "{}", watchdog.log());
    let log = watchdog.log();
    assert!(
        log.contains("stdout: said") && log.contains("stderr: aside") && !log.contains("\"input\""),
        "{log}"
    );
    assert_eq!(ask("/other", json!({})).await.0, StatusCode::NOT_FOUND);

    for (script, words) in
        [("echo no object", "JSON object"), ("exit 3", "exit status 3"), ("sleep 9", "exec_timeout")]
    {
        let watchdog = Watchdog::script(script, &[("mode", "openwhisk"), ("exec_timeout", "500ms")]).await;
        let answer = watchdog.send(Method::POST, "/run", "{}").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{script}");
        assert!(answer.text().await.expect("text").contains(words), "{script}");
    }
}

#[tokio::test]
async fn no_caller_sets_the_environment_of_an_action() {
    // Responds with its whole environment.
    let script = "printf '{\"env\": \"'; env | tr '\\n\"' ';.'; echo '\"}'";
    let watchdog = Watchdog::script(script, &[("mode", "openwhisk")]).await;
    let ask = async |path: &str, body: String| {
        let answer = watchdog.send(Method::POST, path, body).await;
        (answer.status(), answer.text().await.expect("text"))
    };
    let run = || ask("/run", json!({ "value": {}, "activation_id": "1" }).to_string());
    let (status, before) = run().await;
    assert!(status == StatusCode::OK && before.contains("__OW_ACTIVATION_ID=1;"), "{before}");
    for name in ["PATH", "LD_PRELOAD", "BASH_ENV", "PYTHONWARNINGS", "__ow_x", "_OW_X", "OW", "", "=", "a=b"]
    {
        let init = json!({ "value": { "env": { "__OW_FINE": "1", name: "x" } } });
        let (status, text) = ask("/init", init.to_string()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name}: {text}");
        assert!(text.contains("does not begin with __OW_"), "{name}: {text}");
    }
    // A refused `/init` does not prevent the real one.
    let init = json!({ "value": { "env": { "__OW_API_HOST": "x", "__OW_=": "x" } } });
    assert_eq!(ask("/init", init.to_string()).await.0, StatusCode::OK);
    assert_eq!(run().await, (StatusCode::OK, before.clone()), "nothing of it is in another's run");
    // The variables of a run are those of the protocol.
    for name in ["A=B", "A\0B", "", "a b", "a-b", "\u{e9}", "\u{df}", "LD_PRELOAD\n"] {
        let (status, text) = ask("/run", json!({ name: "x" }).to_string()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name:?}: {text}");
    }
    for (body, words) in [
        (json!({ "activation_id": "a\0b" }), "zero byte"),
        (json!({ "activation_id": "x".repeat(200_000) }), "at most"),
        (
            (0..100).map(|number| (format!("k{number}"), json!(1))).collect::<serde_json::Map<_, _>>().into(),
            "at most",
        ),
        (json!([]), "object"),
    ] {
        let (status, text) = ask("/run", body.to_string()).await;
        assert!(status == StatusCode::BAD_REQUEST && text.contains(words), "{words}: {status} {text}");
    }
    // Each one is small enough, but together they exceed the environment of a process.
    let large: serde_json::Map<_, _> =
        (0..30).map(|number| (format!("k{number}"), json!("x".repeat(120_000)))).collect();
    let (status, text) = ask("/run", Value::from(large).to_string()).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{text}");
    assert_eq!(run().await, (StatusCode::OK, before), "it goes on");
}

#[tokio::test]
async fn an_action_is_given_its_code_once() {
    // Keeps what it is initialized with, as an action's image does.
    let script = "case $Http_Path in /init) cat >>init; echo {} ;; *) echo '{\"ran\": true}' ;; esac";
    for (code, wanted, binary) in [(b"print(1)".as_slice(), "print(1)", false), (b"PK\xff", "UEv/", true)] {
        let action = Watchdog::script(script, &[("content_type", "application/json")]).await;
        let file = action.path("code");
        std::fs::write(&file, code).expect("written");
        let (url, file) = (format!("http://{}", action.address), file.display().to_string());
        let variables = [
            ("mode", "openwhisk"),
            ("upstream_url", url.as_str()),
            ("openwhisk_code", file.as_str()),
            ("openwhisk_main", "greet"),
        ];
        let function = Watchdog::command("", &variables).await;
        for _ in 0..2 {
            assert_eq!(
                function.post("{}").await,
                (StatusCode::OK, "{\"ran\":true}".into()),
                "{}",
                function.log()
            );
        }
        let init = std::fs::read(action.path("init")).expect("it was initialized");
        let init: Value = serde_json::from_slice(&init).expect("JSON, once");
        assert_eq!(init["value"]["code"], wanted);
        assert_eq!((&init["value"]["binary"], &init["value"]["main"]), (&json!(binary), &json!("greet")));
    }
}

#[tokio::test]
async fn an_action_is_called_as_a_function() {
    // The one in front of the other.
    let address = free_address();
    let script = "read -r input; echo \"{\\\"input\\\": $input, \\\"id\\\": \\\"$__OW_ACTIVATION_ID\\\"}\"";
    let port = address.port().to_string();
    let action = Watchdog::script(script, &[("mode", "openwhisk")]).await;
    let url = format!("http://{}", action.address);
    let function =
        Watchdog::command("", &[("mode", "openwhisk"), ("upstream_url", &url), ("unused", &port)]).await;
    for body in ["{\"b\": 2}", "{\r\n  \"b\":\n2\n}\n"] {
        let request = function.client.post(function.url("/any/path")).header("X-Call-Id", "c7").body(body);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let value: Value = answer.json().await.expect("JSON");
        assert_eq!(value, json!({ "input": { "b": 2 }, "id": "c7" }));
    }
    assert_eq!(function.post("no JSON").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(function.get("/_/ready").await.0, StatusCode::OK);
}

/// An action as OpenWhisk's runtimes are: one call at a time, and of no use after one that failed.
const ACTION: &str = r#"
import http.server, json, os, sys, threading, time
busy, dead, inits = threading.Lock(), [False], [0]
class Action(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/init":
            inits[0] += 1
            return self.answer(403 if inits[0] > 1 else 200, {})
        if dead[0] or not inits[0] or not isinstance(body["deadline"], str) or not busy.acquire(blocking=False):
            dead[0] = True
            return self.answer(502, {"error": "of no use any more"})
        time.sleep(body["value"].get("sleep", 0))
        busy.release()
        dead[0] = bool(body["value"].get("fail"))
        self.answer(502 if dead[0] else 200, {"process": os.getpid()})
    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Action).serve_forever()
"#;

#[tokio::test]
async fn an_action_gets_one_call_at_a_time_and_is_back_after_one_that_failed() {
    require!("python3");
    let directory = TemporaryDirectory::new();
    std::fs::write(directory.path().join("action.py"), ACTION).expect("written");
    let server = free_address();
    let (command, url) = (format!("python3 action.py {}", server.port()), format!("http://{server}"));
    let variables = [
        ("mode", "openwhisk"),
        ("fprocess", command.as_str()),
        ("upstream_url", url.as_str()),
        ("exec_timeout", "4s"),
    ];
    let function = Watchdog::start(directory, &variables).await;
    let call = async |body: &str| function.post(body.to_owned()).await;
    let (status, first) = call("{}").await;
    assert_eq!(status, StatusCode::OK, "{first} {}", function.log());
    let together = futures_util::future::join_all((0..8).map(|_| call("{\"sleep\": 0.05}"))).await;
    assert!(together.iter().all(|answer| *answer == (StatusCode::OK, first.clone())), "{together:?}");
    assert_eq!(call("{\"fail\": true}").await.0, StatusCode::BAD_GATEWAY);
    let (status, second) = call("{}").await;
    assert_eq!(status, StatusCode::OK, "{second} {}", function.log());
    assert_ne!(second, first, "the failed process is used again");
    // Nor is one that is at a call still which has taken too long.
    assert_eq!(call("{\"sleep\": 30}").await.0, StatusCode::GATEWAY_TIMEOUT);
    let (status, third) = call("{}").await;
    assert_eq!(status, StatusCode::OK, "{third} {}", function.log());
    assert_ne!(third, second, "the process of a call that took too long is used");
}
