//! Errors to HTTP: the one place that knows which error has which code, and so which status.
//!
//! The body is the error's text and a newline, as the clients of this field print it, or
//! [`ErrorBody`] when the client asks for JSON. The codes are part of the API.

mod code;

pub use code::ErrorCode;

use std::io;
use std::time::Duration;

use axum::body::Body;
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
pub struct ErrorResponse {
    /// The status.
    pub status: StatusCode,
    /// The kind of error, for programs.
    pub code: ErrorCode,
    /// What is wrong, with which thing, and the way out.
    pub text: String,
    /// Seconds after which it is worth trying again.
    pub retry_after: Option<u32>,
}

impl ErrorResponse {
    /// Returns the response to an error of this kind, with its usual status.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { status: code.status(), code, text: text.into(), retry_after: None }
    }

    /// Replaces the status by another one.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// A head that did not arrive within the limit.
    pub(super) fn head_too_slow(limit: Duration) -> Self {
        let text = format!("the head of the request did not arrive within {limit:?} (gateway.idle_timeout)");
        Self::new(ErrorCode::HeadTooSlow, text)
    }

    /// A request for something that only proxies do.
    pub(super) fn not_a_proxy() -> Self {
        let text = "this is a gateway to functions, not a proxy: CONNECT is not served";
        Self::new(ErrorCode::NotAProxy, text)
    }

    /// A request that has passed through this gateway too often.
    pub(super) fn loop_detected(hops: usize) -> Self {
        let text = format!(
            "the request has passed through this gateway {hops} times (Via): a function calls itself, directly or \
             through others; call another function, or remove Via if the loop is intended"
        );
        Self::new(ErrorCode::LoopDetected, text)
    }

    /// A request line that is not one of HTTP.
    pub(super) fn bad_target() -> Self {
        Self::new(ErrorCode::BadRequest, "the target of the request is malformed")
    }

    /// A handler of the API that did not end as it should.
    pub(super) fn internal() -> Self {
        let text = "the request was not carried out because of an error of the daemon: see its log";
        Self::new(ErrorCode::Internal, text)
    }

    /// Adds after how many seconds it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The content type and body, as JSON or as text.
    pub fn body(&self, json: bool) -> (&'static str, String) {
        if json {
            let body = ErrorBody { error: self.text.clone(), code: self.code.as_str().to_owned() };
            let json = serde_json::to_string(&body).expect("two strings are JSON");
            ("application/json", json)
        } else {
            ("text/plain; charset=utf-8", format!("{}\n", self.text))
        }
    }

    /// The whole answer, as JSON or as text.
    pub(super) fn answer(&self, json: bool) -> Response<Body> {
        let (content_type, body) = self.body(json);
        let mut response = Response::new(Body::from(body));
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
impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response<Body> {
        let mut response = self.answer(false);
        response.extensions_mut().insert(self);
        response
    }
}

/// Whether the client asks for JSON by name.
pub(super) fn wants_json(request: &HeaderMap) -> bool {
    request.get_all(ACCEPT).iter().any(|value| http1::wants_json(value.as_bytes()))
}

impl From<HeadError> for ErrorResponse {
    fn from(error: HeadError) -> Self {
        let code = match error {
            HeadError::TooLarge => ErrorCode::HeadTooLarge,
            HeadError::Bad(_) => ErrorCode::BadRequest,
            HeadError::Version => ErrorCode::BadVersion,
            HeadError::Coding => ErrorCode::BadCoding,
        };
        Self::new(code, error.to_string())
    }
}

impl From<InvokeError> for ErrorResponse {
    fn from(error: InvokeError) -> Self {
        let code = match &error {
            InvokeError::NotFound { .. } => ErrorCode::FunctionNotFound,
            InvokeError::Failed { .. } => ErrorCode::FunctionFailed,
            InvokeError::BackingOff { .. } => ErrorCode::BackingOff,
            InvokeError::TooManyWaiting { .. } => ErrorCode::TooManyWaiting,
            InvokeError::NoReplicaInTime { .. } => ErrorCode::NoReplicaInTime,
            InvokeError::NoAnswerInTime { .. } => ErrorCode::NoAnswerInTime,
            InvokeError::Unreachable { .. } => ErrorCode::FunctionUnreachable,
            InvokeError::BadAnswer { .. } => ErrorCode::BadAnswer,
            InvokeError::BodyTooLarge { .. } => ErrorCode::BodyTooLarge,
            InvokeError::BodyStalled { .. } => ErrorCode::BodyStalled,
            InvokeError::BadBody { .. } => ErrorCode::BadBody,
            InvokeError::CallerGone { .. } => ErrorCode::CallerGone,
        };
        let retry_after = error.retry_after().map(whole_seconds);
        Self { retry_after, ..Self::new(code, chain(&error)) }
    }
}

