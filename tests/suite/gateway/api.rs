//! What is not a function goes to the router, and its answers come back whole.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};

use super::{Gate, nowhere};

/// Stands for the API.
pub(super) fn router() -> Router {
    Router::new()
        .route("/hello", get(async || "hello"))
        .route("/echo", post(async |body: Bytes| body))
        .route("/stream", post(async |body: Body| Body::new(body)))
        .route("/ignore", post(async || "done"))
        .route("/panic", get(async || -> &'static str { panic!("on purpose") }))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_bodies_pass_on_one_connection() {
    let gate = Gate::new(&[]).await;
    let mut client = gate.connect().await;
    client.send("GET /hello HTTP/1.1\r\nHost: a\r\nX-Call-Id: mine\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.body.as_str()), (200, "hello"));
    assert_eq!(answer.header("x-call-id"), Some("mine"));
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde").await;
    assert_eq!(client.answer().await.body, "abcde");
    client
        .send("POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.header("transfer-encoding"), answer.body.as_str()), (Some("chunked"), "abc"));
    client.send("HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.head().await.header("content-length"), Some("5"));
    client.send("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_streams_through() {
    let gate = Gate::new(&[]).await;
    let body = "x".repeat(1 << 20);
    let mut client = gate.connect().await;
    let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(head + &body).await;
    assert_eq!(client.answer().await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_ends_the_connection() {
    let gate = Gate::new(&[]).await;
    let mut client = gate.connect().await;
    client.send("POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.code, answer.header("connection")), (200, Some("close")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_is_an_error_of_ours() {
    let gate = Gate::new(&[nowhere().await]).await;
    let answer = gate.call("GET /panic HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n").await;
    assert_eq!(answer.code, 500);
    assert!(answer.body.contains("\"internal\""), "{}", answer.body);
}
