//! Errors to HTTP: the one place that knows which error has which status.
//!
//! The body is the error's text and a newline, as the clients of this field print it, or
//! [`ErrorBody`] when the client asks for JSON. The codes are part of the API.

use std::io;
use std::time::Duration;

use axum::response::IntoResponse;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use calls::invoke::InvokeError;
use calls::queue::QueueError;
use calls::triggers::cron::CronError;
use control::fleet::FleetError;
use control::images::DiskError;
use host::bundles::HandlerError;
use host::runtime::RuntimeError;
use host::secrets::SecretError;
use host::store::StoreError;
use http1::{self, HeadError};
use model::error::chain;
use model::function::Invalid;
use model::wire::ErrorBody;

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

    /// A head that did not arrive within the limit.
    pub(super) fn head_too_slow(limit: Duration) -> Self {
        let text = format!("the head of the request did not arrive within {limit:?} (gateway.idle_timeout)");
        Self::new(StatusCode::REQUEST_TIMEOUT, "head_too_slow", text)
    }

    /// A request for something that only proxies do.
    pub(super) fn not_a_proxy() -> Self {
        let text = "this is a gateway to functions, not a proxy: CONNECT is not served";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "not_a_proxy", text)
    }

    /// A request line that is not one of HTTP.
    pub(super) fn bad_target() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "the target of the request is malformed")
    }

    /// A handler of the API that did not end as it should.
    pub(super) fn internal() -> Self {
        let text = "the request was not carried out because of an error of the daemon: see its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
    }

    /// The same, with a hint when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The content type and body, as JSON or as text.
    pub fn body(&self, json: bool) -> (&'static str, String) {
        if json {
            let body = ErrorBody { error: self.text.clone(), code: self.code.to_owned() };
            let json = serde_json::to_string(&body).expect("two strings are JSON");
            ("application/json", json)
        } else {
            ("text/plain; charset=utf-8", format!("{}\n", self.text))
        }
    }

    /// The whole answer for a client with these request headers.
    pub fn answer<B: From<String>>(&self, request: &HeaderMap) -> Response<B> {
        let (content_type, body) = self.body(wants_json(request));
        let mut response = Response::new(B::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The answer as text, for handlers that do not look at `Accept`. It carries the error along, so that
/// the API can write it again as JSON.
impl IntoResponse for ErrorAnswer {
    fn into_response(self) -> axum::response::Response {
        let mut response = self.answer(&HeaderMap::new());
        response.extensions_mut().insert(self);
        response
    }
}

/// Whether the client asks for JSON by name.
fn wants_json(request: &HeaderMap) -> bool {
    request.get_all(ACCEPT).iter().any(|value| http1::wants_json(value.as_bytes()))
}

impl From<HeadError> for ErrorAnswer {
    fn from(error: HeadError) -> Self {
        let (status, code) = match error {
            HeadError::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
            HeadError::Bad(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            HeadError::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "bad_version"),
            HeadError::Coding => (StatusCode::NOT_IMPLEMENTED, "bad_coding"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<InvokeError> for ErrorAnswer {
    fn from(error: InvokeError) -> Self {
        let code = match &error {
            InvokeError::NotFound { .. } => "function_not_found",
            InvokeError::Failed { .. } => "function_failed",
            InvokeError::BackingOff { .. } => "backing_off",
            InvokeError::TooManyWaiting { .. } => "too_many_waiting",
            InvokeError::NoReplicaInTime { .. } => "no_replica_in_time",
            InvokeError::NoAnswerInTime { .. } => "no_answer_in_time",
            InvokeError::Unreachable { .. } => "function_unreachable",
            InvokeError::BadAnswer { .. } => "bad_answer",
            InvokeError::BodyTooLarge { .. } => "body_too_large",
            InvokeError::BodyStalled { .. } => "body_stalled",
            InvokeError::BadBody { .. } => "bad_body",
            InvokeError::CallerGone { .. } => "caller_gone",
        };
        let status = error.status();
        let answer = Self::new(status, code, chain(&error));
        match error {
            InvokeError::TooManyWaiting { .. } => answer.retry_after(1),
            InvokeError::BackingOff { wait, .. } => answer.retry_after(whole_seconds(wait)),
            _ => answer,
        }
    }
}

/// Rounded up: who comes back a moment too early has to come a third time.
fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

impl From<QueueError> for ErrorAnswer {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Full { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", error.to_string())
                    .retry_after(retry_after)
            }
            QueueError::NotFound { .. } | QueueError::UnknownCall { .. } => {
                Self::new(StatusCode::NOT_FOUND, "call_not_found", error.to_string())
            }
            QueueError::NoFunction { .. } => {
                Self::new(StatusCode::NOT_FOUND, "function_not_found", error.to_string())
            }
            QueueError::NoAnswer { .. } => {
                Self::new(StatusCode::NOT_FOUND, "answer_not_found", error.to_string())
            }
            QueueError::Unanswered { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "call_failed", error.to_string())
            }
            QueueError::Ending { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "call_ending", error.to_string())
            }
            QueueError::Ended { .. } => Self::new(StatusCode::CONFLICT, "call_ended", error.to_string()),
            QueueError::Spool(source)
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                let text = format!("the queue's directory has no room for the body: {source}");
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", text)
            }
            QueueError::Spool(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "queue_failed", chain(&error))
            }
            QueueError::Store(error) => error.into(),
        }
    }
}

impl From<CronError> for ErrorAnswer {
    fn from(error: CronError) -> Self {
        match error {
            CronError::NotFound(_) => {
                Self::new(StatusCode::NOT_FOUND, "function_not_found", error.to_string())
            }
            CronError::NoSchedule(_) => Self::new(StatusCode::CONFLICT, "no_schedule", error.to_string()),
            CronError::Queue(error) => error.into(),
            CronError::Store(error) => error.into(),
        }
    }
}

