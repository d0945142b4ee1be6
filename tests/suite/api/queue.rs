//! Queues, and calls that were given up.

use calls::queue::JobMetadata;
use model::function::FunctionKey;
use serde_json::{Value, json};

use super::world::World;

impl World {
    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).expect("json")
    }

    /// Queues a call of a function that is not there, which is given up at once.
    pub(super) async fn give_up(&self, function: &str, call_id: &str) {
        let before = self.json("/system/dead").await.as_array().expect("a list").len();
        let key = FunctionKey::parse(function).expect("a name");
        let facts = JobMetadata::new(key, call_id.to_owned(), "POST".to_owned(), "/a?b=c");
        let mut draft = self.queue.draft(&facts, Vec::new(), Some(2)).expect("room");
        draft.push(b"hi").await.expect("taken in");
        self.queue.accept(facts, draft).await.expect("accepted");
        eventually!(
            self.json("/system/dead").await.as_array().expect("a list").len() == before + 1,
            "it is not given up"
        );
    }
}

#[tokio::test]
async fn a_queue_is_paused_and_goes_on() {
    let world = World::new().await;
    assert_eq!(world.json("/system/queues").await, json!([]));
    world.change("PUT", "/system/queues/slow", r#"{"paused":true}"#, 200).await;
    let queue = json!([{ "name": "slow", "paused": true, "ready": 0, "waiting": 0, "running": 0 }]);
    assert_eq!(world.json("/system/queues").await, queue);
    world.change("PUT", "/system/queues/slow", r#"{"paused":false}"#, 200).await;
    assert_eq!(world.json("/system/queues").await[0]["paused"], false);
    for (path, body, text) in [
        ("/system/queues/a%20b", r#"{"paused":true}"#, "is not the name of a queue"),
        ("/system/queues/a", r#"{"paused":"yes"}"#, "expected a boolean"),
        ("/system/queues/a", "", "body"),
    ] {
        let answer = world.send("PUT", path, body.to_owned()).await;
        assert!(answer.status == 400 && answer.body.contains(text), "{path} {body}: {}", answer.body);
    }
    assert_eq!(
        world.json("/system/queues").await.as_array().expect("a list").len(),
        1,
        "nothing was changed"
    );
}

#[tokio::test]
async fn calls_that_were_given_up_are_listed_shown_replayed_and_thrown_away() {
    let world = World::new().await;
    assert_eq!(world.json("/system/dead").await, json!([]));
    for (function, id) in [("gone", "one"), ("gone", "two"), ("lost.dev", "three")] {
        world.give_up(function, id).await;
    }
    let all = world.json("/system/dead").await;
    let ids: Vec<_> = all.as_array().expect("a list").iter().map(|call| call["callId"].as_str()).collect();
    assert_eq!(ids, [Some("three"), Some("two"), Some("one")], "newest first");
    let of = async |query: &str| world.json(&format!("/system/dead?{query}")).await;
    assert_eq!(of("function=gone&limit=1").await, json!([all[1]]));
    assert_eq!(of("function=lost&namespace=dev").await, json!([all[0]]));
    assert_eq!(of("function=lost").await, json!([]));
    // As in the URL of a call, and as lists show it.
    assert_eq!(of("function=lost.dev").await, json!([all[0]]));
    assert_eq!(of("function=gone.openfaas-fn&limit=1").await, json!([all[1]]));
    assert_eq!(of("function=lost.dev&namespace=openfaas-fn").await, json!([]));
    let number = all[0]["number"].as_u64().expect("a number");
    let shown = world.json(&format!("/system/dead/{number}")).await;
    assert_eq!(shown, all[0]);
    assert_eq!(
        (&shown["name"], &shown["namespace"], &shown["method"], &shown["path"], &shown["size"]),
        (&json!("lost"), &json!("dev"), &json!("POST"), &json!("/a?b=c"), &json!(2))
    );
    assert_eq!(shown["tries"][0]["reason"], "there is no function lost.dev any more");

    // Still not there: it is given up once more, under another number.
    let answer = world.send("POST", &format!("/system/dead/{number}/replay"), "").await;
    let replayed: Value = serde_json::from_str(&answer.body).expect("json");
    assert_eq!((answer.status, &replayed["callId"]), (202, &json!("three")));
    assert!(replayed["number"].as_u64() > Some(number), "{replayed}");
    eventually!(
        world.json("/system/dead").await.as_array().expect("a list").len() == 3,
        "it is not given up again"
    );
    world
        .refused(
            "GET",
            &format!("/system/dead/{number}"),
            "",
            404,
            &format!("no call {number} was given up: see 'ingle queue dead'"),
        )
        .await;
    let newest = world.json("/system/dead?limit=1").await[0].clone();
    assert_eq!(newest["number"], replayed["number"]);
    assert_eq!((&newest["callId"], newest["tries"].as_array().map(Vec::len)), (&json!("three"), Some(1)));
    let answer = world.send("POST", "/system/dead/replay?function=gone.openfaas-fn", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (202, r#"{"count":2}"#));
    eventually!(
        world.json("/system/dead").await.as_array().expect("a list").len() == 3,
        "they are not given up again"
    );

    world.change("DELETE", &format!("/system/dead/{}", newest["number"]), "", 202).await;
    world.give_up("other.dev", "four").await;
    assert_eq!(of("namespace=dev").await.as_array().map(Vec::len), Some(1));
    for (path, count) in [("/system/dead?namespace=dev", 1), ("/system/dead", 2)] {
        let answer = world.send("DELETE", path, "").await;
        assert_eq!((answer.status, answer.body), (202, format!("{{\"count\":{count}}}")), "{path}");
    }
    assert_eq!(world.json("/system/dead").await, json!([]));
    for (method, path, status) in [
        ("GET", "/system/dead/x", 400),
        ("GET", "/system/dead?limit=0", 400),
        ("GET", "/system/dead?function=../x", 400),
        ("DELETE", "/system/dead?fuction=gone", 400),
        ("DELETE", "/system/dead?function=", 400),
        ("POST", "/system/dead/replay?namespace=", 400),
        ("POST", "/system/dead/replay?limit=1", 400),
        ("DELETE", "/system/dead/1", 404),
        ("POST", "/system/dead/1/replay", 404),
    ] {
        assert_eq!(world.send(method, path, "").await.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn calls_are_listed_shown_and_cancelled() {
    let world = World::new().await;
    assert_eq!(world.json("/system/calls").await, json!([]));
    world.give_up("gone", "one/of us").await;
    world.change("PUT", "/system/queues/default", r#"{"paused":true}"#, 200).await;
    let facts =
        JobMetadata::new(FunctionKey::parse("gone.dev").expect("a name"), "two".into(), "GET".into(), "/");
    let draft = world.queue.draft(&facts, Vec::new(), None).expect("room");
    world.queue.accept(facts, draft).await.expect("accepted");
    let all = world.json("/system/calls").await;
    let found: Vec<_> =
        all.as_array().expect("a list").iter().map(|call| (&call["callId"], &call["status"])).collect();
    assert_eq!(found, [(&json!("two"), &json!("queued")), (&json!("one/of us"), &json!("failed"))]);
    let of = async |query: &str| world.json(&format!("/system/calls?{query}")).await;
    assert_eq!(of("limit=1").await, json!([all[0]]));
    assert_eq!(of("status=failed").await, json!([all[1]]));
    assert_eq!(of("function=gone").await, json!([all[1]]));
    assert_eq!(of("function=gone&namespace=dev").await, json!([all[0]]));
    assert_eq!(of("function=gone.dev").await, json!([all[0]]));
    // Whatever an id is, it is found.
    let shown = world.json("/system/calls/one%2Fof%20us").await;
    assert_eq!(shown, all[1]);
    for (field, value) in [
        ("name", json!("gone")),
        ("namespace", json!("openfaas-fn")),
        ("method", json!("POST")),
        ("path", json!("/a?b=c")),
        ("sent", json!(2)),
        ("tries", json!(1)),
        ("code", json!(404)),
        ("reason", json!("there is no function gone.openfaas-fn any more")),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    world
        .refused(
            "GET",
            "/system/calls/two/answer",
            "",
            404,
            "no answer of call two is kept, which is queued: send X-Keep-Result with a call",
        )
        .await;
    world.change("DELETE", "/system/calls/two", "", 202).await;
    assert_eq!(world.json("/system/calls/two").await["status"], "cancelled");
    world.refused("DELETE", "/system/calls/two", "", 409, "call two has ended: it is cancelled").await;
    for (method, path, status) in [
        ("GET", "/system/calls/three", 404),
        ("GET", "/system/calls/three/answer", 404),
        ("DELETE", "/system/calls/three", 404),
        ("GET", "/system/calls?status=lost", 400),
        ("GET", "/system/calls?limit=1001", 400),
        ("GET", "/system/calls?state=done", 400),
    ] {
        assert_eq!(world.send(method, path, "").await.status, status, "{method} {path}");
    }
}
