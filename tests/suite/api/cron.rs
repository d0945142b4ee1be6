//! Functions that are called by a schedule.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::world::World;

impl World {
    async fn timers(&self, query: &str) -> Value {
        let answer = self.get(&format!("/system/cron{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("json")
    }
}

fn deployment(name: &str, annotations: Value) -> String {
    json!({ "service": name, "image": "you/env:1", "annotations": annotations }).to_string()
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_said_and_nothing_is_changed() {
    let world = World::new().await;
    let topic = |more: Value| {
        let mut annotations = json!({ "topic": "cron-function" });
        for (key, value) in more.as_object().expect("pairs") {
            annotations[key] = value.clone();
        }
        annotations
    };
    world
        .change("POST", "/system/functions", &deployment("env", topic(json!({ "schedule": "@daily" }))), 202)
        .await;
    world.ready("env").await;
    for (annotations, text) in [
        (
            topic(json!({ "schedule": "0 25 * * *" })),
            "annotations.schedule: in \"0 25 * * *\" the hour \"25\" is not allowed: 0 to 23 is, with lists (1,2), \
             ranges (1-5) and steps (*/2)",
        ),
        (
            topic(json!({ "schedule": "@daily; 0 0 30 2 *" })),
            "annotations.schedule: in \"0 0 30 2 *\" no month that is meant has the day 30: it would never be due",
        ),
        (
            topic(json!({ "schedule": "TZ=Mars/Olympus @daily" })),
            "annotations.schedule: the time zone \"Mars/Olympus\" is not known on this machine: write a name as in \
             Europe/Berlin, and see that the package tzdata is installed",
        ),
        (
            topic(json!({})),
            "annotations.topic: is cron-function, but there is no schedule: add the annotation schedule, as in \"0 6 * * *\"",
        ),
        (
            json!({ "schedule": "@daily" }),
            "annotations.schedule: does nothing alone: add the annotation topic: cron-function, or leave it out",
        ),
        (
            json!({ "ingle.cron-missed": "once" }),
            "annotations.ingle.cron-missed: does nothing without a schedule: add the annotations topic: cron-function and \
             schedule",
        ),
        (
            topic(json!({ "schedule": "@daily", "ingle.cron-overlap": "forbid" })),
            "annotations.ingle.cron-overlap: \"forbid\" is none of allow, skip, queue",
        ),
        (
            topic(json!({ "schedule": "@daily", "ingle.cron-missed": "all" })),
            "annotations.ingle.cron-missed: \"all\" is none of skip, once",
        ),
        (
            topic(json!({ "schedule": "@daily", "ingle.cron-jitter": "2d" })),
            "annotations.ingle.cron-jitter: \"2d\" is not a duration: write seconds (30) or parts such as 1m30s, 250ms",
        ),
        (
            topic(json!({ "schedule": "@daily", "ingle.cron-jitter": "25h" })),
            "annotations.ingle.cron-jitter: \"25h\" is more than 24h, over which runs are spread at most",
        ),
    ] {
        for (method, name) in [("POST", "other"), ("PUT", "env")] {
            let body = deployment(name, annotations.clone());
            world.refused(method, "/system/functions", &body, 400, text).await;
        }
    }
    assert_eq!(world.get("/system/function/other").await.status, 404);
    assert_eq!(world.describe("env").await["revision"], 1);
    // Somebody else's.
    let kafka = json!({ "topic": "orders", "schedule": "whenever" });
    world.change("PUT", "/system/functions", &deployment("env", kafka), 202).await;
    eventually!(world.describe("env").await["revision"] == 2, "{}", world.describe("env").await);
}

#[tokio::test]
async fn timers_are_listed_described_and_counted() {
    let world = World::new().await;
    world.deploy("plain").await;
    let annotations = json!({
        "topic": "jobs, cron-function", "schedule": "CRON_TZ=Europe/Berlin 0 6 * * *;@every 1h",
        "ingle.cron-overlap": "skip", "ingle.cron-missed": "once", "ingle.cron-jitter": "90s",
    });
    world.change("POST", "/system/functions", &deployment("env", annotations), 202).await;
    world.ready("env").await;
    assert_eq!(world.timers("").await, json!([]), "nobody has looked yet");
    let now = Timestamp::now();
    world.cron.turn(now).await;
    let timers = world.timers("").await;
    let next: Timestamp = timers[0]["nextRun"].as_str().expect("a time").parse().expect("a time");
    assert!(next > now && next.duration_since(now).as_secs() <= 3690, "{next}");
    let expected = json!([{
        "name": "env", "namespace": "openfaas-fn", "schedule": "CRON_TZ=Europe/Berlin 0 6 * * *;@every 1h",
        "timeZones": ["Europe/Berlin", "UTC"], "overlap": "skip", "missed": "once", "jitterSeconds": 90,
        "nextRun": next.to_string(), "accepted": 0, "skipped": 0, "missedRuns": 0,
    }]);
    assert_eq!(timers, expected);
    assert_eq!(world.describe("env").await["cron"], expected[0]);
    assert_eq!(world.describe("plain").await.get("cron"), None);
    for (query, count) in [("?namespace=openfaas-fn", 1), ("?namespace=dev", 404), ("?fuction=env", 400)] {
        let answer = world.get(&format!("/system/cron{query}")).await;
        match count {
            1 => assert_eq!(world.timers(query).await.as_array().map(Vec::len), Some(1)),
            status => assert_eq!(answer.status, status, "{query}: {}", answer.body),
        }
    }

    // Two at once: the second is left out.
    world.queue.pause("default", true).await.expect("paused");
    world.cron.turn(next).await;
    let second: Timestamp =
        world.timers("").await[0]["nextRun"].as_str().expect("a time").parse().expect("a time");
    world.cron.turn(second).await;
    let timer = world.timers("").await[0].clone();
    assert_eq!((&timer["accepted"], &timer["skipped"]), (&json!(1), &json!(1)));
    assert_eq!(timer["lastRun"]["outcome"], "pending");
    assert_eq!(timer["lastRun"]["at"], next.to_string());
    assert_eq!(timer["leftOut"]["reason"], "an earlier run had not ended");
    let text = world.get("/metrics").await.body;
    let third =
        world.timers("").await[0]["nextRun"].as_str().expect("a time").parse::<Timestamp>().expect("a time");
    for line in [
        r#"ingle_cron_runs_total{function_name="env.openfaas-fn",outcome="accepted"} 1"#.to_owned(),
        r#"ingle_cron_runs_total{function_name="env.openfaas-fn",outcome="skipped"} 1"#.to_owned(),
        r#"ingle_cron_runs_total{function_name="env.openfaas-fn",outcome="missed"} 0"#.to_owned(),
        format!(
            r#"ingle_cron_next_run_timestamp_seconds{{function_name="env.openfaas-fn"}} {}"#,
            third.as_second()
        ),
        format!(
            r#"ingle_cron_last_run_timestamp_seconds{{function_name="env.openfaas-fn"}} {}"#,
            next.as_second()
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    // What is kept goes with the function.
    world.change("DELETE", "/system/functions", r#"{"functionName":"env"}"#, 202).await;
    eventually!(world.get("/system/function/env").await.status == 404, "it is not removed");
    world.cron.turn(third).await;
    assert_eq!(world.timers("").await, json!([]));
}

#[tokio::test]
async fn a_function_is_called_when_somebody_asks_for_it() {
    let world = World::new().await;
    world.deploy("plain").await;
    let body = deployment("env", json!({ "topic": "cron-function", "schedule": "@yearly" }));
    world.change("POST", "/system/functions", &body, 202).await;
    world.ready("env").await;
    world.queue.pause("default", true).await.expect("paused");
    // Also right after it was deployed.
    let answer = world.send("POST", "/system/cron/env", "").await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let body: Value = serde_json::from_str(&answer.body).expect("json");
    assert_eq!(answer.headers["x-call-id"], body["callId"].as_str().expect("an id"));
    let run = &world.describe("env").await["cron"]["lastRun"];
    assert_eq!((&run["callId"], &run["outcome"], run.get("due")), (&body["callId"], &json!("pending"), None));
    assert_eq!(world.queue.queues()[0].counts.ready, 1);
    for (path, status, text) in [
        (
            "/system/cron/plain",
            409,
            "the function plain.openfaas-fn has no schedule: deploy it with the annotations topic: cron-function and schedule",
        ),
        ("/system/cron/gone", 404, "there is no function gone.openfaas-fn"),
        ("/system/cron/env?namespace=dev", 404, "there is no function env.dev"),
        ("/system/cron/env?queue=x", 400, "queue: is none of namespace"),
    ] {
        world.refused("POST", path, "", status, text).await;
    }
    assert_eq!(world.send("POST", "/system/cron/..%2fx", "").await.status, 400);
    assert_eq!(world.queue.queues()[0].counts.ready, 1, "nothing was queued");
}
