//! Errors to HTTP: the one place that knows which error has which status.
//!
//! The body is the error's text and a newline, as the clients of this field print it, or
//! [`ErrorBody`] when the client asks for JSON. The codes are part of the API.

use std::error::Error;
use std::fmt::Write as _;

use axum::response::IntoResponse;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::invoke::InvokeError;
use crate::wire::ErrorBody;

/// An error as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// The status.
    pub status: StatusCode,
    /// The kind of error, for programs.
    pub code: &'static str,
    /// What is wrong, with which thing, and the way out.
    pub text: String,
    /// Seconds after which it is worth trying again.
    pub retry_after: Option<u32>,
}

impl ErrorAnswer {
    /// An answer with its text.
    pub fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), retry_after: None }
    }

    /// The same, with a hint when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The content type and body for a client with these request headers.
    pub fn body(&self, request: &HeaderMap) -> (&'static str, String) {
        if wants_json(request) {
            let body = ErrorBody { error: self.text.clone(), code: self.code.to_owned() };
            let json = serde_json::to_string(&body).expect("two strings are JSON");
            ("application/json", json)
        } else {
            ("text/plain; charset=utf-8", format!("{}\n", self.text))
        }
    }

    /// The whole answer for a client with these request headers.
    pub fn answer<B: From<String>>(&self, request: &HeaderMap) -> Response<B> {
        let (content_type, body) = self.body(request);
        let mut response = Response::new(B::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The answer as text, for handlers that do not look at `Accept`.
impl IntoResponse for ErrorAnswer {
    fn into_response(self) -> axum::response::Response {
        self.answer(&HeaderMap::new())
    }
}

/// Whether the client prefers JSON to text: it names JSON and does not take everything.
fn wants_json(request: &HeaderMap) -> bool {
    request.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|range| {
            range.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
        })
    })
}

/// An error and its causes in one line: what is answered says all that is known.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

impl From<InvokeError> for ErrorAnswer {
    fn from(error: InvokeError) -> Self {
        let (status, code) = match &error {
            InvokeError::NotFound { .. } => (StatusCode::NOT_FOUND, "function_not_found"),
            InvokeError::Failed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "function_failed"),
            InvokeError::TooManyWaiting { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too_many_waiting"),
            InvokeError::NoReplicaInTime { .. } => (StatusCode::GATEWAY_TIMEOUT, "no_replica_in_time"),
            InvokeError::NoAnswerInTime { .. } => (StatusCode::GATEWAY_TIMEOUT, "no_answer_in_time"),
            InvokeError::Unreachable { .. } => (StatusCode::BAD_GATEWAY, "function_unreachable"),
            InvokeError::BadAnswer { .. } => (StatusCode::BAD_GATEWAY, "bad_answer"),
            InvokeError::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            InvokeError::BodyStalled { .. } => (StatusCode::REQUEST_TIMEOUT, "body_stalled"),
            InvokeError::BadBody { .. } => (StatusCode::BAD_REQUEST, "bad_body"),
        };
        let answer = Self::new(status, code, chain(&error));
        if matches!(error, InvokeError::TooManyWaiting { .. }) { answer.retry_after(1) } else { answer }
    }
}
