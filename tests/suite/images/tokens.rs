//! Challenges of registries in every form, and tokens that come late, or go early.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use host::runtime::{Progress, Runtime, RuntimeError};
use model::function::PullPolicy;

use super::Place;
use crate::support::oci::TestImage;
use crate::support::registry::{Asked, HandmadeRegistry, Reply, honest};

/// A refusal with these challenges, in which `REALM` is where tokens come from.
fn refuse(asked: &Asked, challenges: &[&str]) -> Reply {
    let realm = format!("http://{}/token", asked.host);
    let refusal = Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
    challenges
        .iter()
        .fold(refusal, |reply, challenge| reply.with("www-authenticate", challenge.replace("REALM", &realm)))
}

#[tokio::test]
async fn every_form_of_a_challenge_leads_to_a_token() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    const PLAIN: &str = r#"Bearer realm="REALM",service="s""#;
    const SCOPE: &str = r#"Bearer realm="REALM",service="s",scope="repository:me/fn:pull""#;
    // The answer of /v2/ without a token, the challenges, and the token server's answer.
    let cases: [(u16, &'static [&'static str], &'static str); 16] = [
        (401, &[PLAIN], r#"{"token":"T"}"#),
        (401, &[SCOPE], r#"{"access_token":"T"}"#),
        (401, &["bearer Realm=\"REALM\""], r#"{"token":"T"}"#),
        (401, &["BEARER realm = \"REALM\" , SERVICE = s"], r#"{"Token":"T","expires_in":"60"}"#),
        (401, &["Bearer realm=REALM,service=s"], r#"{"token":"T"}"#),
        (401, &["Bearer service=\"a \\\"b\\\", c\",realm=\"REALM\""], r#"{"token":"T"}"#),
        (401, &["Basic realm=\"x\", Bearer realm=\"REALM\""], r#"{"token":"T"}"#),
        (401, &["Bearer realm=\"REALM\",service=\"s\", Basic realm=\"x\""], r#"{"token":"T"}"#),
        (401, &["Basic realm=\"x\"", PLAIN], r#"{"token":"T"}"#),
        (401, &["Negotiate dG9rZW4=", PLAIN], r#"{"token":"T","access_token":""}"#),
        (401, &["Negotiate, Bearer realm=\"REALM\""], r#"{"token":"T"}"#),
        (401, &["Bearer realm=\"/token\",scope=\"\""], r#"{"token":"T"}"#),
        (
            401,
            &["Bearer realm=\"REALM?account=me\",scope=\"repository:a:pull repository:b:pull\""],
            r#"{"token":"T"}"#,
        ),
        (200, &[PLAIN], r#"{"token":"T"}"#),
        (404, &[PLAIN], r#"{"token":"T"}"#),
        // Only the greeting says what is wanted.
        (777, &[PLAIN], r#"{"token":"T"}"#),
    ];
    for (number, (greeting, challenges, answer)) in cases.into_iter().enumerate() {
        let made = TestImage::new(&format!("challenge{number}"), &[400]);
        let registry = HandmadeRegistry::serve(move |asked| {
            let path = asked.path.split('?').next().unwrap_or_default();
            match (path, asked.authorization.as_deref()) {
                ("/token", _) if asked.path.contains("me%2Ffn%3Apull") => Reply::new(200, answer),
                ("/token", _) => Reply::new(400, "no scope"),
                ("/v2/", None) if greeting == 200 || greeting == 404 => Reply::new(greeting, "{}"),
                (path, None) if greeting == 777 && path != "/v2/" => refuse(asked, &[]),
                (_, Some("Bearer T")) => honest(&made, asked),
                _ => refuse(asked, challenges),
            }
        })
        .await;
        let pulled = place.pull(&format!("{}/me/fn:1", registry.address())).await;
        assert!(pulled.is_ok(), "{greeting} {challenges:?}: {pulled:?}\n{:#?}", registry.asked());
        let tokens = registry.asked().iter().filter(|asked| asked.path.starts_with("/token")).count();
        // One for the tag, one for the layers: a pull is a conversation of its own.
        assert!(tokens <= 2, "{tokens} tokens for {challenges:?}");
    }
}

#[tokio::test]
async fn a_challenge_that_cannot_be_met_is_a_refusal() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    for challenges in
        [&[][..], &["Basic realm=\"x\""], &["Negotiate"], &["Bearer realm=\"\""], &["Bearer realm=\"x"]]
    {
        let registry = HandmadeRegistry::serve(|asked| refuse(asked, challenges)).await;
        let error = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect_err("no way in");
        assert!(matches!(error, RuntimeError::Unauthorized { .. }), "{challenges:?}: {error:?}");
        assert!(registry.asked().len() <= 4, "{:?}", registry.asked());
    }
    // A token that is refused at once is not asked for again and again.
    let registry = HandmadeRegistry::serve(|asked| {
        if asked.path.starts_with("/token") {
            return Reply::new(200, r#"{"token":"T"}"#);
        }
        refuse(asked, &["Bearer realm=\"REALM\",error=\"insufficient_scope\""])
    })
    .await;
    let error = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect_err("refused");
    assert!(matches!(error, RuntimeError::Unauthorized { .. }), "{error:?}");
    let tokens = registry.asked().iter().filter(|asked| asked.path.starts_with("/token")).count();
    assert!(tokens <= 2, "{tokens}");
}

#[tokio::test]
async fn a_token_that_is_not_taken_any_more_is_replaced_in_the_middle_of_a_pull() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("expires", &[3000, 3001, 3002, 3003, 3004, 3005, 3006, 3007]);
    let layers = made.layers.clone();
    // Each token is good for three requests.
    let used = Arc::new(AtomicUsize::new(0));
    let registry = HandmadeRegistry::serve(move |asked| {
        let count = used.load(Ordering::SeqCst);
        if asked.path.starts_with("/token") {
            used.store(count / 3 * 3 + 3, Ordering::SeqCst);
            return Reply::new(200, format!(r#"{{"token":"T{}","expires_in":300}}"#, count / 3 + 1));
        }
        if asked.authorization.as_deref() != Some(&format!("Bearer T{}", count / 3)) {
            return refuse(asked, &["Bearer realm=\"REALM\",error=\"invalid_token\""]);
        }
        used.fetch_add(1, Ordering::SeqCst);
        honest(&made, asked)
    })
    .await;
    let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect("resolved");
    let pulled = place.runtime.pull(&resolved, PullPolicy::Always, &Progress::default()).await;
    assert!(pulled.is_ok(), "{pulled:?}");
    for layer in layers {
        let taken: Vec<_> = registry.asked_for(&layer);
        assert!(taken.len() <= 4, "{taken:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_refused_when_it_is_new_is_replaced_once() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("new", &[500]);
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let registry = HandmadeRegistry::serve(move |asked| {
        if asked.path.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"token":"T{}"}}"#, count.fetch_add(1, Ordering::SeqCst)));
        }
        match asked.authorization.as_deref() {
            None | Some("Bearer T0") => refuse(asked, &["Bearer realm=\"REALM\""]),
            Some(_) => honest(&made, asked),
        }
    })
    .await;
    let pulled = place.pull(&format!("{}/me/fn:1", registry.address())).await;
    assert!(pulled.is_ok(), "{pulled:?}");
    assert_eq!(given.load(Ordering::SeqCst), 3, "two for the tag, and one for the pull");
}

#[tokio::test]
async fn a_token_server_that_is_busy_is_waited_for() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    for status in [500, 502, 503, 504, 408, 429] {
        let made = TestImage::new(&format!("busy{status}"), &[500]);
        let times = Arc::new(AtomicUsize::new(0));
        let registry = HandmadeRegistry::serve(move |asked| {
            if asked.path.starts_with("/token") {
                return match times.fetch_add(1, Ordering::SeqCst) {
                    0 => Reply::new(status, "busy").with("retry-after", "1"),
                    _ => Reply::new(200, r#"{"token":"T"}"#),
                };
            }
            match asked.authorization.as_deref() {
                Some("Bearer T") => honest(&made, asked),
                _ => refuse(asked, &["Bearer realm=\"REALM\""]),
            }
        })
        .await;
        let began = Instant::now();
        let resolved = place.resolve(&format!("{}/me/fn:1", registry.address())).await;
        assert!(resolved.is_ok(), "{status}: {resolved:?}");
        assert!(began.elapsed() >= Duration::from_secs(1), "it was not left alone");
    }
    // One that stays so is what the error is about, and one that wants too much time is not waited for.
    for (status, wait, words) in
        [(503, "0", "tokens come from, answered 503"), (429, "7200", "again in 7200 s")]
    {
        let registry = HandmadeRegistry::serve(move |asked| match asked.path.starts_with("/token") {
            true => Reply::new(status, "").with("retry-after", wait),
            false => refuse(asked, &["Bearer realm=\"REALM\""]),
        })
        .await;
        let error = place.resolve(&format!("{}/me/fn:1", registry.address())).await.expect_err("busy");
        let RuntimeError::RegistryUnreachable { source, .. } = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains(words), "{source}");
    }
}

#[tokio::test]
async fn nothing_is_shown_to_whom_a_registry_or_its_token_server_leads() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let other = HandmadeRegistry::serve(|asked| match asked.path.starts_with("/token") {
        true => Reply::new(200, r#"{"token":"T","access_token":"T"}"#),
        false => refuse(asked, &["Bearer realm=\"REALM\"", "Basic realm=\"x\""]),
    })
    .await;
    let made = TestImage::new("leads", &[500]);
    // Documents and layers lead to another host, which asks for credentials; then the token server leads there.
    for (tokens_lead, entry) in [
        (false, serde_json::json!({ "username": "u", "password": "hunter2" })),
        (false, serde_json::json!({ "registrytoken": "hunter2" })),
        (false, serde_json::json!({ "identitytoken": "hunter2" })),
        (true, serde_json::json!({ "username": "u", "password": "hunter2" })),
        (true, serde_json::json!({ "identitytoken": "hunter2" })),
    ] {
        let (away, image) = (format!("http://{}", other.address()), made.clone());
        let registry = HandmadeRegistry::serve(move |asked| {
            let is_token = asked.path.starts_with("/token");
            match (&asked.authorization, is_token) {
                // Forms only, which hold their password.
                (_, true) if tokens_lead && asked.method == "GET" => Reply::new(405, ""),
                (_, true) if tokens_lead => Reply::new(307, "").with("location", format!("{away}/token")),
                (_, true) => Reply::new(200, r#"{"token":"T","access_token":"T"}"#),
                (None, _) => refuse(asked, &["Bearer realm=\"REALM\""]),
                (Some(_), _) if asked.path.contains("/blobs/") => {
                    Reply::new(307, "").with("location", format!("{away}{}", asked.path))
                }
                _ => honest(&image, asked),
            }
        })
        .await;
        let json = serde_json::json!({ "auths": { registry.address(): entry } });
        std::fs::write(place.docker_config(), json.to_string()).expect("written");
        let error = place.pull(&format!("{}/me/fn:1", registry.address())).await.expect_err("no way in");
        for asked in other.asked() {
            assert!(asked.authorization.is_none() && !asked.path.starts_with("/token"), "{entry}: {asked:?}");
        }
        let RuntimeError::RegistryUnreachable { source, .. } = &error else { panic!("{entry}: {error:?}") };
        let said =
            if tokens_lead { "tokens come from, answered 307" } else { "where it leads, answered 401" };
        assert!(source.to_string().contains(said), "{source}");
        assert!(registry.asked().iter().any(|asked| asked.path.starts_with("/token")
            || asked.authorization.as_deref() == Some("Bearer hunter2")));
    }
    assert!(!other.asked().is_empty());
}

#[tokio::test]
async fn a_registry_that_limits_requests_is_waited_for() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    let made = TestImage::new("limited", &[500, 600]);
    let times = Arc::new(AtomicUsize::new(0));
    // Every second request is one too many: of the tag, the documents, and the layers.
    let registry = HandmadeRegistry::serve(move |asked| match times.fetch_add(1, Ordering::SeqCst) % 2 {
        0 => Reply::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#).with("retry-after", "1"),
        _ => honest(&made, asked),
    })
    .await;
    let pulled = place.pull(&format!("{}/me/fn:1", registry.address())).await;
    assert!(pulled.is_ok(), "{pulled:?}");
}

#[tokio::test]
async fn a_password_is_shown_in_the_form_that_the_token_server_knows() {
    require_root!();
    require!("containerd");
    let place = Place::start().await;
    for knows_only_post in [false, true] {
        let made = TestImage::new(&format!("form{knows_only_post}"), &[500]);
        let registry = HandmadeRegistry::serve(move |asked| {
            if asked.path.starts_with("/token") {
                let by_form = asked.body.contains("grant_type=password")
                    && asked.body.contains("username=team%2Da")
                    && asked.body.contains("password=pw");
                return match (asked.method.as_str(), asked.authorization.as_deref()) {
                    ("GET", Some("Basic dGVhbS1hOnB3")) if !knows_only_post => {
                        Reply::new(200, r#"{"token":"T"}"#)
                    }
                    ("GET", Some(_)) if knows_only_post => Reply::new(405, ""),
                    ("GET", _) => Reply::new(401, ""),
                    ("POST", None) if by_form => Reply::new(200, r#"{"access_token":"T"}"#),
                    _ => Reply::new(401, ""),
                };
            }
            match asked.authorization.as_deref() {
                Some("Bearer T") => honest(&made, asked),
                _ => refuse(asked, &["Bearer realm=\"REALM\""]),
            }
        })
        .await;
        let login = |user: &str| {
            let json = serde_json::json!({ "auths": {
                format!("{}/team-a", registry.address()): { "username": user, "password": "pw" },
                format!("{}/team-b", registry.address()): { "username": "team-b", "password": "pw" },
            } });
            std::fs::write(place.docker_config(), json.to_string()).expect("written");
        };
        login("team-a");
        place.resolve(&format!("{}/team-a/fn:1", registry.address())).await.expect("resolved");
        for path in ["team-b", "team-c"] {
            let error =
                place.resolve(&format!("{}/{path}/fn:1", registry.address())).await.expect_err("another's");
            assert!(matches!(error, RuntimeError::Unauthorized { .. }), "{error:?}");
        }
    }
}
