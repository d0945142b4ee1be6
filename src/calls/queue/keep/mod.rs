//! Keeping of calls that have ended: dead letters and records, how they are found, and which of them are evicted.

mod cancel;
pub(super) mod dead_letter;
mod expire;
pub(super) mod fair_share;
pub(super) mod index;
pub(super) mod query;
pub(super) mod record;

use super::Queue;

impl Queue {
    /// Looks through what is kept, on a thread of its own: there may be much.
    async fn look_through<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Self) -> Vec<T> + Send + 'static,
    ) -> Vec<T> {
        let queue = self.clone();
        self.0.runtime.spawn_blocking(move || look(&queue)).await.unwrap_or_default()
    }
}
