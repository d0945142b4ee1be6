//! Everything that lists, shows and changes one thing with one request.

use super::*;

const FUNCTIONS: &str = r#"[
    {"name":"a-function","image":"ghcr.io/you/a:1","namespace":"openfaas-fn","invocationCount":12,"replicas":2,
     "availableReplicas":1,"createdAt":"2025-01-31T12:00:00Z","phase":"ready","revision":3,"restarts":1,
     "imageDigest":"sha256:0123456789abcdef","unknown":{"later":1}},
    {"name":"b","image":"b","phase":"ready","update":{"revision":4,"phase":"failed","reason":"exit 1"}}]"#;

#[test]
fn functions_are_listed_as_a_table_or_as_json() {
    let gateway = Gateway::script(vec![(200, FUNCTIONS)]);
    let user = User::of(&gateway);
    let out = user.run(&["list"]).ok();
    assert_eq!(
        out,
        "NAME        PHASE                  REPLICAS  CALLS\na-function  ready                  1/2       12\n\
         b           ready (update failed)  0/0       0\n"
    );
    let out = user.run(&["ls", "-v", "-n", "dev"]).ok();
    assert_eq!(
        out.lines().nth(1).expect("a row").split_whitespace().collect::<Vec<_>>(),
        [
            "a-function",
            "ready",
            "1/2",
            "12",
            "ghcr.io/you/a:1",
            "0123456789ab",
            "3",
            "1",
            "2025-01-31T12:00:00Z"
        ]
    );
    assert_eq!(user.run(&["list", "--json"]).ok(), format!("{FUNCTIONS}\n"));
    assert_eq!(gateway.lines()[..2], ["GET /system/functions", "GET /system/functions?namespace=dev"]);
}

#[test]
fn a_function_is_described() {
    let status = r#"{"name":"env","image":"a:1","namespace":"dev","envProcess":"cat","envVars":{"A":"1","B":"x\ny"},
        "labels":{"faas_function":"env"},"secrets":["s","t"],"limits":{"memory":"128Mi"},"invocationCount":5,
        "replicas":1,"availableReplicas":1,"createdAt":"2025-01-31T12:00:00Z","phase":"ready","revision":3,"update":{"revision":4,"phase":"failed","reason":"exit 1\nlast line"},
        "usage":{"cpu":12.4,"totalMemoryBytes":1500000.0},"readOnlyRootFilesystem":true,
        "imageDigest":"sha256:0123"}"#;
    let gateway = Gateway::script(vec![(200, status)]);
    let user = User::of(&gateway);
    let out = user.run(&["describe", "env", "-n", "dev"]).ok();
    let url = &gateway.url;
    let expected = format!(
        "Name:         env
Namespace:    dev
Phase:        ready
Update:       revision 4 failed: exit 1
              last line
Replicas:     1 of 1 can serve
Restarts:     0
Calls:        5
URL:          {url}/function/env.dev
Image:        a:1
Digest:       sha256:0123
Revision:     3
Created:      2025-01-31T12:00:00Z
Usage:        12m cpu, 1.5 MB memory
Process:      cat
Limits:       128Mi memory
Read-only:    yes
Secrets:      s
              t
Environment:  A=1
              B=x\\ny
Labels:       faas_function=env
"
    );
    assert_eq!(out, expected);
    assert_eq!(user.run(&["describe", "env", "--json"]).ok(), format!("{status}\n"));
    assert_eq!(
        gateway.lines(),
        ["GET /system/function/env?namespace=dev&usage=1", "GET /system/function/env?usage=1"]
    );
}

const TIMERS: &str = r#"[
    {"name":"env","namespace":"openfaas-fn","schedule":"0 6 * * *","timeZones":["UTC"],"overlap":"skip","missed":"once",
     "jitterSeconds":90,"lastRun":{"callId":"some-id","due":"2025-01-31T06:00:00Z","at":"2025-01-31T06:00:07.1Z",
     "outcome":"pending","tried":2},"nextRun":"2025-02-01T06:00:07Z","waiting":1,
     "leftOut":{"due":"2025-01-30T06:00:00Z","reason":"an earlier run had not ended"},
     "accepted":3,"skipped":1,"missedRuns":0},
    {"name":"b","namespace":"dev","schedule":"@daily","timeZones":["Mars/Olympus"],"overlap":"allow","missed":"skip",
     "accepted":0,"skipped":0,"missedRuns":0,"problem":"no such zone"}]"#;

