//! `/system/cron`: functions that are called by a schedule.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

use super::params::{self, Params, PathName};
use super::{Answer, to_the_end};
use crate::gateway::error::ErrorResponse;
use ::calls::triggers::cron::{Cron, LastRun, Outcome, TimerStatus};
use control::fleet::Fleet;
use model::wire;

pub(super) fn routes(fleet: Arc<Fleet>, cron: Cron) -> Router {
    Router::new()
        .route("/system/cron", get(list))
        .route("/system/cron/{name}", post(run))
        .with_state((fleet, cron))
}

async fn list(
    State((fleet, cron)): State<(Arc<Fleet>, Cron)>,
    params: Params,
) -> Answer<Vec<wire::CronStatus>> {
    params.check(&["namespace"])?;
    let namespace = params.namespace(None)?;
    if let Some(namespace) = &namespace {
        params::known(&fleet, namespace)?;
    }
    let timers = cron.timers().into_iter();
    let meant =
        timers.filter(|timer| namespace.as_ref().is_none_or(|name| timer.function.namespace == *name));
    Ok(axum::Json(meant.map(status).collect()))
}

const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");

type Accepted = (StatusCode, [(HeaderName, HeaderValue); 1], axum::Json<wire::CronAccepted>);

async fn run(
    State((fleet, cron)): State<(Arc<Fleet>, Cron)>,
    PathName(name): PathName,
    params: Params,
) -> Result<Accepted, ErrorResponse> {
    params.check(&["namespace"])?;
    let key = params::function(&fleet, &name, params.namespace(None)?)?;
    let call_id = to_the_end(async move { cron.run_now(&key, Timestamp::now()).await }).await?;
    let header = HeaderValue::from_str(&call_id).unwrap_or(HeaderValue::from_static(""));
    Ok((StatusCode::ACCEPTED, [(CALL_ID, header)], axum::Json(wire::CronAccepted { call_id })))
}

/// How a timer is, as it is answered.
pub(super) fn status(timer: TimerStatus) -> wire::CronStatus {
    wire::CronStatus {
        name: timer.function.name.to_string(),
        namespace: timer.function.namespace.to_string(),
        schedule: timer.schedule.into(),
        time_zones: timer.zones,
        overlap: timer.overlap.to_string(),
        missed: timer.missed.to_string(),
        jitter_seconds: timer.jitter.as_secs(),
        last_run: timer.last.map(last_run),
        next_run: timer.next.map(|next| next.to_string()),
        waiting: timer.waiting as u64,
        left_out: timer
            .left_out
            .map(|left_out| wire::CronLeftOut { due: left_out.due.to_string(), reason: left_out.reason }),
        accepted: timer.counts.accepted,
        skipped: timer.counts.skipped,
        missed_runs: timer.counts.missed,
        problem: timer.problem,
    }
}

fn last_run(run: LastRun) -> wire::CronRun {
    let tried = match run.outcome {
        Outcome::Pending { tried } => tried.into(),
        Outcome::Ended(_) | Outcome::Unknown => 0,
    };
    wire::CronRun {
        call_id: run.call_id,
        due: run.due.map(|due| due.to_string()),
        at: run.at.to_string(),
        outcome: run.outcome.to_string(),
        tried,
    }
}
