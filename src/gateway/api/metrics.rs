//! `/metrics`

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::header::CONTENT_TYPE;

use crate::observe::metrics::Scrape;

/// The Prometheus text format, which all versions of Prometheus read.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes(scrape: Scrape) -> Router {
    Router::new().route("/metrics", get(scraped)).with_state(Arc::new(scrape))
}

async fn scraped(State(scrape): State<Arc<Scrape>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT)], scrape.text().await)
}