#[test]
fn timers_are_listed_and_described() {
    let gateway = Gateway::script(vec![(200, TIMERS)]);
    let user = User::of(&gateway);
    let lines = user.run(&["cron", "list"]).ok();
    let lines: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(
        lines,
        [
            vec!["FUNCTION", "SCHEDULE", "TIME ZONE", "LAST RUN", "OUTCOME", "NEXT RUN"],
            vec![
                "env.openfaas-fn",
                "0 6 * * *",
                "UTC",
                "2025-01-31T06:00:07Z",
                "pending, tries that failed: 2",
                "2025-02-01T06:00:07Z"
            ],
            vec!["b.dev", "@daily", "Mars/Olympus", "-", "-", "none: no such zone"],
        ]
    );
    assert_eq!(user.run(&["cron", "list", "-n", "dev", "--json"]).ok(), format!("{TIMERS}\n"));
    assert_eq!(gateway.lines(), ["GET /system/cron", "GET /system/cron?namespace=dev"]);

    let timer = &serde_json::from_str::<serde_json::Value>(TIMERS).expect("JSON")[0];
    let status =
        serde_json::json!({ "name": "env", "image": "a:1", "phase": "ready", "cron": timer }).to_string();
    let gateway = Gateway::script(vec![(200, status.as_str())]);
    let out = User::of(&gateway).run(&["describe", "env"]).ok();
    let shown = |name: &str| {
        let line = out.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name} in {out}")).trim().to_owned()
    };
    assert_eq!(shown("Schedule"), "0 6 * * * (UTC; when one runs: skip; when missed: once; up to 90 s late)");
    assert_eq!(
        shown("Last run"),
        "2025-01-31T06:00:07Z, due 2025-01-31T06:00:00Z, pending, tries that failed: 2, call some-id"
    );
    assert_eq!(shown("Next run"), "2025-02-01T06:00:07Z, 1 wait");
    assert_eq!(shown("Left out"), "due 2025-01-30T06:00:00Z: an earlier run had not ended");
    assert!(!out.contains("Not called"), "{out}");
}

/// A command, the request it makes, and what it prints.
struct Row {
    command: &'static [&'static str],
    input: &'static str,
    answer: (u16, &'static str),
    line: &'static str,
    body: Option<serde_json::Value>,
    prints: &'static str,
}

