//! The API: everything that is not a call of a function. `docs/api.md` is its reference.
//!
//! Each file here holds the routes of one thing and the handles that these need. What is common to
//! all stands around them, from the outside in: counting, the form of errors, access.
//!
//! Invariants
//! - No request under `/system` is read, not even its body, before the client is admitted.
//! - A change that was begun is carried to its end, also when the client goes away meanwhile.

mod backup;
mod body;
mod bundles;
mod calls;
mod cron;
mod functions;
mod images;
mod info;
mod log;
mod metrics;
mod namespaces;
mod params;
mod queue;
mod secrets;
mod store;
mod system;
mod upload;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{ALLOW, LOCATION, WWW_AUTHENTICATE};

use self::upload::Archives;
use super::access::{Access, AccessError, is_browser};
use super::error::{ErrorCode, ErrorResponse, wants_json, whole_seconds};
use crate::observe::metrics::{ApiStats, Scrape};
use ::calls::invoke::REALM;
use ::calls::queue::Queue;
use ::calls::triggers::cron::Cron;
use control::fleet::Fleet;
use host::logs::Logs;
use host::runtime::Runtime;
use host::secrets::Secrets;
use host::store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What the API speaks for.
#[derive(Debug)]
pub struct Api {
    /// Functions and namespaces.
    pub fleet: Arc<Fleet>,
    /// Secrets.
    pub secrets: Secrets,
    /// Calls that are made later.
    pub queue: Queue,
    /// Functions that are called by a schedule.
    pub cron: Cron,
    /// Output of functions.
    pub logs: Arc<Logs>,
    /// Images, and what replicas use.
    pub runtime: Arc<dyn Runtime>,
    /// All that is kept.
    pub store: Arc<Store>,
    /// The rules of access.
    pub access: Arc<Access>,
    /// Where archives of images and handlers are kept while they are read.
    pub state_dir: PathBuf,
    /// Has the daemon begin anew.
    pub restart: CancellationToken,
    /// The address of the admin listener, if there is one.
    pub admin_listen: Option<SocketAddr>,
}

impl Api {
    /// The routes. Made once: it counts requests, and removes archives that a crash left behind.
    pub fn router(self) -> std::io::Result<Router> {
        let stats = Arc::new(ApiStats::default());
        let scrape = Scrape::new(
            self.fleet.directory().clone(),
            self.runtime.clone(),
            self.queue.clone(),
            self.cron.clone(),
            stats.clone(),
            self.logs.clone(),
        );
        let archives = Archives::open(&self.state_dir)?;
        let backups = backup::Handles {
            store: self.store.clone(),
            secrets: self.secrets.clone(),
            archives: archives.clone(),
            one: Arc::new(Semaphore::new(1)),
            restart: self.restart,
        };
        let router = Router::new()
            .merge(backup::routes(backups))
            .merge(functions::routes(self.fleet.clone(), self.cron.clone()))
            .merge(secrets::routes(self.fleet.clone(), self.secrets.clone()))
            .merge(namespaces::routes(self.fleet.clone(), self.secrets))
            .merge(log::routes(self.fleet.clone(), self.logs))
            .merge(images::routes(self.runtime, self.fleet.disk().clone(), archives.clone()))
            .merge(bundles::routes(self.fleet.handlers().clone(), archives))
            .merge(calls::routes(self.queue.clone()))
            .merge(queue::routes(self.queue.clone()))
            .merge(cron::routes(self.fleet.clone(), self.cron))
            .merge(system::routes(self.fleet.clone(), self.queue))
            .merge(store::routes(self.fleet))
            .merge(info::routes(self.admin_listen, self.store.clone()))
            .merge(metrics::routes(scrape));
        let router = router.layer(middleware::from_fn_with_state(self.store, change_nothing_if_held));
        Ok(around(router, self.access, stats))
    }
}

/// What all routes have in common.
fn around(router: Router, access: Arc<Access>, stats: Arc<ApiStats>) -> Router {
    router
        .route("/", get(to_the_ui))
        .route("/ui/", get(no_ui))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(access, let_in))
        .layer(middleware::from_fn(write_error))
        .layer(middleware::from_fn_with_state(stats, count))
}

