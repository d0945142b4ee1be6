//! What list and describe answer.

use std::sync::Arc;
use std::time::Duration;

use directory::{Entry, Phase, View};
use host::runtime::{self, Progress, Runtime};
use model::wire;

/// How long processor time is measured over.
const SAMPLE: Duration = Duration::from_millis(250);

/// How a function is.
pub(super) fn of(entry: &Entry) -> wire::FunctionStatus {
    let view = entry.view();
    let sent = &*view.deployment;
    let mut labels = sent.labels.clone().unwrap_or_default();
    labels.insert("faas_function".into(), entry.key.name.to_string());
    let pulled = view.progress.as_ref().map(pulled);
    let reason = match (view.phase, &view.reason) {
        (Phase::Pulling, None) => pulled.clone(),
        (_, reason) => reason.clone(),
    };
    wire::FunctionStatus {
        name: entry.key.name.to_string(),
        image: sent.image.clone(),
        namespace: Some(entry.key.namespace.to_string()),
        env_process: sent.env_process.clone(),
        env_vars: sent.env_vars.clone(),
        constraints: sent.constraints.clone(),
        secrets: sent.secrets.clone(),
        labels: Some(labels),
        annotations: sent.annotations.clone(),
        limits: sent.limits.clone(),
        default_limits: view
            .default_memory
            .map(|bytes| wire::Resources { memory: Some(amount(bytes)), cpu: None }),
        requests: sent.requests.clone(),
        read_only_root_filesystem: sent.read_only_root_filesystem.unwrap_or(false),
        invocation_count: entry.stats.invocations(),
        replicas: view.desired,
        available_replicas: u32::try_from(view.endpoints.len()).unwrap_or(u32::MAX),
        created_at: Some(view.created_at.to_string()),
        phase: view.phase.to_string(),
        reason,
        image_digest: view.image_digest.clone(),
        revision: view.revision,
        restarts: view.restarts,
        oom_kills: view.oom_kills,
        update: view.update.as_ref().map(|update| wire::UpdateStatus {
            revision: update.revision,
            phase: update.phase.to_string(),
            reason: update.reason.clone().or_else(|| pulled.filter(|_| update.phase == Phase::Pulling)),
        }),
        ..wire::FunctionStatus::default()
    }
}

/// The same, with all that is known of its past.
pub(super) fn with_history(entry: &Entry) -> wire::FunctionStatus {
    let view = entry.view();
    let kept = view.revisions.clone();
    let revisions = kept.iter().rev().map(|kept| wire::KeptRevision {
        revision: kept.number,
        image: kept.image.clone(),
        image_digest: kept.digest.clone(),
        created_at: kept.created_at.to_string(),
    });
    let last_exit = view.last_exit.as_ref().map(|exit| wire::LastExit {
        replica: exit.replica.to_string(),
        revision: exit.revision,
        code: exit.code,
        out_of_memory: exit.out_of_memory,
        reason: exit.reason.clone(),
        at: exit.at.to_string(),
        output: exit.output.clone(),
    });
    wire::FunctionStatus { revisions: revisions.collect(), last_exit, ..of(entry) }
}

/// Formats an amount of memory the way clients write it.
fn amount(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{}Mi", bytes >> 20) } else { bytes.to_string() }
}

/// How far a pull has come, in words.
fn pulled(progress: &Progress) -> String {
    let report = progress.report();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    if report.total == 0 {
        "preparing the image".into()
    } else if report.done >= report.total {
        "unpacking the image".into()
    } else {
        let held_up = progress.held_up_by().map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("pulling {:.1}/{:.1} MB{held_up}", megabytes(report.done), megabytes(report.total))
    }
}

/// What the replicas of a function use together. A replica that ends meanwhile counts nothing.
pub(super) async fn usage(runtime: &dyn Runtime, view: &Arc<View>) -> wire::Usage {
    let sample = || async {
        let mut samples = Vec::with_capacity(view.endpoints.len());
        for endpoint in &view.endpoints {
            samples.push(runtime.usage(&endpoint.id).await.ok());
        }
        (samples, tokio::time::Instant::now())
    };
    let (before, began) = sample().await;
    tokio::time::sleep(SAMPLE).await;
    let (after, ended) = sample().await;
    let seconds = ended.duration_since(began).as_secs_f64();
    let mut total = wire::Usage::default();
    let both = before.into_iter().zip(after).filter_map(|(before, after)| Some((before?, after?)));
    for (before, after) in both {
        let runtime::Usage { cpu, memory } = after;
        total.cpu += cpu.saturating_sub(before.cpu).as_secs_f64() / seconds * 1000.0;
        total.total_memory_bytes += memory as f64;
    }
    total
}
