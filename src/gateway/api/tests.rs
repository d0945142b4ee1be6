//! What all routes have in common. The routes themselves are tested over a whole fleet, in the suite.

use axum::body::Body;
use axum::routing::post;
use http::HeaderMap;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http_body_util::BodyExt;
use model::config::Config;
use tower::ServiceExt;

use super::*;
use crate::gateway::access::basic::Credentials;
use crate::gateway::access::client::{Client, Listener};
use crate::gateway::access::exposure::Exposure;

/// `admin:secret`
const AUTH: &str = "Basic YWRtaW46c2VjcmV0";

/// A store whose directory is gone when this returns: it is only asked how it is.
fn store() -> Arc<Store> {
    let state = tempfile::tempdir().expect("a directory");
    Arc::new(Store::open(state.path()).expect("a store"))
}

fn router() -> Router {
    async fn take(body::Json(body): body::Json<model::wire::ScaleRequest>) -> String {
        body.replicas.to_string()
    }
    async fn echo(params::PathName(name): params::PathName) -> String {
        name
    }
    let routes = Router::new()
        .merge(info::routes(None, store()))
        .route("/system/take", post(take))
        .route("/system/echo/{name}", get(echo));
    let config = Config::parse("", |_| None).expect("defaults");
    let subnet = "10.62.0.0/16".parse().expect("a network");
    let exposure = Exposure::of(&config.gateway, subnet, [10, 62, 0, 1].into());
    let access = Access::new(&config.gateway, Some(Credentials::new("admin", "secret")), exposure);
    around(routes, Arc::new(access), Arc::default())
}

/// Status, headers, and body.
async fn send(request: http::request::Builder, body: impl Into<Body>) -> (u16, HeaderMap, String) {
    let request = request.body(body.into()).expect("a request");
    let response = router().oneshot(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8(body.into()).expect("text"))
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header(AUTHORIZATION, AUTH)
}

