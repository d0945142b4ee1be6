//! The requests of an unmodified faas-cli, replayed: what it sends and the status that it accepts.
//!
//! They were recorded from faas-cli at commit c8191b71 (go-sdk 0.2.22), one row for each request, in an
//! order in which a person may type the commands. They carry no `Accept` header. `invoke env` is
//! `POST /function/env.openfaas-fn`, with the namespace also where none was given; that road has tests of
//! its own.

use serde_json::Value;

use super::world::World;

/// A request of faas-cli.
struct Sent {
    /// The command that was typed, without `faas-cli`.
    command: &'static str,
    method: &'static str,
    /// Path and query.
    target: &'static str,
    body: &'static str,
    /// The status that it is answered with.
    status: u16,
}

const fn sent(
    command: &'static str,
    method: &'static str,
    target: &'static str,
    body: &'static str,
    status: u16,
) -> Sent {
    Sent { command, method, target, body, status }
}

const DEPLOY: &str = "deploy --image you/env:1 --name env";
const SMALL: &str = r#"{"service":"env","image":"you/env:1","labels":{},"annotations":{}}"#;
const DEPLOY_ALL: &str = "deploy --image you/env:1 --name env -n dev --env A=b --label l=1 --annotation t=u \
    --secret key --memory-limit 128Mi --cpu-limit 500m --readonly --constraint c";
const ALL: &str = r#"{"service":"env","image":"you/env:1","namespace":"dev","envVars":{"A":"b"},"constraints":["c"],"secrets":["key"],"labels":{"l":"1"},"annotations":{"t":"u"},"limits":{"memory":"128Mi","cpu":"500m"},"readOnlyRootFilesystem":true}"#;
const STACK: &str = r#"{"service":"env","image":"you/env:1","envProcess":"cat","envVars":{"A":"b"},"constraints":["c"],"secrets":["key"],"labels":{"l":"1"},"annotations":{"topic":"t"},"limits":{"memory":"128Mi","cpu":"500m"},"requests":{"memory":"64Mi"},"readOnlyRootFilesystem":true}"#;

