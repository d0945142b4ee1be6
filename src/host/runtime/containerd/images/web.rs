//! An HTTP client for a registry's host, and what its answers say besides their content.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::RETRY_AFTER;
use reqwest::Response;
use reqwest::redirect::Policy;
use serde::Deserialize;

use super::error::{Fault, brief};
use super::hosts::Host;
use super::json;
use super::trust;
use model::error::public_url;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Who we say we are.
const USER_AGENT: &str = concat!("ingle/", env!("CARGO_PKG_VERSION"));
/// What is read of the body of a refusal.
const MAX_REFUSAL: u64 = 64 << 10;

/// An HTTP client that trusts what `host` is to be trusted with, and the authorities in these files.
pub(super) fn client(
    host: &Host,
    authorities: &[Vec<u8>],
    redirects: Policy,
) -> Result<reqwest::Client, Fault> {
    let builder = reqwest::Client::builder();
    // Who speaks in the clear can be led anywhere, so certificates prove nothing after that, and need
    // not be read: a machine may have none.
    let builder = match host.skip_verify || host.plain {
        true => builder.danger_accept_invalid_certs(true),
        false if authorities.is_empty() => builder,
        false => builder.tls_backend_preconfigured(trust::config(authorities)?),
    };
    builder
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(redirects)
        .build()
        .map_err(|error| Fault::from_request(&error))
}

/// The first `limit` bytes of a body, and whether that is all of it.
pub(super) async fn read(response: &mut Response, limit: u64) -> Result<(Vec<u8>, bool), Fault> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| Fault::from_request(&error))? {
        let room = limit - bytes.len();
        if part.len() > room {
            bytes.extend_from_slice(&part[..room]);
            return Ok((bytes, false));
        }
        bytes.extend_from_slice(&part);
    }
    Ok((bytes, true))
}

/// Returns the time that the host wants to be left alone.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = httpdate::parse_http_date(text).ok()?;
    Some(time.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Returns the meaning of an answer that is not the thing itself.
pub(super) async fn refusal(mut response: Response) -> Fault {
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED {
        return Fault::Unauthorized;
    }
    let (url, after) = (public_url(response.url().as_str()), retry_after(&response));
    let (body, _) = match read(&mut response, MAX_REFUSAL).await {
        Ok(read) => read,
        Err(fault) => return fault,
    };
    let said = status.is_client_error().then(|| errors(&body, &url, after)).flatten();
    said.unwrap_or_else(|| Fault::from_status(status.as_u16(), &String::from_utf8_lossy(&body), after))
}

/// Returns the meaning of the first of a registry's own errors, if the body has any.
fn errors(body: &[u8], url: &str, after: Option<Duration>) -> Option<Fault> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Item {
        code: String,
        message: String,
    }
    let Body { errors } = json::from_slice(body).ok()?;
    let Item { code, message } = errors.into_iter().next()?;
    let (code, message) = (brief(code), brief(message));
    Some(match code.to_ascii_uppercase().as_str() {
        "UNAUTHORIZED" | "DENIED" => Fault::Unauthorized,
        "TOOMANYREQUESTS" => {
            Fault::Busy { cause: format!("it limits how often one may ask: {message}"), after }
        }
        // Whatever else it says about a request that is well formed: it does not have it.
        "BLOB_UNKNOWN"
        | "MANIFEST_BLOB_UNKNOWN"
        | "MANIFEST_UNKNOWN"
        | "NAME_INVALID"
        | "NAME_UNKNOWN"
        | "NOT_FOUND"
        | "TAG_INVALID" => Fault::NotFound,
        "" => return None,
        // The query of the URL, which is left out, may contain a signature that grants access.
        code => Fault::Foreign(format!("{url}: {code} {message}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_the_specification() {
        for (code, want) in [
            ("MANIFEST_UNKNOWN", Some(Fault::NotFound)),
            ("NAME_UNKNOWN", Some(Fault::NotFound)),
            ("DENIED", Some(Fault::Unauthorized)),
            ("denied", Some(Fault::Unauthorized)),
            ("", None),
        ] {
            let body = format!(r#"{{"errors":[{{"code":"{code}","detail":null}}]}}"#);
            assert_eq!(errors(body.as_bytes(), "", None), want, "{code}");
        }
        let after = Some(Duration::from_secs(3));
        let busy = errors(br#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#, "", after);
        assert!(matches!(busy, Some(Fault::Busy { after: Some(_), .. })), "{busy:?}");
        assert_eq!(errors(br#"{"detail":"no"}"#, "", None), None);
    }

    fn answer(name: &str, value: &str) -> Response {
        http::Response::builder().header(name, value).body("").expect("an answer").into()
    }

    #[test]
    fn a_time_to_come_back_is_read_in_both_forms() {
        let read = |text: &str| retry_after(&answer("Retry-After", text)).map(|time| time.as_secs());
        assert_eq!(read("120"), Some(120));
        assert_eq!(read(" 0 "), Some(0));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(50));
        assert!(read(&soon).is_some_and(|seconds| (45..=50).contains(&seconds)));
        for none in ["", "soon", "-1", "1.5"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
