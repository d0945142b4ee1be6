//! `/system/info` and `/healthz`.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::routing::get;

use model::wire;

pub(super) fn routes(admin: Option<SocketAddr>) -> Router {
    Router::new().route("/system/info", get(info)).with_state(admin).route("/healthz", get(health))
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
/// containerd is away.
async fn health() -> &'static str {
    "OK\n"
}
