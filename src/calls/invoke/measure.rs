//! Counts a call: when it began, and how it ended.

use tokio::time::Instant;

use directory::Entry;

/// Counts a call from its beginning until it is dropped, however it ends.
#[derive(Debug)]
pub struct CallTimer<'a> {
    entry: &'a Entry,
    started: Instant,
    code: u16,
}

impl<'a> CallTimer<'a> {
    /// A call that began at `started`. Unless something else is said, its caller left before its end.
    pub fn begin(entry: &'a Entry, started: Instant) -> Self {
        entry.stats.started();
        Self { entry, started, code: 499 }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// It is answered with this status.
    pub fn record_status(&mut self, code: u16) {
        self.code = code;
    }
}

impl Drop for CallTimer<'_> {
    fn drop(&mut self) {
        self.entry.stats.finished(self.code, self.started.elapsed().as_secs_f64());
    }
}
