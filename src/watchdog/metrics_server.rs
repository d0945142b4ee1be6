//! Serves the counts of requests, on a port of their own.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::answer::Answer;
use super::shared::Shared;
use http1::{Buffer, HeadScan, RequestHead, slots};

/// How long a client may take to ask.
const ASK: Duration = Duration::from_secs(10);
/// The pause after a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers whoever asks for metrics.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                // Who is slow is given up.
                tokio::task::spawn_local(async move { timeout(ASK, answer(stream, &shared)).await });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    let (mut from, to) = stream.split();
    let mut buffer = Buffer::default();
    let mut scan = HeadScan::default();
    loop {
        let mut slots = slots();
        if scan.is_due(buffer.data())
            && let Some((request, _)) = RequestHead::parse(buffer.data(), &mut slots).ok()?
        {
            let mut answer = Answer::new(to, request.http10, request.method == "HEAD", false);
            return match super::cgi::split(request.target).0 {
                "/metrics" => {
                    let text = shared.metrics().text(shared.in_flight());
                    answer.text(StatusCode::OK, &text, &[]).await.ok()
                }
                _ => answer.text(StatusCode::NOT_FOUND, "see /metrics\n", &[]).await.ok(),
            };
        }
        if buffer.is_full() {
            return None;
        }
        let count = std::future::poll_fn(|cx| buffer.poll_fill(&mut from, cx)).await.ok()?;
        if count == 0 {
            return None;
        }
    }
}
