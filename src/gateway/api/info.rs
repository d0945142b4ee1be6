//! `/system/info` and `/healthz`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;

use crate::gateway::error::ErrorResponse;
use host::store::Store;
use model::wire;

pub(super) fn routes(admin: Option<SocketAddr>, store: Arc<Store>) -> Router {
    let health = Router::new().route("/healthz", get(health)).with_state(store);
    Router::new().route("/system/info", get(info)).with_state(admin).merge(health)
}

async fn info(State(admin): State<Option<SocketAddr>>) -> axum::Json<wire::Info> {
    let version = wire::Version { release: crate::VERSION.to_owned(), sha: crate::COMMIT.to_owned() };
    axum::Json(wire::Info {
        provider: wire::Provider {
            // Clients switch features off by this name; it is ours, and no other provider's.
            provider: "ingle".to_owned(),
            version: version.clone(),
            orchestration: "containerd".to_owned(),
        },
        version,
        // In the words that clients know.
        arch: std::env::consts::ARCH.replace("aarch64", "arm64"),
        admin_listen: Some(admin.map_or_else(|| "none".to_owned(), |address| address.to_string())),
    })
}

/// Answers as soon as the gateway takes requests: functions that run can then be called, also while
/// containerd is away. Says why calls and deploys cannot be accepted, while that is so.
async fn health(State(store): State<Arc<Store>>) -> Result<&'static str, ErrorResponse> {
    store.check().map_err(|error| ErrorResponse::from(error).with_status(StatusCode::SERVICE_UNAVAILABLE))?;
    Ok("OK\n")
}
