//! What an owner publishes of its function.

use std::sync::Arc;

use tokio::time::Instant;

use super::slot::Stage;
use super::{Owner, StoredFunction};
use crate::fleet::context::Context;
use crate::replica::Revision;
use directory::{Endpoint, Phase, Update, View};

impl Owner {
    /// Publishes how the function is now.
    pub(super) fn publish(&mut self) {
        let endpoints: Vec<Arc<Endpoint>> = self
            .slots
            .iter()
            .filter_map(|slot| match &slot.stage {
                Stage::Ready { endpoint, .. } => Some(endpoint.clone()),
                Stage::Pulling | Stage::Starting | Stage::Draining => None,
            })
            .collect();
        let shown = self.serving.as_ref().unwrap_or(&self.wanted);
        let pulling = self.slots.iter().find(|slot| matches!(slot.stage, Stage::Pulling));
        let on_its_way = if pulling.is_some() { Phase::Pulling } else { Phase::Starting };
        let retry_at = self.backoff.until(Instant::now());
        let phase = if self.removing {
            Phase::Removing
        } else if !endpoints.is_empty() {
            Phase::Ready
        } else if self.hopeless {
            Phase::Failed
        } else if self.record.desired == 0 {
            Phase::Stopped
        } else if retry_at.is_some() {
            Phase::BackingOff
        } else {
            on_its_way
        };
        let update = if shown.number == self.wanted.number {
            self.record.failure.as_ref().map(|failure| Update {
                revision: failure.revision,
                phase: Phase::Failed,
                reason: Some(failure.reason.clone()),
            })
        } else {
            Some(Update { revision: self.wanted.number, phase: on_its_way, reason: None })
        };
        self.publisher.publish(View {
            phase,
            reason: self.reason.clone(),
            update,
            progress: pulling.map(|slot| slot.progress.clone()),
            endpoints,
            restarts: self.restarts,
            crash_looping: self.backoff.is_loop(),
            retry_at: retry_at.filter(|_| phase == Phase::BackingOff),
            revisions: self.history.clone(),
            last_exit: self.last_exit.clone(),
            oom_kills: self.oom_kills,
            ..base_view(&self.context, shown, self.record.desired)
        });
    }
}

/// The view of a function whose owner has not begun.
pub(super) fn first(context: &Context, known: &StoredFunction) -> View {
    let shown = known.serving.as_ref().unwrap_or(&known.wanted);
    View { revisions: known.history.clone(), ..base_view(context, shown, known.record.desired) }
}

fn base_view(context: &Context, shown: &Arc<Revision>, desired: u32) -> View {
    let config = &context.config;
    View {
        deployment: shown.deployment.clone(),
        spec: shown.spec.clone(),
        revision: shown.number,
        phase: Phase::Starting,
        reason: None,
        update: None,
        progress: None,
        endpoints: Vec::new(),
        desired,
        created_at: shown.created_at,
        image_digest: Some(shown.image.digest.clone()),
        restarts: 0,
        oom_kills: 0,
        default_memory: shown.default_memory(context.default_memory),
        last_exit: None,
        revisions: Arc::default(),
        retry_at: None,
        crash_looping: false,
        timeout: shown.timeout(config.timeout),
        body_limit: shown.spec.body_limit.unwrap_or(config.body_limit),
    }
}
