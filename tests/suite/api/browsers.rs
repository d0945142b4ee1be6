//! Requests that web pages send through a browser: every guarded route, with every kind of origin and every kind of
//! credentials.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body;
use http::Request;
use ingle::gateway::access::basic::Credentials;
use ingle::gateway::access::client::{Client, Listener};
use tower::ServiceExt as _;

use super::world::World;

const HOST: &str = "faas.example:8080";
const RIGHT: &str = "Basic YWRtaW46c2VjcmV0";
const WRONG: &str = "Basic YWRtaW46b3RoZXI=";
const PROXY: &str = "10.9.9.9:1";
const CLIENT: &str = "192.0.2.1:1";
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// Returns the patterns of all routes from the sources, so that new routes are tested without a change here.
fn routes() -> BTreeSet<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/api");
    let mut found = BTreeSet::new();
    for file in std::fs::read_dir(sources).expect("the sources") {
        let path = file.expect("a file").path();
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("a source");
        for after in text.split(".route(").skip(1) {
            let route = after.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            found.insert(route.expect("a route is a text").to_owned());
        }
    }
    assert!(found.len() > 20 && found.contains("/system/functions"), "{found:?}");
    found
}

/// A kind of sender: the peer of the connection, and its headers.
#[derive(Debug, Clone, Copy)]
struct Sender {
    peer: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// Whether the API admits this sender.
    allowed: bool,
}

const fn from(headers: &'static [(&'static str, &'static str)], allowed: bool) -> Sender {
    Sender { peer: CLIENT, headers, allowed }
}

const fn through(headers: &'static [(&'static str, &'static str)], allowed: bool) -> Sender {
    Sender { peer: PROXY, headers, allowed }
}

const FORWARDED: (&str, &str) = ("x-forwarded-host", "public.example");
const HTTPS: (&str, &str) = ("x-forwarded-proto", "https");
const PUBLIC: (&str, &str) = ("origin", "https://public.example");

const ORIGINS: &[Sender] = &[
    // Not a browser.
    from(&[], true),
    from(&[("origin", "http://faas.example:8080")], true),
    from(&[("origin", "http://FAAS.example:8080"), ("sec-fetch-site", "same-origin")], true),
    from(&[("sec-fetch-site", "same-origin")], true),
    from(&[("sec-fetch-site", "none")], true),
    from(&[("sec-fetch-site", "same-site")], false),
    from(&[("sec-fetch-site", "cross-site")], false),
    from(&[("sec-fetch-site", "Same-Origin")], false),
    from(&[("sec-fetch-site", "")], false),
    from(&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false),
    from(&[("origin", "http://faas.example:8080"), ("sec-fetch-site", "cross-site")], false),
    from(&[("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")], false),
    from(&[("origin", "http://evil.example")], false),
    from(&[("origin", "http://evil.example:8080")], false),
    from(&[("origin", "null")], false),
    from(&[("origin", "")], false),
    // Another port, another scheme, and lookalikes.
    from(&[("origin", "http://faas.example")], false),
    from(&[("origin", "http://faas.example:8081")], false),
    from(&[("origin", "https://faas.example:8080")], false),
    from(&[("origin", "http://sub.faas.example:8080")], false),
    from(&[("origin", "http://faas.example:8080.evil.example")], false),
    from(&[("origin", "http://faas.example:8080@evil.example")], false),
    from(&[("origin", "http://evil.example@faas.example:8080")], false),
    from(&[("origin", "http://faas.example:8080/page")], false),
    from(&[("origin", "http://faas.example:8080, http://evil.example")], false),
    from(&[("origin", "http://faas.example:8080"), ("origin", "http://evil.example")], false),
    // Headers of a proxy count if it is trusted.
    through(&[FORWARDED, HTTPS, PUBLIC], true),
    through(
        &[("x-forwarded-host", "public.example, inner"), ("x-forwarded-proto", "https, http"), PUBLIC],
        true,
    ),
    through(&[("origin", "http://faas.example:8080")], true),
    through(&[HTTPS, ("origin", "https://faas.example:8080")], true),
    through(&[FORWARDED, PUBLIC], false),
    through(&[FORWARDED, HTTPS, ("origin", "http://faas.example:8080")], false),
    through(&[FORWARDED, HTTPS, ("origin", "https://evil.example")], false),
    from(&[FORWARDED, HTTPS, PUBLIC], false),
    from(&[("x-forwarded-host", "evil.example"), ("origin", "http://evil.example")], false),
];

