//! Secrets and namespaces, as clients see them.

use super::world::World;

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out() {
    let world = World::new().await;
    let (path, file) = ("/system/secrets", world.state_dir().join("function-secrets/openfaas-fn/key"));
    assert_eq!(world.get(path).await.body, "[]");
    world.change("POST", path, r#"{"name":"key","namespace":"openfaas-fn","value":"one"}"#, 201).await;
    let exists =
        "secret key exists already in namespace openfaas-fn: change it with 'ingle secret update key'";
    world.refused("POST", path, r#"{"name":"key","value":"x"}"#, 409, exists).await;
    assert_eq!(world.get(path).await.body, r#"[{"name":"key","namespace":"openfaas-fn"}]"#);
    assert_eq!(std::fs::read_to_string(&file).expect("a value"), "one");

    world.change("PUT", path, r#"{"name":"key","rawValue":"AAH/"}"#, 200).await;
    assert_eq!(std::fs::read(&file).expect("a value"), [0, 1, 0xff]);

    world.change("DELETE", path, r#"{"name":"key"}"#, 202).await;
    let gone = "secret key was not found in namespace openfaas-fn: see 'ingle secret list', or create it with \
                'ingle secret create key'";
    world.refused("DELETE", path, r#"{"name":"key"}"#, 404, gone).await;
    world.refused("PUT", path, r#"{"name":"key","value":"x"}"#, 404, gone).await;
    assert_eq!(world.get(path).await.body, "[]");
    assert!(!file.exists());
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let world = World::new().await;
    let path = "/system/secrets";
    for (body, status, text) in [
        (
            r#"{"name":"../../etc/shadow","value":"x"}"#,
            400,
            "secret: \"../../etc/shadow\" contains '/'; use letters, digits, '-', '_' and '.'",
        ),
        (r#"{"name":"a..b","value":"x"}"#, 400, "secret: \"a..b\" contains \"..\""),
        (r#"{"name":"key"}"#, 400, "value: is empty; give a value, or a rawValue in base64"),
        (
            r#"{"name":"key","namespace":"dev","value":"x"}"#,
            404,
            "namespace dev was not found: create it with 'ingle namespace create dev'",
        ),
        (
            r#"{"name":"key","value":1}"#,
            400,
            "the body is not the JSON that is expected here: invalid type: integer `1`, expected a string at line 1 column 23",
        ),
    ] {
        world.refused("POST", path, body, status, text).await;
        let answer = world.send("PUT", path, body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let value = "x".repeat((1 << 20) + 1);
    let body = format!(r#"{{"name":"key","value":"{value}"}}"#);
    world.refused("POST", path, &body, 413, "secret key is larger than 1048576 bytes").await;
    let text = "the body is larger than the 2097152 bytes that are taken here";
    world.refused("POST", path, &format!("{body}{value}"), 413, text).await;
    assert_eq!(world.get(path).await.body, "[]");
    let path = "/system/secrets/export";
    let text = "key: is not 16 bytes in base64 without padding";
    for key in ["", "c2hvcnQ", "AAAAAAAAAAAAAAAAAAAAAA=="] {
        world.refused("POST", path, &format!(r#"{{"key":"{key}"}}"#), 400, text).await;
    }
    let key = r#"{"key":"AAAAAAAAAAAAAAAAAAAAAA"}"#;
    let text = "namespace dev was not found: create it with 'ingle namespace create dev'";
    world.refused("POST", &format!("{path}?namespace=dev"), key, 404, text).await;
    for name in 0..17 {
        let value = "x".repeat(1 << 20);
        let body = format!(r#"{{"name":"large{name}","value":"{value}"}}"#);
        assert_eq!(world.send("POST", "/system/secrets", body).await.status, 201);
    }
    let text = "the secrets have more than 16777216 bytes together: export one namespace after the other";
    world.refused("POST", path, key, 413, text).await;
}

#[tokio::test]
async fn a_secret_that_a_function_needs_is_kept() {
    let world = World::new().await;
    world.change("POST", "/system/secrets", r#"{"name":"key","value":"one"}"#, 201).await;
    let deploy = r#"{"service":"env","image":"you/env:1","secrets":["key"]}"#;
    world.change("POST", "/system/functions", deploy, 202).await;
    world.ready("env").await;
    let mounts = &world.runtime.requests()[0].mounts;
    assert!(
        mounts.iter().any(|mount| mount.target.ends_with("openfaas/secrets/key")
            && std::fs::read_to_string(&mount.source).is_ok_and(|value| value == "one")),
        "{mounts:?}"
    );
    let text = "secret key is used by env: remove them first, or deploy them without it";
    world.refused("DELETE", "/system/secrets", r#"{"name":"key"}"#, 409, text).await;
    world.change("DELETE", "/system/functions", r#"{"functionName":"env"}"#, 202).await;
    world.change("DELETE", "/system/secrets", r#"{"name":"key"}"#, 202).await;
}

#[tokio::test]
async fn a_namespace_is_made_changed_and_deleted() {
    let world = World::new().await;
    let marked = r#"{"name":"openfaas-fn","labels":{"openfaas":"1"}}"#;
    assert_eq!(world.get("/system/namespace/openfaas-fn").await.body, marked);
    world.change("POST", "/system/namespace/", r#"{"name":"dev","annotations":{"a":"b"}}"#, 201).await;
    world.change("POST", "/system/namespace/a", r#"{"name":"a"}"#, 201).await;
    assert_eq!(world.get("/system/namespaces").await.body, r#"["a","dev","openfaas-fn"]"#);
    let dev = r#"{"name":"dev","annotations":{"a":"b"},"labels":{"openfaas":"1"}}"#;
    assert_eq!(world.get("/system/namespace/dev").await.body, dev);
    world.refused("POST", "/system/namespace/dev", "", 409, "namespace dev exists already").await;
    world.change("PUT", "/system/namespace/dev", r#"{"name":"dev","labels":{"x":"y"}}"#, 202).await;
    let changed = r#"{"name":"dev","labels":{"openfaas":"1","x":"y"}}"#;
    assert_eq!(world.get("/system/namespace/dev").await.body, changed);
    world.change("DELETE", "/system/namespace/dev", "", 202).await;
    world.change("DELETE", "/system/namespace/", r#"{"name":"a"}"#, 202).await;
    assert_eq!(world.get("/system/namespaces").await.body, r#"["openfaas-fn"]"#);
    let gone = "namespace dev was not found: create it with 'ingle namespace create dev'";
    for method in ["GET", "PUT", "DELETE"] {
        world.refused(method, "/system/namespace/dev", "", 404, gone).await;
    }
}

#[tokio::test]
async fn a_namespace_that_holds_something_is_kept() {
    let world = World::new().await;
    world.change("POST", "/system/namespace/dev", "", 201).await;
    world.change("POST", "/system/secrets", r#"{"name":"key","namespace":"dev","value":"x"}"#, 201).await;
    let text = "namespace dev cannot be deleted: it has secrets (key); delete them first";
    world.refused("DELETE", "/system/namespace/dev", "", 409, text).await;
    world.change("DELETE", "/system/secrets", r#"{"name":"key","namespace":"dev"}"#, 202).await;
    let deploy = r#"{"service":"env","image":"you/env:1","namespace":"dev"}"#;
    world.change("POST", "/system/functions", deploy, 202).await;
    let answer = world.send("DELETE", "/system/namespace/dev", "").await;
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(answer.body.contains("env"), "{}", answer.body);
    world.change("DELETE", "/system/functions?namespace=dev", r#"{"functionName":"env"}"#, 202).await;
    world.change("DELETE", "/system/namespace/dev", "", 202).await;
    assert!(!world.state_dir().join("function-secrets/dev").exists());
    let answer = world.send("DELETE", "/system/namespace/openfaas-fn", "").await;
    assert_eq!(answer.status, 409, "{}", answer.body);
}

#[tokio::test]
async fn a_wrong_namespace_is_refused() {
    let world = World::new().await;
    for (path, body, text) in [
        ("/system/namespace/", "", "namespace: is empty; give a name"),
        ("/system/namespace/a..b", "", "namespace: \"a..b\" contains \"..\""),
        (
            "/system/namespace/a%2Fb",
            "",
            "namespace: \"a/b\" contains '/'; use letters, digits, '-', '_' and '.'",
        ),
        (
            "/system/namespace/a",
            r#"{"name":"b"}"#,
            "name: is \"a\" in the path and \"b\" in the body; send one of them",
        ),
        (
            "/system/namespace/a",
            "{",
            "the body is not the JSON that is expected here: EOF while parsing an object at line 1 column 1",
        ),
    ] {
        for method in ["POST", "PUT", "DELETE"] {
            world.refused(method, path, body, 400, text).await;
        }
    }
}