#[tokio::test]
async fn system_asks_for_a_password_and_the_rest_does_not() {
    for path in ["/system/info", "/system/functions", "/system", "/system/", "/system/no/such/route"] {
        let (status, headers, body) = send(Request::get(path), "").await;
        assert_eq!(status, 401, "{path}");
        assert_eq!(headers[WWW_AUTHENTICATE], "Basic realm=\"ingle\"");
        assert_eq!(headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(body, "wrong user or password: log in with 'faas-cli login' or 'ingle login'\n");
    }
    let wrong = Request::get("/system/info").header(AUTHORIZATION, "Basic YWRtaW46d3Jvbmc=");
    assert_eq!(send(wrong, "").await.0, 401);
    // What opens functions opens nothing else.
    assert_eq!(send(Request::get("/system/info").header("X-Function", "env"), "").await.0, 401);
    assert_eq!(send(request("GET", "/system/info"), "").await.0, 200);
    let (status, _, body) = send(Request::get("/healthz"), "").await;
    assert_eq!((status, body.as_str()), (200, "OK\n"));
}

#[tokio::test]
async fn wrong_passwords_are_throttled_by_address() {
    let router = router();
    let status = |from: &'static str, authorization: Option<&'static str>| {
        let address = from.parse().expect("an address");
        let mut request =
            Request::get("/system/info").extension(Client { address, listener: Listener::Public });
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let router = router.clone();
        async move {
            let response = router.oneshot(request.body(Body::empty()).expect("a request")).await;
            let response = response.expect("an answer");
            (response.status().as_u16(), response.headers().get(RETRY_AFTER).is_some())
        }
    };
    // Browsers and faas-cli begin without credentials, which is no guess.
    for _ in 0..100 {
        assert_eq!(status("192.0.2.1:5", None).await, (401, false));
    }
    let wrong = Some("Basic YWRtaW46d3Jvbmc=");
    for _ in 0..10 {
        assert_eq!(status("192.0.2.1:5", wrong).await, (401, false));
    }
    for authorization in [wrong, Some("Bearer x"), Some(AUTH)] {
        assert_eq!(status("192.0.2.1:6", authorization).await, (429, true), "{authorization:?}");
    }
    for other in ["192.0.2.2:5", "127.0.0.1:5"] {
        assert_eq!(status(other, Some(AUTH)).await, (200, false), "{other}");
    }
}

#[tokio::test]
async fn only_the_local_socket_is_admitted_without_a_password() {
    let router = router();
    for (client, expected) in [
        (Some(Client::LOCAL), 200),
        (Some(Client { listener: Listener::Admin, ..Client::LOCAL }), 401),
        (Some(Client { listener: Listener::Public, ..Client::LOCAL }), 401),
        (None, 401),
    ] {
        let mut request = Request::get("/system/info");
        if let Some(client) = client {
            request = request.extension(client);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status().as_u16(), expected, "{client:?}");
    }
}

#[tokio::test]
async fn a_body_is_not_read_before_the_password_is_right() {
    let body = Body::from_stream(futures_util::stream::pending::<std::io::Result<&'static str>>());
    assert_eq!(send(Request::post("/system/take"), body).await.0, 401);
}

#[tokio::test]
async fn errors_are_json_for_those_who_ask() {
    let (status, headers, body) =
        send(request("GET", "/nowhere").header(ACCEPT, "application/json"), "").await;
    assert_eq!(status, 404);
    assert_eq!(headers[CONTENT_TYPE], "application/json");
    assert_eq!(body, r#"{"error":"there is nothing at /nowhere","code":"route_not_found"}"#);
    let unknown = Request::get("/system/info").header(ACCEPT, "application/json");
    let (status, headers, body) = send(unknown, "").await;
    assert_eq!(status, 401);
    assert_eq!(headers[WWW_AUTHENTICATE], "Basic realm=\"ingle\"");
    assert!(body.ends_with(r#""code":"unauthorized"}"#), "{body}");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    for accept in ["text/plain", "application/json"] {
        let (status, headers, body) = send(request("PATCH", "/system/take").header(ACCEPT, accept), "").await;
        assert_eq!(status, 405);
        assert_eq!(headers[ALLOW], "POST");
        assert!(body.contains("/system/take does not take PATCH"), "{body}");
    }
    let (status, headers, body) = send(Request::post("/healthz"), "").await;
    assert_eq!((status, headers[ALLOW].to_str().expect("text")), (405, "GET,HEAD"));
    assert_eq!(body, "/healthz does not take POST; the header Allow says what it takes\n");
}

#[tokio::test]
async fn the_root_leads_to_the_ui() {
    let (status, headers, _) = send(Request::get("/"), "").await;
    assert_eq!((status, headers[LOCATION].to_str().expect("text")), (307, "/ui/"));
    let (status, _, body) = send(Request::get("/ui/"), "").await;
    assert_eq!((status, body.as_str()), (404, "there is no UI yet: use faas-cli, or 'ingle --help'\n"));
}

#[tokio::test]
async fn info_has_the_names_that_clients_read() {
    let (_, headers, body) = send(request("GET", "/system/info"), "").await;
    assert_eq!(headers[CONTENT_TYPE], "application/json");
    let version = format!(r#"{{"release":"{}","sha":"{}"}}"#, crate::VERSION, crate::COMMIT);
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    assert_eq!(
        body,
        format!(
            r#"{{"provider":{{"provider":"ingle","version":{version},"orchestration":"containerd"}},"version":{version},"arch":"{arch}","adminListen":"none"}}"#
        )
    );
    assert!(!crate::VERSION.is_empty() && !crate::COMMIT.is_empty());
}

#[tokio::test]
async fn bad_json_is_refused_with_its_place() {
    for (body, reason) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("[]", "invalid length 1"),
        (r#"{"replicas":"2"}"#, "invalid type: string \"2\", expected u32"),
        (r#"{"replicas":-1}"#, "invalid value: integer `-1`, expected u32"),
        (r#"{"serviceName":"a"}"#, "missing field `replicas`"),
        (r#"{"replicas":2}x"#, "trailing characters"),
        ("\u{feff}{}", "expected value"),
    ] {
        let (status, _, text) = send(request("POST", "/system/take"), body).await;
        assert_eq!(status, 400, "{body}");
        assert!(text.starts_with("the body is not the JSON that is expected here: "), "{text}");
        assert!(text.contains(reason), "{body:?} gave {text:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(send(request("POST", "/system/take"), deep).await.0, 400);
    assert_eq!(send(request("POST", "/system/take"), r#"{"replicas":2,"new":[]}"#).await.2, "2");
}

#[tokio::test]
async fn a_path_that_is_not_text_is_refused() {
    let (status, _, text) = send(request("GET", "/system/echo/a%ff"), "").await;
    assert_eq!((status, text.as_str()), (400, "the path is not valid UTF-8\n"));
    assert_eq!(send(request("GET", "/system/echo/a%2F..%2Fb"), "").await.2, "a/../b");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let text = "the body is larger than the 1048576 bytes that are taken here\n";
    let (status, _, body) = send(request("POST", "/system/take"), vec![b' '; (1 << 20) + 1]).await;
    assert_eq!((status, body.as_str()), (413, text));
    // Without a length the limit is met while reading.
    let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
    let (status, _, body) = send(request("POST", "/system/take"), Body::from_stream(chunks)).await;
    assert_eq!((status, body.as_str()), (413, text));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_waited_for_so_long() {
    let body = Body::from_stream(futures_util::stream::pending::<std::io::Result<&'static str>>());
    let (status, _, text) = send(request("POST", "/system/take"), body).await;
    assert_eq!((status, text.as_str()), (408, "the body did not arrive within 30s\n"));
}

#[tokio::test]
async fn a_body_that_is_cut_is_refused() {
    let cut = futures_util::stream::iter([Ok("{\"rep"), Err(std::io::Error::other("gone"))]);
    let sent = request("POST", "/system/take").header(CONTENT_LENGTH, "17");
    let (status, _, text) = send(sent, Body::from_stream(cut)).await;
    assert_eq!((status, text.as_str()), (400, "the body could not be read to its end: gone\n"));
}

#[tokio::test]
async fn a_change_outlives_its_request() {
    let (begun, wait) = tokio::sync::oneshot::channel();
    let (done, seen) = tokio::sync::oneshot::channel();
    let change = to_the_end(async move {
        wait.await.expect("begun");
        done.send(()).expect("waited for");
        Ok::<_, ErrorResponse>(())
    });
    // The client goes away: its request is polled once and dropped.
    assert!(futures_util::FutureExt::now_or_never(change).is_none());
    begun.send(()).expect("still there");
    seen.await.expect("carried to its end");
}
