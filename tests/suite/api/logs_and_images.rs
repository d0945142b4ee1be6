//! Bodies that are long: output of functions, image archives.

use std::io::Write;

use axum::body::Body;
use http_body_util::BodyExt;

use super::world::World;

/// Writes to the standard output of the only replica there is, as its process would.
fn print(world: &World, text: &str) {
    let stdout = world.runtime.requests()[0].stdio.stdout.clone();
    let mut fifo = std::fs::OpenOptions::new().write(true).open(stdout).expect("a FIFO");
    fifo.write_all(text.as_bytes()).expect("written");
}

async fn lines(world: &World, query: &str) -> Vec<serde_json::Value> {
    let answer = world.get(&format!("/system/logs?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    answer.body.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

fn texts(lines: &[serde_json::Value]) -> Vec<&str> {
    lines.iter().map(|line| line["text"].as_str().expect("text")).collect()
}

#[tokio::test]
async fn output_is_served_as_lines() {
    let world = World::new().await;
    world.deploy("env").await;
    print(&world, "one\ntwo\nthree\n");
    eventually!(lines(&world, "name=env").await.len() == 3, "three lines never came");
    let all = lines(&world, "name=env&namespace=openfaas-fn&tail=-1&follow=false").await;
    assert_eq!(texts(&all), ["one", "two", "three"]);
    let fields: Vec<_> = all[0].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["instance", "name", "namespace", "text", "timestamp"]);
    assert_eq!((&all[0]["name"], &all[0]["namespace"]), (&"env".into(), &"openfaas-fn".into()));
    let replica = world.runtime.leftovers().remove(0).to_string();
    assert_eq!(all[0]["instance"], replica.as_str());

    assert_eq!(texts(&lines(&world, "name=env&tail=2").await), ["two", "three"]);
    assert_eq!(lines(&world, &format!("name=env&instance={replica}")).await.len(), 3);
    assert_eq!(lines(&world, "name=env&instance=another").await.len(), 0);
    assert_eq!(lines(&world, "name=env&since=2020-01-01T00:00:00Z").await.len(), 3);
    assert_eq!(lines(&world, "name=env&since=2999-01-01T00:00:00%2B01:00").await.len(), 0);
}

#[tokio::test]
async fn output_is_followed_line_by_line() {
    let world = World::new().await;
    world.deploy("env").await;
    print(&world, "one\n");
    eventually!(lines(&world, "name=env").await.len() == 1, "the line never came");
    let mut body = world.open("GET", "/system/logs?name=env&follow=1", "").await.into_body();
    let next = async |body: &mut Body| {
        let frame = body.frame().await.expect("not the end").expect("no error");
        let line: serde_json::Value =
            serde_json::from_slice(&frame.into_data().expect("data")).expect("one line");
        line["text"].as_str().expect("text").to_owned()
    };
    assert_eq!(next(&mut body).await, "one");
    print(&world, "two\n");
    assert_eq!(next(&mut body).await, "two");
    world.change("DELETE", "/system/functions", r#"{"functionName":"env"}"#, 202).await;
    assert!(body.frame().await.is_none(), "the stream goes on after the function is gone");
}

#[tokio::test]
async fn a_wrong_query_is_refused() {
    let world = World::new().await;
    world.deploy("env").await;
    for (query, text) in [
        ("", "name: is missing; name a function"),
        ("name=", "name: is missing; name a function"),
        ("name=a/b", "service: \"a/b\" contains '/'; use letters, digits, '-', '_' and '.'"),
        ("name=env&tail=many", "tail: \"many\" is not a number of lines; 0 is all of them"),
        (
            "name=env&since=yesterday",
            "since: \"yesterday\" is not a time in RFC 3339, such as 2026-01-31T08:00:00Z",
        ),
        ("name=env&follow=please", "follow: \"please\" is neither true nor false"),
    ] {
        world.refused("GET", &format!("/system/logs?{query}"), "", 422, text).await;
    }
    let gone = "function nope.openfaas-fn was not found: see 'ingle list'";
    world.refused("GET", "/system/logs?name=nope", "", 404, gone).await;
    let gone = "function env.dev was not found: see 'ingle list -n dev'";
    world.refused("GET", "/system/logs?name=env&namespace=dev", "", 404, gone).await;
}

#[tokio::test]
async fn an_archive_is_taken_in_and_leaves_no_file() {
    let world = World::new().await;
    assert_eq!(world.get("/system/images").await.body, "[]");
    let answer = world.send("POST", "/system/images", vec![0; 1 << 22]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let listed = world.get("/system/images").await.body;
    assert_eq!(answer.body, format!("{{\"images\":{listed}}}"));
    let images: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("json");
    let fields: Vec<_> = images[0].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["createdAt", "digest", "name", "platform", "size"]);

    let half = futures_util::stream::iter([Ok("half"), Err(std::io::Error::other("gone"))]);
    let answer = world.send("POST", "/system/images", Body::from_stream(half)).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "the body could not be read to its end: gone\n"));
    let empty = "the body is empty: send an archive (tar)";
    world.refused("POST", "/system/images", "", 400, empty).await;
    let archives = world.state_dir().join("archives");
    assert_eq!(std::fs::read_dir(archives).expect("a directory").count(), 0);
}

#[tokio::test]
async fn one_archive_is_taken_in_at_a_time() {
    let world = World::new().await;
    let archives = world.state_dir().join("archives");
    let silent = Body::from_stream(futures_util::stream::pending::<std::io::Result<&'static str>>());
    let (first, second) = (world.open("POST", "/system/images", silent), async {
        eventually!(std::fs::read_dir(&archives).is_ok_and(|files| files.count() == 1), "nothing began");
        world.send("POST", "/system/images", "tar").await
    });
    let second = tokio::select! {
        _ = first => panic!("an archive without an end was taken in"),
        second = second => second,
    };
    assert_eq!(second.status, 503);
    assert_eq!(second.headers["retry-after"], "5");
    // The first client is gone, and with it its archive.
    let kept = || std::fs::read_dir(&archives).expect("a directory").count();
    eventually!(kept() == 0, "archives are kept: {}", kept());
    assert_eq!(world.send("POST", "/system/images", "tar").await.status, 200);
}
