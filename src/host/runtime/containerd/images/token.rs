//! Exchanges an identity token, which some registries hand out at login instead of keeping a
//! password, for one that opens a repository. It is the part of the token protocol that oci-client
//! does not have.

use http::header::CONTENT_TYPE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::error::Fault;
use super::hosts::Host;
use super::web;
use model::error::public_url;

/// The most that an answer may have.
const MAX_ANSWER: u64 = 1 << 20;

/// A token for pulling from `repository`.
pub(super) async fn exchange(
    client: &reqwest::Client,
    host: &Host,
    repository: &str,
    identity_token: &str,
) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: String,
    }
    let failed = |error| Fault::from_request(&error);
    let scheme = if host.plain { "http" } else { "https" };
    let greeting = client.get(format!("{scheme}://{}/v2/", host.address)).send().await.map_err(failed)?;
    let (realm, service) = web::challenge(&greeting).and_then(bearer_challenge).ok_or_else(|| {
        Fault::Foreign(
            "its credentials are an identity token, and it does not say where to exchange it".into(),
        )
    })?;
    if realm.starts_with("http://") && !host.plain {
        return Err(Fault::Foreign(format!(
            "it wants the credentials to be sent to {} in the clear",
            public_url(&realm)
        )));
    }
    let shown = public_url(&realm);
    let scope = format!("repository:{repository}:pull");
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "ingle"),
        ("service", service.as_str()),
        ("scope", scope.as_str()),
        ("refresh_token", identity_token),
    ]
    .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
    .join("&");
    let mut answer = client
        .post(&realm)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .map_err(failed)?;
    match answer.status().as_u16() {
        200 => {}
        400 | 401 | 403 => return Err(Fault::Unauthorized),
        code => return Err(Fault::Busy(format!("{shown} answered {code}"))),
    }
    let (text, is_whole) = web::read(&mut answer, MAX_ANSWER).await?;
    if !is_whole {
        return Err(Fault::Foreign(format!("{shown} sent more than a token")));
    }
    let answer: Answer =
        serde_json::from_slice(&text).map_err(|_| Fault::Foreign(format!("{shown} sent no token")))?;
    Ok(answer.access_token)
}

/// Realm and service of `Bearer realm="…",service="…"`.
fn bearer_challenge(header: &str) -> Option<(String, String)> {
    let (scheme, mut rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, String::new());
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']);
        let value;
        if let Some(quoted) = after.strip_prefix('"') {
            (value, rest) = quoted.split_once('"')?;
        } else {
            (value, rest) = after.split_once(',').unwrap_or((after, ""));
        }
        match name {
            "realm" => realm = Some(value.to_owned()),
            "service" => value.clone_into(&mut service),
            _ => {}
        }
    }
    Some((realm?, service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let read = |header| bearer_challenge(header).map(|(realm, service)| format!("{realm} {service}"));
        assert_eq!(
            read(r#"Bearer realm="https://a/token?x=1,2",service="r.example",scope="a:b""#).as_deref(),
            Some("https://a/token?x=1,2 r.example")
        );
        assert_eq!(read("bearer service=s, realm=\"r\"").as_deref(), Some("r s"));
        for none in ["Basic realm=\"x\"", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"x", ""] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
