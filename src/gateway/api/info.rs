//! `/system/info` and `/healthz`.

use axum::Router;
use axum::routing::get;

use model::wire;

pub(super) fn routes() -> Router {
    Router::new().route("/system/info", get(info)).route("/healthz", get(health))
}

async fn info() -> axum::Json<wire::Info> {
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
    })
}

/// Answers as soon as the gateway takes requests: functions that run can then be called, also while
/// containerd is away.
async fn health() -> &'static str {
    "OK\n"
}