async fn to_the_ui() -> impl IntoResponse {
    (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "/ui/")])
}

async fn no_ui() -> ErrorResponse {
    ErrorResponse::new(ErrorCode::NoUi, "there is no UI yet: use faas-cli, or 'ingle --help'")
}

async fn no_such_route(request: Request) -> ErrorResponse {
    let path = request.uri().path();
    let is_call = path.starts_with("/function/") || path.starts_with("/async-function/");
    let hint =
        if is_call { " on the admin port: functions are called on the port of gateway.listen" } else { "" };
    ErrorResponse::new(ErrorCode::RouteNotFound, format!("there is nothing at {path}{hint}"))
}

async fn wrong_method(request: Request) -> ErrorResponse {
    let (method, path) = (request.method(), request.uri().path());
    ErrorResponse::new(
        ErrorCode::MethodNotAllowed,
        format!("{path} does not take {method}; the header Allow says what it takes"),
    )
}

/// Admits clients to the paths that ask for credentials.
async fn let_in(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    let Err(error) = access.check(&request) else { return next.run(request).await };
    let mut wait = None;
    let code = match error {
        AccessError::Closed(_) => ErrorCode::ApiClosed,
        AccessError::Throttled(time) => {
            wait = Some(whole_seconds(time));
            ErrorCode::TooManyAttempts
        }
        AccessError::CrossSite | AccessError::ForeignOrigin { .. } | AccessError::SharedOrigin => {
            ErrorCode::ForeignOrigin
        }
        AccessError::UnknownHost { .. } => ErrorCode::UnknownHost,
        AccessError::Unauthorized => ErrorCode::Unauthorized,
        AccessError::MediaType => ErrorCode::UnsupportedMediaType,
    };
    let mut answer = ErrorResponse::new(code, error.to_string());
    if let Some(wait) = wait {
        answer = answer.retry_after(wait);
    }
    let mut response = answer.into_response();
    if code == ErrorCode::Unauthorized && !is_browser(request.headers()) {
        let challenge = format!("Basic realm=\"{REALM}\"").try_into().expect("a header's value");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Refuses changes while the state directory is missing, but for the two that decide what becomes of it.
async fn change_nothing_if_held(State(store): State<Arc<Store>>, request: Request, next: Next) -> Response {
    let is_decision = ["/system/store/adopt", "/system/prune"].contains(&request.uri().path());
    match store.absence() {
        Some(error) if store.is_held() && !request.method().is_safe() && !is_decision => {
            ErrorResponse::from(error).into_response()
        }
        _ => next.run(request).await,
    }
}

/// Writes an error as the client asked for it.
async fn write_error(request: Request, next: Next) -> Response {
    let json = wants_json(request.headers());
    let mut response = next.run(request).await;
    let Some(error) = response.extensions_mut().remove::<ErrorResponse>() else { return response };
    let mut answer = error.answer(json);
    for name in [ALLOW, WWW_AUTHENTICATE] {
        if let Some(value) = response.headers_mut().remove(&name) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// Counts a request under the pattern of its route: a path as sent would be a label without bound.
async fn count(State(stats): State<Arc<ApiStats>>, request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let path = path.as_ref().map_or("other", MatchedPath::as_str);
    stats.finished(&method, path, response.status(), started.elapsed());
    response
}

/// An answer in JSON.
type Answer<T> = Result<axum::Json<T>, ErrorResponse>;

/// The answer of a handler that has nothing more to say than how it went.
type Done = Result<StatusCode, ErrorResponse>;

/// Carries a change to its end, also when the client goes away and its request is dropped.
async fn to_the_end<T: Send + 'static, E: Into<ErrorResponse> + Send + 'static>(
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, ErrorResponse> {
    let failed = "the daemon failed while it worked on this; its log says more";
    let ended = tokio::spawn(change).await.map_err(|_| ErrorResponse::new(ErrorCode::Internal, failed));
    ended?.map_err(Into::into)
}

#[cfg(test)]
mod tests;