/// `-` in place of a command: the one above sends this, too.
const REQUESTS: &[Sent] = &[
    sent("ready --attempts 1", "GET", "/healthz", "", 200),
    sent("login --username admin --password-stdin", "GET", "/system/functions", "", 200),
    sent("version", "GET", "/system/info", "", 200),
    sent("namespace list", "GET", "/system/namespaces", "", 200),
    sent(
        "namespace create dev --label a=b",
        "POST",
        "/system/namespace/",
        r#"{"name":"dev","annotations":{"openfaas":"1"},"labels":{"a":"b","openfaas":"1"}}"#,
        201,
    ),
    sent("namespace get dev", "GET", "/system/namespace/dev", "", 200),
    sent(
        "namespace update dev --label a=c",
        "PUT",
        "/system/namespace/dev",
        r#"{"name":"dev","annotations":{"openfaas":"1"},"labels":{"a":"c","openfaas":"1"}}"#,
        202,
    ),
    sent(
        "secret create key --from-literal v",
        "POST",
        "/system/secrets",
        r#"{"name":"key","value":"v"}"#,
        201,
    ),
    sent(
        "secret create key --from-literal v",
        "POST",
        "/system/secrets",
        r#"{"name":"key","value":"v"}"#,
        409,
    ),
    sent(
        "secret create key --from-file f -n dev",
        "POST",
        "/system/secrets",
        r#"{"name":"key","namespace":"dev","value":"bytes","rawValue":"Ynl0ZXMK"}"#,
        201,
    ),
    sent(
        "secret update key --from-literal w",
        "PUT",
        "/system/secrets",
        r#"{"name":"key","value":"w"}"#,
        200,
    ),
    sent("secret update no --from-literal w", "PUT", "/system/secrets", r#"{"name":"no","value":"w"}"#, 404),
    sent("secret list", "GET", "/system/secrets", "", 200),
    sent("secret list -n dev", "GET", "/system/secrets?namespace=dev", "", 200),
    sent(DEPLOY, "PUT", "/system/functions", SMALL, 404),
    sent("-", "POST", "/system/functions", SMALL, 202),
    sent(DEPLOY_ALL, "PUT", "/system/functions", ALL, 404),
    sent("-", "POST", "/system/functions", ALL, 202),
    sent("deploy -f stack.yml", "PUT", "/system/functions", STACK, 202),
    sent("list", "GET", "/system/functions", "", 200),
    sent("list -n dev -v", "GET", "/system/functions?namespace=dev", "", 200),
    sent("describe env", "GET", "/system/function/env?usage=1", "", 200),
    sent("-", "GET", "/system/functions", "", 200),
    sent("describe env -n dev", "GET", "/system/function/env?namespace=dev&usage=1", "", 200),
    sent("-", "GET", "/system/functions?namespace=dev", "", 200),
    sent("describe no", "GET", "/system/function/no?usage=1", "", 404),
    sent("ready env --attempts 1", "GET", "/system/function/env?usage=1", "", 200),
    sent("logs env --lines 5 --tail=false", "GET", "/system/logs?follow=false&name=env&tail=5", "", 200),
    sent(
        "logs env -n dev --tail=false",
        "GET",
        "/system/logs?follow=false&name=env&namespace=dev&tail=-1",
        "",
        200,
    ),
    sent(
        "logs env --since-time 2025-01-31T12:00:00Z --tail=false",
        "GET",
        "/system/logs?follow=false&name=env&since=2025-01-31T12%3A00%3A00Z&tail=-1",
        "",
        200,
    ),
    sent("remove env", "DELETE", "/system/functions", r#"{"functionName":"env"}"#, 202),
    sent(
        "remove env -n dev",
        "DELETE",
        "/system/functions",
        r#"{"functionName":"env","namespace":"dev"}"#,
        202,
    ),
    sent("remove no", "DELETE", "/system/functions", r#"{"functionName":"no"}"#, 404),
    sent("secret remove key", "DELETE", "/system/secrets", r#"{"name":"key"}"#, 202),
    sent("secret remove key -n dev", "DELETE", "/system/secrets", r#"{"name":"key","namespace":"dev"}"#, 202),
    sent(
        "namespace remove dev",
        "DELETE",
        "/system/namespace/dev",
        r#"{"name":"dev","labels":{"openfaas":"1"}}"#,
        202,
    ),
];

#[tokio::test]
async fn every_request_is_answered_as_faas_cli_expects() {
    let world = World::new().await;
    let mut command = "";
    for request in REQUESTS {
        if request.command != "-" {
            command = request.command;
        }
        let Sent { method, target, body, status, .. } = request;
        if command == "namespace remove dev" {
            // A person does not type faster than a function is gone.
            eventually!(
                world.get("/system/functions?namespace=dev").await.body == "[]",
                "env.dev never went"
            );
        }
        let answer = world.send(method, target, *body).await;
        assert_eq!(answer.status, *status, "{command}: {method} {target}: {}", answer.body);
        if command.starts_with("deploy") && *status == 202 {
            let namespace = if body.contains("dev") { "?namespace=dev" } else { "" };
            eventually!(
                world.get(&format!("/system/function/env{namespace}")).await.body.contains("\"ready\""),
                "{command}: never ready"
            );
        }
        if *status == 200 && *method == "GET" {
            understood(command, target, &answer.body);
        }
    }
}

/// faas-cli decodes answers into Go types: what it needs has the type that it expects.
fn understood(command: &str, target: &str, body: &str) {
    if target == "/healthz" || (target.starts_with("/system/logs") && body.is_empty()) {
        return;
    }
    let json: Value = serde_json::from_str(body.lines().next().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{command}: {error}: {body}"));
    let functions = match &json {
        Value::Array(items) if target.starts_with("/system/functions") => &items[..],
        status @ Value::Object(_) if target.starts_with("/system/function/") => std::slice::from_ref(status),
        _ => &[],
    };
    for status in functions {
        for name in ["name", "image", "namespace"] {
            assert!(
                status[name].as_str().is_some_and(|text| !text.is_empty()),
                "{command}: {name} in {status}"
            );
        }
        for name in ["invocationCount", "replicas", "availableReplicas"] {
            let number = &status[name];
            assert!(number.is_null() || number.is_u64(), "{command}: {name} in {status}");
        }
        assert_eq!(status["labels"]["faas_function"], status["name"], "{command}: {status}");
        let created: jiff::Timestamp =
            status["createdAt"].as_str().expect("a text").parse().expect("RFC 3339");
        assert!(created > jiff::Timestamp::UNIX_EPOCH);
        if target.contains("usage=1") {
            assert!(status["usage"]["cpu"].is_number(), "{command}: {status}");
            assert!(status["usage"]["totalMemoryBytes"].is_number(), "{command}: {status}");
        }
    }
    match target {
        "/system/namespaces" => assert_eq!(json, serde_json::json!(["openfaas-fn"])),
        "/system/namespace/dev" => assert_eq!(json["labels"], serde_json::json!({"a": "b", "openfaas": "1"})),
        "/system/secrets" => assert_eq!(json[0]["name"], "key"),
        "/system/info" => {
            for text in [&json["provider"]["version"]["sha"], &json["provider"]["version"]["release"]] {
                assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{json}");
            }
        }
        _ => {}
    }
}
