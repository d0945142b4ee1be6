//! Delivery of callbacks: one attempt of one callback.

use std::io;
use std::path::Path;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http1::Header;
use jiff::Timestamp;
use tokio_util::io::ReaderStream;

use super::client::{Client, NoLookup};
use super::signature::Keys;
use crate::queue::job::{Ended, Job, JobMetadata};
use crate::queue::run::body::{BodySource, is_shortage};
use crate::queue::run::outcome::Outcome;
use crate::queue::run::response::header_lines;
use crate::queue::schedule::retry::retry_after;
use crate::queue::spool::Spool;

/// How long callbacks are left alone that this machine cannot send now.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a receiver's answer that are read, so that the connection can be used again.
const ANSWER: usize = 16 << 10;
/// Bytes that are read of a file at a time.
const PIECE: usize = 64 << 10;

/// Sends a callback once.
pub(in crate::queue) async fn deliver(
    client: &Client,
    job: &Job,
    ended: &Ended,
    spool: &Spool,
    secret: Option<&Path>,
    longest_pause: Duration,
) -> Outcome {
    // Also when it was checked before: the configuration may have changed.
    let url = job.facts.callback.as_ref().map_or("", |callback| &*callback.url);
    let receiver = match client.policy().receiver(url) {
        Ok(receiver) => receiver,
        Err(reason) => {
            return Outcome::Permanent { reason: format!("the receiver cannot be called: {reason}") };
        }
    };
    let ours = |reason: String| Outcome::Busy { pause: PAUSE, reason };
    let http = match client.http() {
        Ok(http) => http,
        Err(error) => return ours(format!("callbacks cannot be sent: {}", model::error::chain(&error))),
    };
    let size = job.payload.body_size();
    let (head, mut body) = match BodySource::open(&job.payload, spool).await {
        Ok(opened) => opened,
        Err(outcome) => return outcome,
    };
    let mut headers = answered(&head, &job.facts, ended);
    // A function of this machine knows who calls.
    if let Some(path) = secret.filter(|_| !receiver.is_gateway) {
        match sign(path, &ended.message_id, &mut body).await {
            Ok(signed) => headers.extend(signed.into_iter().map(|(name, value)| (Some(name), value))),
            // Never without: a receiver would have to take what anybody sends.
            Err(reason) => return ours(reason),
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    let body = match body {
        BodySource::Memory(bytes) => reqwest::Body::from(bytes.to_vec()),
        BodySource::File(file) => reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, PIECE)),
    };
    let (timeout, is_gateway) = (client.timeout_of(&receiver), receiver.is_gateway);
    match http.post(receiver.url).timeout(timeout).headers(headers).body(body).send().await {
        Ok(answer) => judge(answer, is_gateway, longest_pause).await,
        // Our own gateway does not listen yet, or not any more.
        Err(error) if error.is_connect() && (is_gateway || is_for_want_of_room(&error)) => {
            ours(format!("no receiver can be reached now: {}", model::error::chain(&error.without_url())))
        }
        // The URL may have a token in it, and is kept beside this already.
        Err(error) => {
            let reason =
                format!("the receiver was not reached: {}", model::error::chain(&error.without_url()));
            Outcome::Retryable { code: None, pause: None, reason }
        }
    }
}

