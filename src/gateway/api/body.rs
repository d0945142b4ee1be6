//! JSON bodies: read whole, within a size and a time.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::gateway::connection::places::Collected;
use crate::gateway::error::{ErrorCode, ErrorResponse};

/// The largest body in bytes, where nothing else is said.
pub(super) const LIMIT: usize = 1 << 20;
/// How long a client may take to send a body of this kind.
const TIME: Duration = Duration::from_secs(30);

/// A JSON body of at most `MAX` bytes. Its content type is not looked at: clients leave it out.
pub(super) struct Json<T, const MAX: usize = LIMIT>(pub(super) T);

impl<T: DeserializeOwned, S: Sync, const MAX: usize> FromRequest<S> for Json<T, MAX> {
    type Rejection = ErrorResponse;

    async fn from_request(request: Request, _: &S) -> Result<Self, ErrorResponse> {
        let bytes = read(request, MAX).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let text = format!("the body is not the JSON that is expected here: {error}");
            ErrorResponse::new(ErrorCode::InvalidJson, text)
        })
    }
}

/// The same, where a body may be left out.
pub(super) struct MaybeJson<T>(pub(super) Option<T>);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for MaybeJson<T> {
    type Rejection = ErrorResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, ErrorResponse> {
        if http_body::Body::is_end_stream(request.body()) {
            return Ok(Self(None));
        }
        Json::<T>::from_request(request, state).await.map(|Json(body)| Self(Some(body)))
    }
}

async fn read(request: Request, limit: usize) -> Result<bytes::Bytes, ErrorResponse> {
    let collected = request.extensions().get::<Collected>().cloned().unwrap_or_default();
    let body = request.into_body();
    if http_body::Body::size_hint(&body).lower() > limit as u64 {
        return Err(too_large(limit as u64));
    }
    let body = body.map_frame(move |frame| {
        collected.add(frame.data_ref().map_or(0, bytes::Bytes::len));
        frame
    });
    match tokio::time::timeout(TIME, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit as u64)),
        Ok(Err(error)) => Err(cut(&*error)),
        Err(_) => Err(stalled(TIME)),
    }
}

pub(super) fn too_large(limit: u64) -> ErrorResponse {
    let text = format!("the body is larger than the {limit} bytes that are taken here");
    ErrorResponse::new(ErrorCode::BodyTooLarge, text)
}

pub(super) fn cut(error: &(dyn std::error::Error + 'static)) -> ErrorResponse {
    let text = format!("the body could not be read to its end: {error}");
    ErrorResponse::new(ErrorCode::BadBody, text)
}

pub(super) fn stalled(limit: Duration) -> ErrorResponse {
    let text = format!("the body did not arrive within {limit:?}");
    ErrorResponse::new(ErrorCode::BodyStalled, text)
}
