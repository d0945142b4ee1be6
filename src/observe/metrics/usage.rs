//! What functions use, asked of the engine when metrics are read.
//!
//! Invariant: however often metrics are read, and by however many, the engine is asked by one at a
//! time, for a bounded time, and not again before [`FRESH`] is over.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::exposition::{Kind, Text};
use directory::Entry;
use host::runtime::{Runtime, Usage};
use model::function::FunctionKey;

/// For how long a reading is given out again.
const FRESH: Duration = Duration::from_secs(5);
/// How long a reading may take; replicas that were not read by then are left out.
const TIME: Duration = Duration::from_secs(2);
/// Replicas that are read at the same time.
const PARALLEL: usize = 8;

/// Reads what functions use.
#[derive(Debug)]
pub(super) struct UsageReader {
    runtime: Arc<dyn Runtime>,
    last: Mutex<Option<(Instant, Arc<[FunctionUsage]>)>>,
}

/// What all replicas of a function use together.
#[derive(Debug, Clone)]
pub(super) struct FunctionUsage {
    key: FunctionKey,
    usage: Usage,
}

impl UsageReader {
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, last: Mutex::new(None) }
    }

    /// What they use now, or did a moment ago.
    pub(super) async fn read(&self, entries: &[Arc<Entry>]) -> Arc<[FunctionUsage]> {
        let mut last = self.last.lock().await;
        if let Some((at, usages)) = &*last
            && at.elapsed() < FRESH
        {
            return usages.clone();
        }
        let usages: Arc<[FunctionUsage]> = self.ask(entries).await.into();
        *last = Some((Instant::now(), usages.clone()));
        usages
    }

    async fn ask(&self, entries: &[Arc<Entry>]) -> Vec<FunctionUsage> {
        let replicas: Vec<_> = entries
            .iter()
            .enumerate()
            .flat_map(|(i, entry)| {
                let ids: Vec<_> = entry.peek().endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
                ids.into_iter().map(move |id| (i, id))
            })
            .collect();
        let mut found = vec![None::<Usage>; entries.len()];
        let mut readings = futures_util::stream::iter(replicas)
            .map(|(i, id)| async move { (i, self.runtime.usage(&id).await) })
            .buffer_unordered(PARALLEL);
        let collect = async {
            while let Some((i, usage)) = readings.next().await {
                // One that fails is most likely gone since the view was published.
                if let Ok(usage) = usage {
                    let sum = found[i].get_or_insert_default();
                    sum.cpu += usage.cpu;
                    sum.memory += usage.memory;
                }
            }
        };
        if tokio::time::timeout(TIME, collect).await.is_err() {
            tracing::warn!("the engine did not say in time what all functions use; metrics leave some out");
        }
        let usage = |(entry, usage): (&Arc<Entry>, Option<Usage>)| {
            Some(FunctionUsage { key: entry.key.clone(), usage: usage? })
        };
        entries.iter().zip(found).filter_map(usage).collect()
    }
}

/// Writes the families of usage.
pub(super) fn write(text: &mut Text, usages: &[FunctionUsage]) {
    text.family("pod_cpu_usage_seconds_total", Kind::Counter, "Processor time of the replicas that run.");
    for FunctionUsage { key, usage } in usages {
        labels(key, |labels| text.sample("pod_cpu_usage_seconds_total", labels, usage.cpu.as_secs_f64()));
    }
    text.family("pod_memory_working_set_bytes", Kind::Gauge, "Memory of the replicas that run.");
    for FunctionUsage { key, usage } in usages {
        labels(key, |labels| text.sample("pod_memory_working_set_bytes", labels, usage.memory));
    }
}

fn labels(key: &FunctionKey, write: impl FnOnce(&[(&str, &str)])) {
    write(&[("function_name", &key.to_string()), ("namespace", key.namespace.as_str())]);
}