/// The headers of the function's answer, and what is known of the call.
fn answered(head: &[u8], facts: &JobMetadata, ended: &Ended) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in header_lines(head).filter(|(name, _)| !is_ours(name.as_str())) {
        headers.append(name, value);
    }
    let took = Duration::from_micros(ended.took_us);
    let said = [
        ("x-attempts", ended.retries.saturating_add(1).to_string()),
        ("x-call-id", facts.call_id.to_string()),
        ("x-duration-seconds", format!("{}.{:06}", took.as_secs(), took.subsec_micros())),
        ("x-function-name", facts.function.to_string()),
        ("x-function-status", ended.status.to_string()),
        ("x-retry", ended.retries.to_string()),
        ("x-retry-max", ended.most_retries.to_string()),
    ];
    let omitted = ended.omitted.as_ref().map(|reason| ("x-body-omitted", reason.to_string()));
    for (name, text) in said.into_iter().chain(omitted) {
        // An id may be anything that HTTP lets a client send.
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Whether a function has no say in what this header is.
fn is_ours(name: &str) -> bool {
    // They say how the answer came.
    let is_transport = matches!(
        Header::of(name),
        Header::Hop
            | Header::Connection
            | Header::ContentLength
            | Header::Expect
            | Header::Host
            | Header::TransferEncoding
            | Header::Upgrade
    );
    // Who is called back by another function would call back in turn, and so on.
    let begins = [
        "webhook-",
        "x-attempts",
        "x-body-omitted",
        "x-call-id",
        "x-duration-seconds",
        "x-function-",
        "x-retry",
    ];
    is_transport
        || matches!(name, "user-agent" | "x-callback-url")
        || begins.iter().any(|start| name.starts_with(start))
}

/// The headers by which a receiver knows that the callback is ours, that it is whole, and that it is not an old one.
async fn sign(
    secret: &Path,
    id: &str,
    body: &mut BodySource<'_>,
) -> Result<[(HeaderName, HeaderValue); 3], String> {
    // Read for each, so that a secret can be changed while the daemon runs.
    let keys = Keys::read(secret).await?;
    let at = Timestamp::now();
    let mut signing = keys.begin(id, at);
    match body {
        BodySource::Memory(bytes) => signing.update(bytes),
        BodySource::File(file) => {
            let read = signing.update_from(file).await;
            read.map_err(|error| format!("the answer cannot be read from the disk: {error}"))?;
        }
    }
    let value = |text: String| HeaderValue::try_from(text).map_err(|error| error.to_string());
    Ok([
        (HeaderName::from_static("webhook-id"), value(id.to_owned())?),
        (HeaderName::from_static("webhook-timestamp"), HeaderValue::from(at.as_second())),
        (HeaderName::from_static("webhook-signature"), value(signing.finish())?),
    ])
}

/// Judges a receiver's answer: it has taken the callback, or it has not.
async fn judge(mut answer: reqwest::Response, is_gateway: bool, longest_pause: Duration) -> Outcome {
    let status = answer.status();
    let pause = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
    // A receiver is anybody: what it asks for must not keep a place in the queue for long.
    let pause =
        pause.and_then(|value| retry_after(value, Timestamp::now())).map(|asked| asked.min(longest_pause));
    let mut left = ANSWER;
    while let Ok(Some(piece)) = answer.chunk().await {
        match left.checked_sub(piece.len()) {
            Some(less) => left = less,
            None => break,
        }
    }
    if status.is_success() {
        return Outcome::Success;
    }
    let who = if is_gateway { "the gateway" } else { "the receiver" };
    let code = status.as_u16();
    // It is not there any more, and says so.
    if status == http::StatusCode::GONE {
        return Outcome::Permanent { reason: format!("{who} answered {code}: it wants no more") };
    }
    let redirects = if status.is_redirection() { ", and redirects are not followed" } else { "" };
    Outcome::Retryable { code: Some(code), pause, reason: format!("{who} answered {code}{redirects}") }
}

/// Whether this process has no files left, or no thread to look a name up.
fn is_for_want_of_room(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<NoLookup>() || error.downcast_ref::<io::Error>().is_some_and(is_shortage) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::function::FunctionKey;

    #[test]
    fn a_function_cannot_say_what_is_ours_to_say() {
        let key = FunctionKey::parse("env").expect("a name");
        let facts = JobMetadata::new(key, "an \u{e9} id".into(), "POST".into(), "/");
        let ended = Ended {
            message_id: String::new(),
            status: 201,
            took_us: 1_000_002,
            retries: 1,
            most_retries: 9,
            omitted: None,
        };
        let head = b"Content-Type: text/plain\r\nX-Mine: 1\r\nx-mine: 2\r\nContent-Length: 7\r\nHost: evil\r\n\
            X-Function-Status: 200\r\nX-Function-Name: other\r\nX-Call-Id: other\r\nWebhook-Signature: v1,x\r\n\
            Webhook-Id: other\r\nX-Retry: 7\r\nX-Attempts: 9\r\nX-Body-Omitted: lost\r\nX-Duration-Seconds: 0\r\n\
            Connection: close\r\nTransfer-Encoding: chunked\r\nX-Callback-Url: http://a/\r\nbad name: x\r\nnothing\r\n";
        let headers = answered(head, &facts, &ended);
        let mut found: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ("content-type", &b"text/plain"[..]),
                ("x-attempts", b"2"),
                ("x-call-id", "an \u{e9} id".as_bytes()),
                ("x-duration-seconds", b"1.000002"),
                ("x-function-name", b"env.openfaas-fn"),
                ("x-function-status", b"201"),
                ("x-mine", b"1"),
                ("x-mine", b"2"),
                ("x-retry", b"1"),
                ("x-retry-max", b"9"),
            ]
        );
    }
}
