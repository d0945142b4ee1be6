//! All of it as one text.

use std::sync::Arc;

use super::exposition::{Kind, Text};
use super::usage::UsageReader;
use super::{ApiStats, cron, functions, process, queue, usage};
use calls::queue::Queue;
use calls::triggers::cron::Cron;
use directory::Directory;
use host::logs::Logs;
use host::runtime::Runtime;

/// Where the numbers are.
#[derive(Debug)]
pub struct Scrape {
    directory: Arc<Directory>,
    usage: UsageReader,
    queue: Queue,
    cron: Cron,
    api: Arc<ApiStats>,
    logs: Arc<Logs>,
}

impl Scrape {
    /// The metrics of these functions, of what `runtime` says they use, of the queue, of timers, and of the API.
    pub fn new(
        directory: Arc<Directory>,
        runtime: Arc<dyn Runtime>,
        queue: Queue,
        cron: Cron,
        api: Arc<ApiStats>,
        logs: Arc<Logs>,
    ) -> Self {
        Self { directory, usage: UsageReader::new(runtime), queue, cron, api, logs }
    }

    /// The metrics now, as Prometheus text.
    pub async fn text(&self) -> String {
        let entries = self.directory.all();
        let usages = self.usage.read(&entries).await;
        let mut text = Text::default();
        text.family("ingle_build_info", Kind::Gauge, "Which ingle this is.");
        let version = [("version", crate::VERSION), ("commit", crate::COMMIT)];
        text.sample("ingle_build_info", &version, 1);
        functions::write(&mut text, &entries, &self.logs);
        usage::write(&mut text, &usages);
        queue::write(&mut text, &self.queue);
        cron::write(&mut text, &self.cron);
        self.api.write(&mut text);
        process::write(&mut text);
        text.finish()
    }
}