#[test]
fn commands_with_one_request() {
    let json = |text: &str| Some(serde_json::from_str(text).expect("JSON"));
    let row = |command, answer, line, body, prints| Row { command, input: "", answer, line, body, prints };
    let rows = [
        row(
            &["scale", "env", "3"],
            (202, ""),
            "POST /system/scale-function/env",
            json(r#"{"serviceName":"env","replicas":3}"#),
            "env is being scaled to 3\n",
        ),
        row(
            &["cron", "run", "env", "-n", "dev"],
            (202, r#"{"callId":"some-id"}"#),
            "POST /system/cron/env?namespace=dev",
            None,
            "env is called: call some-id is queued\n",
        ),
        row(
            &["scale", "env", "--replicas", "0", "-n", "dev"],
            (202, ""),
            "POST /system/scale-function/env",
            json(r#"{"serviceName":"env","replicas":0,"namespace":"dev"}"#),
            "env is being scaled to 0\n",
        ),
        row(
            &["secret", "create", "key", "--from-literal", "v"],
            (201, ""),
            "POST /system/secrets",
            json(r#"{"name":"key","value":"v"}"#),
            "secret key was created\n",
        ),
        Row {
            input: "from stdin\n",
            ..row(
                &["secret", "update", "key", "-n", "dev"],
                (200, ""),
                "PUT /system/secrets",
                json(r#"{"name":"key","namespace":"dev","value":"from stdin"}"#),
                "secret key was updated\n",
            )
        },
        row(
            &["secret", "remove", "key"],
            (202, ""),
            "DELETE /system/secrets",
            json(r#"{"name":"key"}"#),
            "secret key was removed\n",
        ),
        row(
            &["secret", "list", "-n", "dev"],
            (200, r#"[{"name":"key","namespace":"dev"}]"#),
            "GET /system/secrets?namespace=dev",
            None,
            "NAME  NAMESPACE\nkey   dev\n",
        ),
        row(
            &["namespace", "create", "dev", "--label", "a=b"],
            (201, ""),
            "POST /system/namespace/",
            json(r#"{"name":"dev","labels":{"a":"b","openfaas":"1"},"annotations":{"openfaas":"1"}}"#),
            "namespace dev was created\n",
        ),
        row(
            &["namespace", "list"],
            (200, r#"["dev","openfaas-fn"]"#),
            "GET /system/namespaces",
            None,
            "NAME\ndev\nopenfaas-fn\n",
        ),
        row(
            &["namespace", "list", "--json"],
            (200, "[\"dev\"]\n"),
            "GET /system/namespaces",
            None,
            "[\"dev\"]\n",
        ),
        row(
            &["namespace", "describe", "dev"],
            (200, r#"{"name":"dev","labels":{"a":"b"}}"#),
            "GET /system/namespace/dev",
            None,
            "Name:    dev\nLabels:  a=b\n",
        ),
        row(
            &["namespace", "delete", "dev"],
            (202, ""),
            "DELETE /system/namespace/dev",
            json(r#"{"name":"dev"}"#),
            "namespace dev was deleted\n",
        ),
        row(
            &["image", "list"],
            (
                200,
                r#"[{"name":"docker.io/library/a:1","digest":"sha256:0123456789abcdef","platform":"linux/amd64",
                    "size":1234567,"createdAt":"2025-01-31T12:00:00Z"}]"#,
            ),
            "GET /system/images",
            None,
            "NAME                   DIGEST        PLATFORM     SIZE    CREATED\n\
             docker.io/library/a:1  0123456789ab  linux/amd64  1.2 MB  2025-01-31T12:00:00Z\n",
        ),
        row(
            &["image", "remove", "you/a:1"],
            (202, ""),
            "DELETE /system/images/you%2Fa:1",
            None,
            "image you/a:1 was removed\n",
        ),
        row(
            &["system", "df"],
            (
                200,
                r#"{"disk":{"path":"/var/lib/containerd","size":2000000000,"free":1000000000},
                    "images":{"count":2,"size":63000000,"unused":31500000},"layers":{"count":9,"size":1,"unused":0},
                    "replicas":{"count":1,"size":2,"unused":0},"handlers":{"count":1,"size":5,"unused":5},"logs":{"count":1,"size":3,"unused":0},
                    "store":{"count":1,"size":4,"unused":0},
                    "queue":{"calls":{"count":7,"size":6,"unused":0},"dead":{"count":8,"size":7,"unused":0},
                    "records":{"count":9,"size":8,"unused":0}}}"#,
            ),
            "GET /system/df",
            None,
            "KIND          COUNT  SIZE     UNUSED\n\
             images        2      63.0 MB  31.5 MB\n\
             layers        9      1 B      0 B\n\
             replicas      1      2 B      0 B\n\
             handlers      1      5 B      5 B\n\
             logs          1      3 B      0 B\n\
             store         1      4 B      0 B\n\
             queued calls  7      6 B      0 B\n\
             dead letters  8      7 B      0 B\n\
             call records  9      8 B      0 B\n\
             1.0 GB of 2.0 GB are free at /var/lib/containerd\n",
        ),
        row(
            &["queue", "replay", "7"],
            (202, r#"{"callId":"video-7","number":9}"#),
            "POST /system/dead/7/replay",
            None,
            "call 7 was queued again: ingle calls show video-7\n",
        ),
        row(
            &["calls", "show", "video-7"],
            (
                200,
                r#"{"callId":"video-7","status":"failed","name":"video","namespace":"dev","method":"POST","path":"/",
                    "sent":2,"queuedAt":"2025-01-31T12:00:00Z","tries":2,"code":500,"reason":"the function answered 500",
                    "attempts":[{"at":"2025-01-31T12:00:01Z","tookMs":5,"code":429,"reason":"the function answered 429"},
                    {"at":"2025-01-31T12:00:02Z","tookMs":6,"code":500,"reason":"the function answered 500"}]}"#,
            ),
            "GET /system/calls/video-7",
            None,
            "Call id:   video-7\n\
             Function:  video.dev\n\
             Status:    failed\n\
             Request:   POST / with 2 bytes\n\
             Queued:    2025-01-31T12:00:00Z\n\
             Tries:     2\n\
             Answer:    500\n\
             Reason:    the function answered 500\n\
             TRIED                 TOOK  CODE  REASON\n\
             2025-01-31T12:00:01Z  5 ms  429   the function answered 429\n\
             2025-01-31T12:00:02Z  6 ms  500   the function answered 500\n",
        ),
        row(
            &["system", "prune"],
            (200, r#"{"images":["docker.io/you/a:1"],"freed":1500}"#),
            "POST /system/prune",
            None,
            "removed docker.io/you/a:1\n1.5 kB freed\n",
        ),
    ];
    for Row { command, input, answer, line, body, prints } in rows {
        let gateway = Gateway::script(vec![answer]);
        let out = User::of(&gateway).pipe(command, input.as_bytes()).ok();
        assert_eq!(out, prints, "{command:?}");
        let seen = gateway.seen();
        assert_eq!(seen.len(), 1, "{command:?}");
        assert_eq!(seen[0].line(), line, "{command:?}");
        assert_eq!(body, (!seen[0].body.is_empty()).then(|| seen[0].json()), "{command:?}");
        assert!(seen[0].header("authorization").is_some(), "{command:?}");
    }
}

#[test]
fn the_gateway_is_shown() {
    let info = r#"{"provider":{"provider":"ingle","version":{"release":"0.1.0","sha":"abc"},"orchestration":"containerd"},
        "version":{"release":"0.1.0","sha":"abc"},"arch":"x86_64"}"#;
    let gateway = Gateway::script(vec![(200, info)]);
    let user = User::of(&gateway);
    let out = user.run(&["info"]).ok();
    for part in ["\nVersion:        0.1.0 (abc)\n", "\nProvider:       ingle\n", "\nArchitecture:   x86_64\n"]
    {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
    assert!(!out.contains("Provider version"), "it is the gateway's: {out}");
    assert_eq!(user.run(&["info", "--json"]).ok(), format!("{info}\n"));
    assert_eq!(gateway.lines(), ["GET /system/info"; 2]);
}

#[test]
fn secrets_of_any_bytes_come_from_files() {
    let gateway = Gateway::script(vec![(201, "")]);
    let user = User::of(&gateway);
    std::fs::write(user.home().join("key.bin"), b"\xff\x00\n").expect("written");
    user.run(&["secret", "create", "key", "--from-file", "key.bin"]).ok();
    assert_eq!(gateway.seen()[0].json(), serde_json::json!({"name": "key", "rawValue": "/wAK"}));
    user.run(&["secret", "create", "key", "--from-file", "none"]).fails(64, &["none: No such file"]);
    user.run(&["secret", "create", "../x", "--from-literal", "v"]).fails(64, &["contains '/'"]);
    user.pipe(&["secret", "create", "key"], b"\n").fails(64, &["secret key is empty"]);
    user.pipe(&["secret", "create", "key"], &vec![b'x'; (1 << 20) + 1]).fails(64, &["at most"]);
    assert_eq!(gateway.lines().len(), 1);
}

#[test]
fn a_secret_that_exists_is_told_so() {
    let gateway = Gateway::script(vec![(409, "secret key exists already\n")]);
    User::of(&gateway)
        .run(&["secret", "create", "key", "--from-literal", "v"])
        .fails(1, &["ingle: secret key exists already\n"]);
}

const LOADED: &str = r#"{"images":[{"name":"docker.io/a:1","digest":"sha256:0123456789abcdef","platform":"linux/amd64",
    "size":1,"createdAt":"2025-01-31T12:00:00Z"}]}"#;

#[test]
fn an_archive_is_sent_whole() {
    let archive: Vec<u8> = (0..3_000_000).map(|n| u8::try_from(n % 253).expect("small")).collect();
    let gateway =
        Gateway::start(|request| Reply::new(200, if request.method == "GET" { "[]" } else { LOADED }));
    let user = User::of(&gateway);
    std::fs::write(user.home().join("a.tar"), &archive).expect("written");
    let done = user.run(&["image", "load", "a.tar"]);
    assert!(done.stderr.starts_with("a.tar: sent "), "{done:#?}");
    assert_eq!(done.ok(), "loaded docker.io/a:1 (0123456789ab)\n");
    let done = user.pipe(&["image", "load", "-", "--json"], &archive);
    assert!(done.stderr.starts_with("stdin: sent "), "{done:#?}");
    assert_eq!(done.ok(), format!("{LOADED}\n"));
    let seen = gateway.seen();
    for (index, length) in [(1, Some("3000000")), (3, None)] {
        assert_eq!(seen[index].line(), "POST /system/images");
        assert!(seen[index].body == archive, "{} bytes came", seen[index].body.len());
        assert_eq!(seen[index].header("content-length"), length);
        assert_eq!(seen[index].header("content-type"), Some("application/x-tar"));
    }
}

#[test]
fn an_archive_is_not_sent_to_whoever_does_not_want_it() {
    let gateway = Gateway::script(vec![(401, "")]);
    let user = User::of(&gateway);
    user.write("a.tar", "x");
    user.run(&["image", "load", "a.tar"]).fails(77, &["refused"]);
    user.run(&["image", "load", "none.tar"]).fails(64, &["none.tar: No such file"]);
    user.run(&["image", "load", "."]).fails(64, &["is a directory"]);
    assert_eq!(gateway.lines(), ["GET /system/images"]);
}
