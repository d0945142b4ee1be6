//! `/system/logs`: a function's output, one JSON object a line, sent as it comes.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::params::{self, Params};
use crate::gateway::error::{ErrorCode, ErrorResponse};
use control::fleet::{Fleet, FleetError};
use host::logs::{Logs, Query};
use model::function::{FunctionKey, Invalid};
use model::wire;

type Handles = (Arc<Fleet>, Arc<Logs>);

pub(super) fn routes(fleet: Arc<Fleet>, logs: Arc<Logs>) -> Router {
    Router::new().route("/system/logs", get(read)).with_state((fleet, logs))
}

async fn read(State((fleet, logs)): State<Handles>, params: Params) -> Result<Response, ErrorResponse> {
    let (key, query) = question(&fleet, &params).map_err(|error| {
        ErrorResponse::new(ErrorCode::InvalidQuery, error.to_string())
            .with_status(StatusCode::UNPROCESSABLE_ENTITY)
    })?;
    if fleet.directory().get(&key).is_none() {
        return Err(FleetError::NotFound(key).into());
    }
    let lines = logs.query(&key, query).map(|line| Ok::<_, Infallible>(ndjson(&line)));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn question(fleet: &Fleet, params: &Params) -> Result<(FunctionKey, Query), Invalid> {
    let name = params.get("name").ok_or_else(|| Invalid::new("name", "is missing; name a function"))?;
    let key = params::function(fleet, name, params.namespace(None)?)?;
    let query = Query {
        tail: params.get("tail").map_or(Ok(None), tail)?,
        since: params.get("since").map(since).transpose()?,
        follow: params.switch("follow")?,
        instance: params.get("instance").map(str::to_owned),
    };
    Ok((key, query))
}

/// How many lines; 0 and less mean all of them, as clients send it.
fn tail(text: &str) -> Result<Option<usize>, Invalid> {
    let lines: i64 = text
        .parse()
        .map_err(|_| Invalid::new("tail", format!("{text:?} is not a number of lines; 0 is all of them")))?;
    Ok(usize::try_from(lines).ok().filter(|lines| *lines > 0))
}

fn since(text: &str) -> Result<jiff::Timestamp, Invalid> {
    text.parse().map_err(|_| {
        Invalid::new("since", format!("{text:?} is not a time in RFC 3339, such as 2026-01-31T08:00:00Z"))
    })
}

fn ndjson(line: &wire::LogLine) -> Bytes {
    let mut json = serde_json::to_vec(line).expect("strings are JSON");
    json.push(b'\n');
    json.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_of_0_or_less_is_everything() {
        for (text, lines) in [("0", None), ("-1", None), ("5", Some(5))] {
            assert_eq!(tail(text).expect(text), lines);
        }
        for text in ["many", "1.5", "99999999999999999999"] {
            assert_eq!(tail(text).expect_err(text).field, "tail");
        }
    }

    #[test]
    fn a_time_has_an_offset() {
        assert_eq!(since("2026-01-31T09:00:00+01:00"), since("2026-01-31T08:00:00Z"));
        assert_eq!(
            since("yesterday").expect_err("no time").to_string(),
            "since: \"yesterday\" is not a time in RFC 3339, such as 2026-01-31T08:00:00Z"
        );
        assert!(since("2026-01-31").is_err());
    }

    #[test]
    fn a_line_is_one_line() {
        let line = wire::LogLine {
            name: "env".into(),
            namespace: "openfaas-fn".into(),
            instance: "env-1".into(),
            timestamp: "2026-01-31T08:00:00Z".into(),
            text: "a \"b\"\n".into(),
        };
        assert_eq!(
            ndjson(&line),
            "{\"name\":\"env\",\"namespace\":\"openfaas-fn\",\"instance\":\"env-1\",\
             \"timestamp\":\"2026-01-31T08:00:00Z\",\"text\":\"a \\\"b\\\"\\n\"}\n"
        );
    }
}