impl World {
    /// Returns the status of a request.
    async fn status(&self, method: &str, path: &str, sent: Sender, more: &[(&str, &str)], body: Body) -> u16 {
        // Another client each time: wrong passwords slow down whoever sends many.
        static CLIENTS: AtomicU32 = AtomicU32::new(0);
        let client = Ipv4Addr::from_bits(0xc612_0000 + CLIENTS.fetch_add(1, Ordering::Relaxed));
        let mut request = Request::builder().method(method).uri(path);
        if !more.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", HOST);
        }
        for (name, value) in sent.headers.iter().chain(more) {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).expect("a request");
        let mut address: SocketAddr = sent.peer.parse().expect("an address");
        if sent.peer == PROXY {
            request.headers_mut().insert("x-forwarded-for", client.to_string().try_into().expect("a value"));
        } else {
            address.set_ip(client.into());
        }
        request.extensions_mut().insert(Client { address, listener: Listener::Public });
        let answer = self.router.clone().oneshot(request).await.expect("an answer");
        answer.status().as_u16()
    }
}

async fn guarded() -> World {
    let settings = "[gateway]\ntrusted_proxies = \"10.9.9.0/24\"\n";
    World::guarded(settings, Some(Credentials::new("admin", "secret"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_guarded_route_needs_its_own_origin_and_credentials() {
    let world = guarded().await;
    let mut tried = 0;
    for route in routes() {
        let path = route.replace(['{', '}', '*'], "");
        let is_guarded = path.starts_with("/system");
        for method in METHODS {
            for origin in ORIGINS {
                for credentials in [None, Some(WRONG), Some(RIGHT)] {
                    let mut more: Vec<(&str, &str)> = vec![("content-type", "application/json")];
                    more.extend(credentials.map(|value| ("authorization", value)));
                    let status = world.status(method, &path, *origin, &more, Body::from("{}")).await;
                    let shown = format!("{method} {path} {origin:?} {credentials:?}: {status}");
                    tried += 1;
                    match (is_guarded, origin.allowed, credentials) {
                        _ if path == "/metrics" => assert_eq!(status == 403, !origin.allowed, "{shown}"),
                        (true, false, _) => assert_eq!(status, 403, "{shown}"),
                        (true, true, None | Some(WRONG)) => assert_eq!(status, 401, "{shown}"),
                        // Any status of the route's own is fine.
                        _ => assert!(!matches!(status, 401 | 403 | 415 | 421), "{shown}"),
                    }
                }
            }
        }
    }
    assert!(tried > 10_000, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_web_pages_need_a_content_type_with_a_preflight() {
    let world = guarded().await;
    let own = from(&[("origin", "http://faas.example:8080")], true);
    let right = ("authorization", RIGHT);
    for (types, body, fits) in [
        (&["application/json"][..], "{}", true),
        (&["Application/JSON; charset=utf-8"], "{}", true),
        (&["application/merge-patch+json"], "{}", true),
        (&["application/x-tar"], "{}", true),
        (&["application/octet-stream"], "{}", true),
        (&["application/gzip"], "{}", true),
        (&[], "", true),
        (&[], "{}", false),
        (&["text/plain"], "{}", false),
        (&["text/plain"], "", false),
        (&["application/x-www-form-urlencoded"], "{}", false),
        (&["multipart/form-data; boundary=application/json"], "{}", false),
        (&["text/plain; x=application/json"], "{}", false),
        (&["application/json", "text/plain"], "{}", false),
        (&["application/json, text/plain"], "{}", false),
        (&["text/json"], "{}", false),
        (&[""], "{}", false),
    ] {
        for (method, path) in
            [("POST", "/system/functions"), ("PUT", "/system/secrets"), ("DELETE", "/system/functions")]
        {
            let mut more = vec![right];
            more.extend(types.iter().map(|kind| ("content-type", *kind)));
            let status = world.status(method, path, own, &more, Body::from(body)).await;
            assert_eq!(status != 415, fits, "{method} {path} {types:?} {body:?}: {status}");
            // Clients other than pages are judged by credentials alone; they leave the type out, or send any.
            let status = world.status(method, path, from(&[], true), &more, Body::from(body)).await;
            assert_ne!(status, 415, "{method} {path} {types:?} {body:?}");
        }
        let more = [right, ("content-type", "text/plain")];
        assert_eq!(world.status("GET", "/system/functions", own, &more, Body::empty()).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_password_pages_use_the_api_at_the_admin_listener_alone() {
    let world = World::with("[gateway]\nbasic_auth = false\n").await;
    let status = async |listener, site: Option<&str>, path: &str, host: &str| {
        let mut request = Request::get(path).header("host", host);
        if let Some(site) = site {
            request = request.header("sec-fetch-site", site);
        }
        let address = "127.0.0.1:9".parse().expect("an address");
        let request = request.extension(Client { address, listener }).body(Body::empty()).expect("a request");
        world.router.clone().oneshot(request).await.expect("an answer").status().as_u16()
    };
    let own = "127.0.0.1:8080";
    for (listener, site, path, host, expected) in [
        (Listener::Public, Some("same-origin"), "/system/functions", own, 403),
        (Listener::Public, Some("none"), "/system/functions", own, 200),
        (Listener::Public, None, "/system/functions", own, 200),
        (Listener::Admin, Some("same-origin"), "/system/functions", own, 200),
        // A name that was pointed to this machine: not the metrics of the admin listener either.
        (Listener::Admin, Some("same-origin"), "/metrics", "evil.example", 421),
        (Listener::Admin, None, "/metrics", "evil.example", 421),
        (Listener::Admin, None, "/metrics", own, 200),
        (Listener::Public, None, "/metrics", "scraped.example:8080", 200),
        (Listener::Public, Some("cross-site"), "/metrics", own, 403),
        (Listener::Local, None, "/metrics", "anything", 200),
    ] {
        assert_eq!(status(listener, site, path, host).await, expected, "{listener:?} {site:?} {path} {host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_password_only_known_host_names_are_served() {
    let settings = "[gateway]\nbasic_auth = false\nhosts = [\"faas.example\", \"*.in.example\"]\n\
        trusted_proxies = \"10.9.9.9\"\n";
    let world = World::with(settings).await;
    let hostname = nix::unistd::gethostname().expect("a name").into_string().expect("text");
    let own = format!("{hostname}:8080");
    for (host, status) in [
        ("127.0.0.1:8080", 200),
        ("192.168.1.5", 200),
        ("[::1]:8080", 200),
        ("[fd00::1]", 200),
        ("localhost", 200),
        ("LocalHost:8080", 200),
        ("gateway:8080", 200),
        ("gateway.openfaas", 200),
        ("gateway.openfaas.:8080", 200),
        (&own, 200),
        ("faas.example:443", 200),
        ("a.b.in.example", 200),
        ("in.example", 421),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("gateway.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("evil.example/@localhost", 421),
        ("", 421),
    ] {
        let more = [("host", host)];
        let found = world.status("GET", "/system/functions", from(&[], true), &more, Body::empty()).await;
        assert_eq!(found, status, "{host}");
        let open = world.status("GET", "/healthz", from(&[], true), &more, Body::empty()).await;
        assert_eq!(open, 200, "{host}");
    }
    // Behind a proxy, the name in the browser counts.
    for (sent, status) in [
        (through(&[("x-forwarded-host", "evil.example")], true), 421),
        (through(&[("x-forwarded-host", "faas.example")], true), 200),
        (from(&[("x-forwarded-host", "faas.example")], true), 421),
    ] {
        let host = if status == 200 || sent.peer == CLIENT { "evil.example" } else { "127.0.0.1" };
        let more = [("host", host)];
        assert_eq!(
            world.status("GET", "/system/functions", sent, &more, Body::empty()).await,
            status,
            "{sent:?}"
        );
    }
    // Under such a name, pages of other origins are still refused.
    let page = from(&[("origin", "http://evil.example")], false);
    assert_eq!(
        world.status("GET", "/system/functions", page, &[("host", "localhost")], Body::empty()).await,
        403
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_no_basic_auth_challenge() {
    let world = guarded().await;
    for (headers, is_asked) in [
        (&[][..], true),
        (&[("accept", "*/*")], true),
        (&[("accept", "application/json")], true),
        (&[("accept", "text/html,application/xhtml+xml,*/*;q=0.8")], false),
        (&[("accept", "application/json, Text/HTML")], false),
        (&[("accept", "*/*"), ("sec-fetch-site", "same-origin")], false),
    ] {
        let mut request = Request::builder().uri("/system/functions").header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let answer = world.router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(answer.status(), 401, "{headers:?}");
        let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().expect("text"));
        assert_eq!(challenge, is_asked.then_some("Basic realm=\"ingle\""), "{headers:?}");
    }
}