/// Whether a disk is full, or what may be written to it.
pub(super) fn has_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Rounded up: who comes back a moment too early has to come a third time.
pub(super) fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

impl From<QueueError> for ErrorResponse {
    fn from(error: QueueError) -> Self {
        let code = match error {
            QueueError::Full { retry_after, .. } => {
                return Self::new(ErrorCode::QueueFull, error.to_string()).retry_after(retry_after);
            }
            QueueError::NotFound { .. } | QueueError::UnknownCall { .. } => ErrorCode::CallNotFound,
            QueueError::NoFunction { .. } => ErrorCode::FunctionNotFound,
            QueueError::NoAnswer { .. } => ErrorCode::AnswerNotFound,
            QueueError::Unanswered { .. } => ErrorCode::CallFailed,
            QueueError::Ending { .. } => ErrorCode::CallEnding,
            QueueError::Ended { .. } => ErrorCode::CallEnded,
            QueueError::Spool(source) if has_no_room(&source) => {
                let text = format!("the queue's directory has no room for the body: {source}");
                return Self::new(ErrorCode::DiskFull, text);
            }
            QueueError::Spool(_) => ErrorCode::QueueFailed,
            QueueError::Store(error) => return error.into(),
        };
        Self::new(code, chain(&error))
    }
}

impl From<CronError> for ErrorResponse {
    fn from(error: CronError) -> Self {
        let code = match error {
            CronError::NotFound(_) => ErrorCode::FunctionNotFound,
            CronError::NoSchedule(_) => ErrorCode::NoSchedule,
            CronError::Queue(error) => return error.into(),
            CronError::Store(error) => return error.into(),
        };
        Self::new(code, chain(&error))
    }
}

impl From<Invalid> for ErrorResponse {
    fn from(error: Invalid) -> Self {
        Self::new(ErrorCode::InvalidRequest, error.to_string())
    }
}

impl From<FleetError> for ErrorResponse {
    fn from(error: FleetError) -> Self {
        let code = match error {
            FleetError::Invalid(invalid) => return invalid.into(),
            FleetError::Runtime(error) => return error.into(),
            FleetError::Secrets(error) => return error.into(),
            FleetError::Handler(HandlerError::NotFound(_)) => {
                return Self::new(ErrorCode::HandlerNotFound, chain(&error))
                    .with_status(StatusCode::BAD_REQUEST);
            }
            FleetError::Handler(error) => return error.into(),
            FleetError::Store(error) => return error.into(),
            FleetError::Disk(error) => return error.into(),
            FleetError::NotFound(_) => ErrorCode::FunctionNotFound,
            FleetError::NothingBefore { .. } => ErrorCode::NothingBefore,
            FleetError::RevisionWanted { .. } => ErrorCode::RevisionWanted,
            FleetError::RevisionNotFound { .. } => ErrorCode::RevisionNotFound,
            FleetError::NamespaceNotFound(_) => ErrorCode::NamespaceNotFound,
            FleetError::NothingSetAside(_) => ErrorCode::NothingSetAside,
            FleetError::NamespaceExists(_) => ErrorCode::NamespaceExists,
            FleetError::NamespaceInUse { .. } => ErrorCode::NamespaceInUse,
            // Not 404, which clients take for "the function is not there" and deploy it anew.
            FleetError::SecretNotFound { .. } => {
                return Self::new(ErrorCode::SecretNotFound, chain(&error))
                    .with_status(StatusCode::BAD_REQUEST);
            }
            FleetError::NoWatchdog(_) => ErrorCode::NoWatchdog,
            FleetError::BrokeOff => ErrorCode::Internal,
            FleetError::ShuttingDown => {
                let text = error.to_string();
                return Self::new(ErrorCode::ShuttingDown, text).retry_after(5);
            }
        };
        Self::new(code, chain(&error))
    }
}

