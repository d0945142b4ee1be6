//! A fleet with its API, in a directory of its own.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use calls::queue::Queue;
use calls::triggers::cron::Cron;
use control::fleet::Fleet;
use host::bundles::Handlers;
use host::logs::Logs;
use host::secrets::Secrets;
use host::store::Store;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use ingle::gateway::access::Access;
use ingle::gateway::access::basic::Credentials;
use ingle::gateway::access::exposure::Exposure;
use ingle::gateway::api::Api;
use model::config::Config;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::TemporaryDirectory;
use crate::support::fake_network::FakeNetwork;
use crate::support::fake_runtime::FakeRuntime;

pub(super) struct World {
    pub(super) fleet: Arc<Fleet>,
    pub(super) queue: Queue,
    pub(super) cron: Cron,
    pub(super) runtime: FakeRuntime,
    pub(super) router: Router,
    state: TemporaryDirectory,
    _run: TemporaryDirectory,
}

/// An answer, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with("").await
    }

    /// With these settings.
    pub(super) async fn with(settings: &str) -> Self {
        Self::guarded(settings, None).await
    }

    /// Creates a world whose API asks for these credentials.
    pub(super) async fn guarded(settings: &str, credentials: Option<Credentials>) -> Self {
        let state = TemporaryDirectory::new();
        let run = TemporaryDirectory::new();
        let mut config = Config::parse(settings, |_| None).expect("settings");
        config.logs.journal = false;
        let runtime = FakeRuntime::default();
        let logs = Logs::new(&config.logs, state.path(), run.path()).expect("logs");
        let secrets = Secrets::open(state.path()).expect("secrets");
        let handlers = Handlers::open(state.path(), config.functions.handler_limit).expect("handlers");
        let store = Arc::new(Store::open(state.path()).expect("a store"));
        let fleet = Fleet::new(
            &config,
            Arc::new(runtime.clone()),
            Arc::new(FakeNetwork::new()),
            logs.clone(),
            secrets.clone(),
            handlers,
            store.clone(),
        )
        .expect("a fleet");
        fleet.start().await.expect("started");
        config.daemon.state_dir = state.path().to_owned();
        let directory = fleet.directory().clone();
        let queue =
            Queue::open(&config, store.clone(), directory.clone(), Handle::current()).expect("a queue");
        let cron = Cron::open(store.clone(), directory, queue.clone()).expect("timers");
        tokio::spawn({
            let queue = queue.clone();
            async move { queue.run().await }
        });
        let subnet = "10.62.0.0/16".parse().expect("a network");
        let exposure = Exposure::of(&config.gateway, subnet, [10, 62, 0, 1].into());
        let api = Api {
            fleet: fleet.clone(),
            queue: queue.clone(),
            cron: cron.clone(),
            secrets,
            logs,
            runtime: Arc::new(runtime.clone()),
            store: store.clone(),
            access: Arc::new(Access::new(&config.gateway, credentials, exposure)),
            state_dir: state.path().to_owned(),
            restart: CancellationToken::new(),
            admin_listen: None,
        };
        Self { fleet, queue, cron, runtime, router: api.router().expect("routes"), state, _run: run }
    }

    pub(super) fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// Sends a request and returns the answer's head and its body, not yet read.
    pub(super) async fn open(&self, method: &str, path: &str, body: impl Into<Body>) -> http::Response<Body> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(body.into())
            .expect("a request");
        self.router.clone().oneshot(request).await.expect("an answer")
    }

    pub(super) async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        Answer::read(self.open(method, path, body).await).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    /// Sends a request that is answered without a body.
    pub(super) async fn change(&self, method: &str, path: &str, body: &str, status: u16) {
        let answer = self.send(method, path, body.to_owned()).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{method} {path} {body}");
    }

    /// Sends a request that is refused, with this text.
    pub(super) async fn refused(&self, method: &str, path: &str, body: &str, status: u16, text: &str) {
        let answer = self.send(method, path, body.to_owned()).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (status, format!("{text}\n").as_str()),
            "{method} {path} {body}"
        );
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    }

    /// Deploys a function and waits until it serves.
    pub(super) async fn deploy(&self, name: &str) {
        let body = format!(r#"{{"service":"{name}","image":"you/{name}:1"}}"#);
        self.change("POST", "/system/functions", &body, 202).await;
        self.ready(name).await;
    }

    pub(super) async fn ready(&self, name: &str) {
        eventually!(self.describe(name).await["phase"] == "ready", "{name} was never ready");
    }

    pub(super) async fn describe(&self, name: &str) -> serde_json::Value {
        let answer = self.get(&format!("/system/function/{name}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("json")
    }
}

impl Answer {
    async fn read(response: http::Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body = String::from_utf8(body.into()).expect("text");
        Self { status: head.status.as_u16(), headers: head.headers, body }
    }
}
