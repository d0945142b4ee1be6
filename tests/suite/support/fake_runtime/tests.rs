use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use host::runtime::Stdio;
use model::function::{FunctionSpec, Incarnation};
use serde_json::json;

use super::*;
use crate::support::TemporaryDirectory;
use crate::support::tap::{Open, Tapped};
use crate::support::{Behaviour, exit_code, runtime_contract};

/// A request for a replica of `image` that nobody else has the address of.
fn request(image: &str) -> ContainerRequest {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let body = serde_json::from_value(json!({ "service": "fake", "image": image })).expect("a deployment");
    let spec = Arc::new(FunctionSpec::try_from(&body).expect("valid"));
    let [.., high, low] = std::process::id().to_be_bytes();
    ContainerRequest {
        id: ReplicaId::new(&spec.key.name, number),
        image: Arc::new(Image { resolved: resolved(&spec.image).expect("fine"), chain_id: String::new() }),
        spec,
        revision: 2,
        incarnation: Incarnation::new(7),
        state: "state".into(),
        record: b"record".to_vec(),
        address: IpAddr::V4(Ipv4Addr::new(
            127,
            100 + low % 100,
            high,
            u8::try_from(number + 1).expect("few"),
        )),
        netns: PathBuf::new(),
        stdio: Stdio { stdout: PathBuf::new(), stderr: PathBuf::new() },
        mounts: Vec::new(),
        env: BTreeMap::new(),
        pids: 64,
        memory: None,
        watchdog: None,
    }
}

#[tokio::test]
async fn the_fake_keeps_the_contract_of_runtimes() {
    let runtime = Arc::new(FakeRuntime::default());
    let made = |behaviour| match behaviour {
        Behaviour::Serves => request("fake/echo"),
        Behaviour::IgnoresTerm => request("fake/deaf"),
        Behaviour::Exits(code) => request(&format!("fake/exits:{code}")),
    };
    runtime_contract(runtime.clone(), made, async |_: &ReplicaId| {}).await;
    assert_eq!(runtime.leftovers(), []);
    // So does one with a tap before it.
    let inner: Arc<dyn Runtime> = runtime.clone();
    let tapped = Tapped::new(inner, Arc::new(Open));
    runtime_contract(tapped, made, async |_: &ReplicaId| {}).await;
    assert_eq!(runtime.leftovers(), []);
}

async fn get(request: &ContainerRequest, path: &str) -> Result<(u16, String), reqwest::Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}:{}{path}", request.address, request.spec.port);
    let answer = reqwest::get(url).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn its_containers_answer_and_end_as_told() {
    let runtime = FakeRuntime::default();
    let mut events = runtime.events();
    let [echo, sick] = ["fake/echo", "fake/unhealthy"].map(request);
    for request in [&echo, &sick] {
        runtime.create(request).await.expect("created");
        runtime.start(&request.id).await.expect("started");
        eventually!(get(request, "/").await.is_ok(), "{} does not answer", request.id);
    }
    let body = format!("{} r2 GET /a%20b?c\n", echo.id);
    assert_eq!(get(&echo, "/a%20b?c").await.expect("an answer"), (200, body));
    assert_eq!(get(&sick, "/_/health").await.expect("an answer").0, 503);
    assert_eq!(runtime.requests().len(), 2);

    get(&echo, "/crash/3").await.expect_err("it is gone");
    assert_eq!(exit_code(&mut events, &echo.id).await, 3);
    get(&echo, "/").await.expect_err("nobody listens");
    get(&sick, "/oom").await.expect_err("it is gone");
    assert_eq!(
        events.recv().await.expect("an event"),
        RuntimeEvent::OutOfMemory { id: sick.id.clone(), kills: 1 }
    );
    assert_eq!(exit_code(&mut events, &sick.id).await, 137);

    for image in ["fake/slow", "fake/never-ready"] {
        let request = request(image);
        runtime.create(&request).await.expect("created");
        runtime.start(&request.id).await.expect("started");
        get(&request, "/").await.expect_err("nobody listens yet");
        if image == "fake/slow" {
            eventually!(get(&request, "/").await.is_ok(), "{} does not answer", request.id);
        }
        runtime.kill(&request.id);
        assert_eq!(exit_code(&mut events, &request.id).await, 137);
    }
    runtime.resync();
    assert_eq!(events.recv().await.expect("an event"), RuntimeEvent::Resync);
}

#[tokio::test]
async fn a_stop_lets_a_request_finish() {
    let runtime = FakeRuntime::default();
    let request = request("fake/echo");
    runtime.create(&request).await.expect("created");
    runtime.start(&request.id).await.expect("started");
    eventually!(get(&request, "/").await.is_ok(), "{} does not answer", request.id);
    let asleep = get(&request, "/sleep/300");
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        runtime.stop(&request.id, Duration::from_secs(5)).await
    };
    let (answer, stopped) = tokio::join!(asleep, stop);
    assert_eq!(answer.expect("an answer").0, 200);
    stopped.expect("stopped");
}

#[tokio::test]
async fn it_fails_where_it_is_told_to() {
    let runtime = FakeRuntime::default();
    let request = request("fake/echo");
    let image = request.spec.image.clone();
    for step in Step::ALL {
        runtime.fail_at(step);
    }
    runtime.resolve(&image, PullPolicy::Always).await.expect_err("told to");
    runtime
        .pull(&request.image.resolved, PullPolicy::Always, &Progress::default())
        .await
        .expect_err("told to");
    runtime.prepare(&request.layer()).await.expect_err("told to");
    runtime.create(&request).await.expect_err("told to");
    runtime.start(&request.id).await.expect_err("told to");
    runtime.stop(&request.id, Duration::ZERO).await.expect_err("told to");
    runtime.remove(&request.id).await.expect_err("told to");
    assert!(Step::ALL.iter().all(|step| runtime.calls(*step) == 1));

    runtime.heal();
    runtime.fail_once(Step::Create);
    runtime.delay_at(Step::Create, Duration::from_millis(1));
    runtime.create(&request).await.expect_err("told to, once");
    runtime.create(&request).await.expect("created");
    assert_eq!(runtime.leftovers(), [request.id]);
}

#[tokio::test]
async fn images_are_names() {
    let runtime = FakeRuntime::default();
    for (image, part) in [
        ("fake/missing", "was not found"),
        ("fake/private", "refused access"),
        ("fake/unreachable", "could not be reached"),
        ("fake/arm-only", "arm64"),
    ] {
        let error = runtime.resolve(&image.parse().expect("a name"), PullPolicy::Always).await;
        let error = error.expect_err(image).to_string();
        assert!(error.contains(part), "{error}");
    }
    let echo: ImageRef = "echo".parse().expect("a name");
    runtime.resolve(&echo, PullPolicy::Never).await.expect_err("it is not here");
    let directory = TemporaryDirectory::new();
    let archive = directory.path().join("echo.tar");
    std::fs::write(&archive, "").expect("a file");
    runtime.load(archive, None).await.expect("loaded");
    let resolved = runtime.resolve(&echo, PullPolicy::Never).await.expect("it is here");
    assert_eq!(runtime.images().await.expect("a list")[0].digest, resolved.digest);
}