impl From<RuntimeError> for ErrorResponse {
    fn from(error: RuntimeError) -> Self {
        let code = match &error {
            RuntimeError::Down { .. } => ErrorCode::ContainerdUnreachable,
            RuntimeError::Timeout { .. } => ErrorCode::ContainerdTimeout,
            // An image that cannot be had is a fault of the request, and neither 404 nor 401, which
            // clients take for a missing function and for their own login.
            RuntimeError::ImageNotFound { .. } => ErrorCode::ImageNotFound,
            RuntimeError::ImageNotLoaded { .. } | RuntimeError::ImageGone { .. } => ErrorCode::ImageNotLoaded,
            RuntimeError::Unauthorized { .. } => ErrorCode::RegistryUnauthorized,
            RuntimeError::RegistryUnreachable { .. } => ErrorCode::RegistryUnreachable,
            RuntimeError::WrongPlatform { .. } => ErrorCode::WrongPlatform,
            RuntimeError::NoCommand { .. } => ErrorCode::NoCommand,
            RuntimeError::BadImage { .. } => ErrorCode::BadImage,
            RuntimeError::BadRequest(_) => ErrorCode::InvalidRequest,
            RuntimeError::NotFound { .. } => ErrorCode::ContainerNotFound,
            RuntimeError::Failed { .. } => ErrorCode::ContainerdFailed,
        };
        Self::new(code, chain(&error))
    }
}

impl From<DiskError> for ErrorResponse {
    fn from(error: DiskError) -> Self {
        let code = match error {
            DiskError::Runtime(error) => return error.into(),
            DiskError::Handlers(error) => return error.into(),
            DiskError::Store(error) => return error.into(),
            DiskError::ImageNotFound(_) => {
                return Self::new(ErrorCode::ImageNotFound, chain(&error)).with_status(StatusCode::NOT_FOUND);
            }
            DiskError::ImageInUse { .. } => ErrorCode::ImageInUse,
            DiskError::NoRoom { .. } => ErrorCode::DiskFull,
        };
        Self::new(code, chain(&error))
    }
}

impl From<StoreError> for ErrorResponse {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Closed | StoreError::OutOfService { .. } => {
                return Self::new(ErrorCode::StoreFailed, chain(&error))
                    .with_status(StatusCode::SERVICE_UNAVAILABLE);
            }
            StoreError::Full { .. } => ErrorCode::DiskFull,
            StoreError::Unusable { .. } => ErrorCode::StoreUnusable,
            StoreError::Held { .. } => ErrorCode::StateMissing,
            StoreError::ReadOnly { .. }
            | StoreError::Broken { .. }
            | StoreError::InUse { .. }
            | StoreError::Newer { .. }
            | StoreError::Failed { .. } => ErrorCode::StoreFailed,
        };
        Self::new(code, chain(&error))
    }
}

impl From<HandlerError> for ErrorResponse {
    fn from(error: HandlerError) -> Self {
        let code = match &error {
            HandlerError::NotFound(_) => ErrorCode::HandlerNotFound,
            HandlerError::Digest { .. } => ErrorCode::WrongDigest,
            HandlerError::Malformed(_) => ErrorCode::BadHandler,
            HandlerError::TooLarge { .. } => ErrorCode::HandlerTooLarge,
            HandlerError::Io { source, .. } if has_no_room(source) => ErrorCode::DiskFull,
            HandlerError::Io { .. } => ErrorCode::HandlersFailed,
        };
        Self::new(code, chain(&error))
    }
}

impl From<SecretError> for ErrorResponse {
    fn from(error: SecretError) -> Self {
        let code = match error {
            SecretError::Invalid(invalid) => return invalid.into(),
            SecretError::NotFound { .. } => ErrorCode::SecretNotFound,
            SecretError::Exists { .. } => ErrorCode::SecretExists,
            SecretError::InUse { .. } => ErrorCode::SecretInUse,
            SecretError::TooLarge { .. } => ErrorCode::SecretTooLarge,
            SecretError::ExportTooLarge { .. } => ErrorCode::ExportTooLarge,
            SecretError::Full { .. } => ErrorCode::TooManySecrets,
            SecretError::Io { .. } => ErrorCode::SecretsFailed,
        };
        Self::new(code, chain(&error))
    }
}

#[cfg(test)]
mod tests;