impl From<Invalid> for ErrorAnswer {
    fn from(error: Invalid) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", error.to_string())
    }
}

impl From<FleetError> for ErrorAnswer {
    fn from(error: FleetError) -> Self {
        let (status, code) = match error {
            FleetError::Invalid(invalid) => return invalid.into(),
            FleetError::Runtime(error) => return error.into(),
            FleetError::Secrets(error) => return error.into(),
            FleetError::Handler(HandlerError::NotFound(_)) => (StatusCode::BAD_REQUEST, "handler_not_found"),
            FleetError::Handler(error) => return error.into(),
            FleetError::Store(error) => return error.into(),
            FleetError::Disk(error) => return error.into(),
            FleetError::NotFound(_) => (StatusCode::NOT_FOUND, "function_not_found"),
            FleetError::NothingBefore { .. } => (StatusCode::CONFLICT, "nothing_before"),
            FleetError::RevisionWanted { .. } => (StatusCode::CONFLICT, "revision_wanted"),
            FleetError::RevisionNotFound { .. } => (StatusCode::NOT_FOUND, "revision_not_found"),
            FleetError::NamespaceNotFound(_) => (StatusCode::NOT_FOUND, "namespace_not_found"),
            FleetError::NamespaceExists(_) => (StatusCode::CONFLICT, "namespace_exists"),
            FleetError::NamespaceInUse { .. } => (StatusCode::CONFLICT, "namespace_in_use"),
            // Not 404, which clients take for "the function is not there" and deploy it anew.
            FleetError::SecretNotFound { .. } => (StatusCode::BAD_REQUEST, "secret_not_found"),
            FleetError::NoWatchdog(_) => (StatusCode::INTERNAL_SERVER_ERROR, "no_watchdog"),
            FleetError::BrokeOff => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            FleetError::ShuttingDown => {
                let text = error.to_string();
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", text).retry_after(5);
            }
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<RuntimeError> for ErrorAnswer {
    fn from(error: RuntimeError) -> Self {
        let (status, code) = match &error {
            RuntimeError::Down { .. } => (StatusCode::SERVICE_UNAVAILABLE, "containerd_unreachable"),
            RuntimeError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "containerd_timeout"),
            // An image that cannot be had is a fault of the request, and neither 404 nor 401, which
            // clients take for a missing function and for their own login.
            RuntimeError::ImageNotFound { .. } => (StatusCode::BAD_REQUEST, "image_not_found"),
            RuntimeError::ImageNotLoaded { .. } | RuntimeError::ImageGone { .. } => {
                (StatusCode::BAD_REQUEST, "image_not_loaded")
            }
            RuntimeError::Unauthorized { .. } => (StatusCode::BAD_REQUEST, "registry_unauthorized"),
            RuntimeError::RegistryUnreachable { .. } => (StatusCode::BAD_GATEWAY, "registry_unreachable"),
            RuntimeError::WrongPlatform { .. } => (StatusCode::BAD_REQUEST, "wrong_platform"),
            RuntimeError::NoCommand { .. } => (StatusCode::BAD_REQUEST, "no_command"),
            RuntimeError::BadImage { .. } => (StatusCode::BAD_REQUEST, "bad_image"),
            RuntimeError::BadRequest(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            RuntimeError::NotFound { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "container_not_found"),
            RuntimeError::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "containerd_failed"),
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<DiskError> for ErrorAnswer {
    fn from(error: DiskError) -> Self {
        let (status, code) = match error {
            DiskError::Runtime(error) => return error.into(),
            DiskError::Handlers(error) => return error.into(),
            DiskError::Store(error) => return error.into(),
            DiskError::ImageNotFound(_) => (StatusCode::NOT_FOUND, "image_not_found"),
            DiskError::ImageInUse { .. } => (StatusCode::CONFLICT, "image_in_use"),
            DiskError::NoRoom { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<StoreError> for ErrorAnswer {
    fn from(error: StoreError) -> Self {
        let (status, code) = match error {
            StoreError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "store_failed"),
            StoreError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            StoreError::ReadOnly { .. }
            | StoreError::Broken { .. }
            | StoreError::InUse { .. }
            | StoreError::Newer { .. }
            | StoreError::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "store_failed"),
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<HandlerError> for ErrorAnswer {
    fn from(error: HandlerError) -> Self {
        let (status, code) = match &error {
            HandlerError::NotFound(_) => (StatusCode::NOT_FOUND, "handler_not_found"),
            HandlerError::Digest { .. } => (StatusCode::BAD_REQUEST, "wrong_digest"),
            HandlerError::Malformed(_) => (StatusCode::BAD_REQUEST, "bad_handler"),
            HandlerError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "handler_too_large"),
            HandlerError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
                }
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "handlers_failed"),
            },
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<SecretError> for ErrorAnswer {
    fn from(error: SecretError) -> Self {
        let (status, code) = match error {
            SecretError::Invalid(invalid) => return invalid.into(),
            SecretError::NotFound { .. } => (StatusCode::NOT_FOUND, "secret_not_found"),
            SecretError::Exists { .. } => (StatusCode::CONFLICT, "secret_exists"),
            SecretError::InUse { .. } => (StatusCode::CONFLICT, "secret_in_use"),
            SecretError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "secret_too_large"),
            SecretError::ExportTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "export_too_large"),
            SecretError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "too_many_secrets"),
            SecretError::Io { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "secrets_failed"),
        };
        Self::new(status, code, chain(&error))
    }
}

#[cfg(test)]
mod tests;
