//! Deploy, list, describe, update, scale, remove; and all that is wrong with a deploy.

use super::world::World;

/// As faas-cli sends it.
const DEPLOY: &str = r#"{"service":"env","image":"you/env:1","network":"","envProcess":"cat","envVars":{"A":"b"},
    "constraints":null,"registryAuth":"","secrets":[],"labels":{},"annotations":{"topic":"x"},
    "limits":{"memory":"5Mi"},"requests":null,"readOnlyRootFilesystem":false}"#;

#[tokio::test]
async fn a_function_is_deployed_described_and_removed() {
    let world = World::new().await;
    let answer = world.send("POST", "/system/functions", DEPLOY).await;
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    assert_eq!(answer.headers["x-revision"], "1");
    world.ready("env").await;
    eventually!(world.describe("env").await.get("revisions").is_some(), "it is not kept");

    let one = world.get("/system/function/env").await;
    assert_eq!(one.headers["content-type"], "application/json");
    let status: serde_json::Value = serde_json::from_str(&one.body).expect("json");
    let text = |field: &str| status[field].as_str().expect(field).to_owned();
    let expected = format!(
        r#"{{"name":"env","image":"you/env:1","namespace":"openfaas-fn","envProcess":"cat","envVars":{{"A":"b"}},"secrets":[],"labels":{{"faas_function":"env"}},"annotations":{{"topic":"x"}},"limits":{{"memory":"5Mi"}},"replicas":1,"availableReplicas":1,"createdAt":"{}","phase":"ready","imageDigest":"{}","revision":1}}"#,
        text("createdAt"),
        text("imageDigest"),
    );
    let described = format!(
        r#"{},"revisions":[{{"revision":1,"image":"you/env:1","imageDigest":"{}","createdAt":"{}"}}]}}"#,
        expected.trim_end_matches('}'),
        text("imageDigest"),
        text("createdAt"),
    );
    assert_eq!(one.body, described);
    assert!(text("createdAt").parse::<jiff::Timestamp>().is_ok());
    assert_eq!(world.get("/system/functions").await.body, format!("[{expected}]"));
    assert_eq!(world.get("/system/functions?namespace=openfaas-fn").await.body, format!("[{expected}]"));
    // The name as in the URL of a call.
    assert_eq!(world.get("/system/function/env.openfaas-fn").await.body, described);
    assert_eq!(world.get("/system/function/env?namespace=openfaas-fn&usage=0").await.body, described);

    world.change("DELETE", "/system/functions", r#"{"functionName":"env"}"#, 202).await;
    let gone = "function env.openfaas-fn was not found: see 'ingle list'";
    world.refused("GET", "/system/function/env", "", 404, gone).await;
    world.refused("DELETE", "/system/functions", r#"{"functionName":"env"}"#, 404, gone).await;
    assert_eq!(world.get("/system/functions").await.body, "[]");
    eventually!(world.runtime.leftovers().is_empty(), "the container was not removed");
}

#[tokio::test]
async fn usage_is_measured_when_asked_for() {
    let world = World::new().await;
    world.deploy("env").await;
    assert_eq!(world.describe("env").await.get("usage"), None);
    for switch in ["1", "true"] {
        let status = world.describe(&format!("env?usage={switch}")).await;
        assert_eq!(status["usage"]["totalMemoryBytes"], 1_048_576.0);
        assert!(status["usage"]["cpu"].is_number(), "{status}");
    }
    let text = "usage: \"maybe\" is neither true nor false";
    world.refused("GET", "/system/function/env?usage=maybe", "", 400, text).await;
}

#[tokio::test]
async fn an_update_needs_a_function_that_is_there() {
    let world = World::new().await;
    let gone = "function env.openfaas-fn was not found: see 'ingle list'";
    world.refused("PUT", "/system/functions", DEPLOY, 404, gone).await;
    world.deploy("env").await;
    let answer = world.send("PUT", "/system/functions", DEPLOY.replace("env:1", "env:2")).await;
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    assert_eq!(answer.headers["x-revision"], "2");
    eventually!(world.describe("env").await["image"] == "you/env:2", "the update never served");
}

#[tokio::test]
async fn a_function_goes_back_to_an_earlier_revision() {
    let world = World::new().await;
    let path = "/system/function/env/rollback";
    let gone = "function env.openfaas-fn was not found: see 'ingle list'";
    world.refused("POST", path, "", 404, gone).await;
    world.deploy("env").await;
    let none = "function env.openfaas-fn is at revision 1, and none that served before it is kept: \
        there is nothing to go back to";
    world.refused("POST", path, "", 409, none).await;
    world.change("PUT", "/system/functions", &DEPLOY.replace("env:1", "env:2"), 202).await;
    let kept = async || world.describe("env").await["revisions"].as_array().map_or(0, Vec::len);
    eventually!(kept().await == 2, "the update never served");
    let at = "function env.openfaas-fn is at revision 2 already";
    world.refused("POST", path, r#"{"revision":2}"#, 409, at).await;
    let unknown = "function env.openfaas-fn has no revision 7 to go back to: it never served, or is not kept \
        any more; kept are 1, 2";
    world.refused("POST", path, r#"{"revision":7}"#, 404, unknown).await;
    let text = "the body is not the JSON that is expected here: invalid value: integer `-1`, expected u64 at \
        line 1 column 14";
    world.refused("POST", path, r#"{"revision":-1}"#, 400, text).await;
    for (body, number, image) in [("", "3", "you/env:1"), (r#"{"revision":2}"#, "4", "you/env:2")] {
        let answer = world.send("POST", &format!("{path}?namespace=openfaas-fn"), body).await;
        assert_eq!((answer.status, answer.body.as_str()), (202, ""));
        assert_eq!(answer.headers["x-revision"], number);
        let found = async || world.describe("env").await["revision"].to_string();
        eventually!(found().await == number, "it never served");
        assert_eq!(world.describe("env").await["image"], image);
    }
    // What it asks for may be gone by now.
    world.change("POST", "/system/secrets", r#"{"name":"key","value":"x"}"#, 201).await;
    let secret = DEPLOY.replace(r#""secrets":[]"#, r#""secrets":["key"]"#);
    world.change("PUT", "/system/functions", &secret, 202).await;
    eventually!(world.describe("env").await["revision"] == 5, "it never served");
    eventually!(kept().await == 5, "it is not kept");
    world.change("PUT", "/system/functions", DEPLOY, 202).await;
    eventually!(world.describe("env").await["revision"] == 6, "it never served");
    world.change("DELETE", "/system/secrets", r#"{"name":"key"}"#, 202).await;
    let text = "secret key was not found in namespace openfaas-fn: create it with 'ingle secret create key'";
    world.refused("POST", path, r#"{"revision":5}"#, 400, text).await;
}

#[tokio::test]
async fn a_function_is_scaled() {
    let world = World::new().await;
    world.deploy("env").await;
    let path = "/system/scale-function/env";
    world.change("POST", path, r#"{"serviceName":"env","replicas":2}"#, 202).await;
    eventually!(world.describe("env").await["availableReplicas"] == 2, "there were never two");
    world.change("POST", path, r#"{"replicas":0}"#, 202).await;
    eventually!(world.describe("env").await.get("replicas").is_none(), "it was never stopped");
    let gone = "function nope.openfaas-fn was not found: see 'ingle list'";
    world.refused("POST", "/system/scale-function/nope", r#"{"replicas":1}"#, 404, gone).await;
    for (body, reason) in [
        (r#"{"replicas":-1}"#, "invalid value: integer `-1`, expected u32 at line 1 column 14"),
        (r#"{"replicas":1.5}"#, "invalid type: floating point `1.5`, expected u32 at line 1 column 15"),
        ("{}", "missing field `replicas` at line 1 column 2"),
    ] {
        let text = format!("the body is not the JSON that is expected here: {reason}");
        world.refused("POST", path, body, 400, &text).await;
    }
}

#[tokio::test]
async fn the_namespace_stands_in_the_body_or_in_the_query() {
    let world = World::new().await;
    world.change("POST", "/system/namespace/dev", "", 201).await;
    let deploy = |name: &str| format!(r#"{{"service":"{name}","image":"you/env:1"}}"#);
    world.change("POST", "/system/functions?namespace=dev", &deploy("query"), 202).await;
    let in_body = r#"{"service":"body","image":"you/env:1","namespace":"dev"}"#;
    world.change("POST", "/system/functions", in_body, 202).await;
    world.change("PUT", "/system/functions?namespace=dev", in_body, 202).await;
    let both = "namespace: is \"dev\" in the body and \"prod\" in the query; send one of them";
    world.refused("POST", "/system/functions?namespace=prod", in_body, 400, both).await;
    assert_eq!(world.get("/system/functions").await.body, "[]");
    let listed = world.get("/system/functions?namespace=dev").await.body;
    assert!(listed.contains(r#""name":"body""#) && listed.contains(r#""name":"query""#), "{listed}");
    assert_eq!(world.describe("query.dev").await["namespace"], "dev");
    assert_eq!(world.describe("body?namespace=dev").await["namespace"], "dev");
    world.change("DELETE", "/system/functions?namespace=dev", r#"{"functionName":"query"}"#, 202).await;
    let delete = r#"{"functionName":"body","namespace":"dev"}"#;
    world.change("DELETE", "/system/functions", delete, 202).await;
    assert_eq!(world.get("/system/functions?namespace=dev").await.body, "[]");
}

#[tokio::test]
async fn a_wrong_deploy_is_refused_at_once_and_leaves_nothing() {
    let world = World::new().await;
    for (body, status, text) in [
        (
            r#"{"service":"a/../b","image":"x"}"#,
            400,
            "service: \"a/../b\" contains '/'; use letters, digits, '-', '_' and '.'",
        ),
        (r#"{"service":"a..b","image":"x"}"#, 400, "service: \"a..b\" contains \"..\""),
        (r#"{"service":"","image":"x"}"#, 400, "service: is empty; give a name"),
        (
            r#"{"service":"a","image":""}"#,
            400,
            "image: is empty; give an image such as ghcr.io/you/hello:1.0",
        ),
        (
            r#"{"service":"a","image":"x","limits":{"memory":"lots"}}"#,
            400,
            "limits.memory: \"lots\" is not an amount of memory: write bytes, or a number with Ki, Mi, Gi, k, M or G, as in 128Mi",
        ),
        (
            r#"{"service":"a","image":"x","requests":{"cpu":"-1"}}"#,
            400,
            "requests.cpu: \"-1\" is negative: write cores (0.5) or thousandths (500m); 0 sets nothing",
        ),
        (
            r#"{"service":"a","image":"x","labels":{"faas_function":"b"}}"#,
            400,
            "labels.faas_function: is \"b\", but it always holds the function's own name; leave it out",
        ),
        (
            r#"{"service":"a","image":"x","labels":{"ingle.port":"1"},"annotations":{"ingle.port":"2"}}"#,
            400,
            "labels.ingle.port: is \"1\", but the annotation of that name is \"2\"; keep one of them",
        ),
        (
            r#"{"service":"a","image":"x","annotations":{"ingle.tiemout":"9s"}}"#,
            400,
            "annotations.ingle.tiemout: is not a setting; there are ingle.32bit, ingle.body-limit, \
             ingle.capabilities, ingle.cron-jitter, ingle.cron-missed, ingle.cron-overlap, ingle.handler, ingle.parallel-calls, ingle.pids, ingle.port, ingle.pull-policy, ingle.timeout",
        ),
        (
            r#"{"service":"a","image":"x","secrets":["key"]}"#,
            400,
            "secret key was not found in namespace openfaas-fn: create it with 'ingle secret create key'",
        ),
        (
            r#"{"service":"a","image":"x","namespace":"dev"}"#,
            404,
            "namespace dev was not found: create it with 'ingle namespace create dev'",
        ),
        (
            r#"{"service":"a","image":"x","namespace":".."}"#,
            400,
            "namespace: \"..\" must begin and end with a letter or digit",
        ),
        (
            r#"{"service":"a","image":"you/missing:1"}"#,
            400,
            "image you/missing:1 was not found at docker.io: check the name and the tag",
        ),
        (
            r#"{"service":"a","image":"you/private"}"#,
            400,
            "docker.io refused access to image you/private: check the name, or log in with 'docker login docker.io', or put the credentials into /root/.docker/config.json",
        ),
        (
            r#"{"service":"a","image":"you/unreachable"}"#,
            502,
            "registry docker.io could not be reached for image you/unreachable: connection refused",
        ),
        (
            r#"{"service":"a","image":"you/arm-only"}"#,
            400,
            "image you/arm-only is for linux/arm64, this machine is linux/amd64: build it for linux/amd64",
        ),
        (
            r#"{"service":"a","image":"you/no-command"}"#,
            400,
            "image you/no-command has no entrypoint and no command: set one in the image, or give envProcess",
        ),
        (
            r#"{"service":"a","image":"x","annotations":{"ingle.pull-policy":"Never"}}"#,
            400,
            "image x is not on this machine and its pull policy is Never: run 'ingle image load'",
        ),
        (
            r#"{"service":"a"}"#,
            400,
            "the body is not the JSON that is expected here: missing field `image` at line 1 column 15",
        ),
        (
            r#"{"service":"a","image":["x"]}"#,
            400,
            "the body is not the JSON that is expected here: invalid type: sequence, expected a string at line 1 column 23",
        ),
    ] {
        world.refused("POST", "/system/functions", body, status, text).await;
    }
    let large = format!(r#"{{"service":"a","image":"x","envProcess":"{}"}}"#, "x".repeat(1 << 20));
    let text = "the body is larger than the 1048576 bytes that are taken here";
    world.refused("POST", "/system/functions", &large, 413, text).await;
    assert_eq!(world.get("/system/functions").await.body, "[]");
    assert_eq!(world.runtime.leftovers(), []);
}

#[tokio::test]
async fn lists_of_unknown_namespaces_are_refused() {
    let world = World::new().await;
    let text = "namespace dev was not found: create it with 'ingle namespace create dev'";
    for path in ["/system/functions?namespace=dev", "/system/secrets?namespace=dev"] {
        world.refused("GET", path, "", 404, text).await;
    }
}
