//! One lock per name, so that two pulls of the same thing follow each other instead of colliding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use model::sync::lock;
use tokio::sync::OwnedMutexGuard;

/// Locks by name. A lock lives as long as somebody holds it or waits for it.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits until nobody else holds `name`.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.get(name).lock_owned().await
    }

    /// The lock, unless somebody else holds `name`.
    pub(super) fn try_lock(&self, name: &str) -> Option<OwnedMutexGuard<()>> {
        self.get(name).try_lock_owned().ok()
    }

    fn get(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.0);
        locks.retain(|_, lock| lock.strong_count() > 0);
        match locks.get(name).and_then(Weak::upgrade) {
            Some(lock) => lock,
            None => {
                let lock = Arc::default();
                locks.insert(name.to_owned(), Arc::downgrade(&lock));
                lock
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn one_name_waits_and_another_does_not() {
        let locks = Locks::default();
        let held = locks.lock("a").await;
        assert!(locks.lock("b").now_or_never().is_some());
        assert!(locks.lock("a").now_or_never().is_none());
        assert!(locks.try_lock("a").is_none() && locks.try_lock("b").is_some());
        drop(held);
        assert!(locks.lock("a").now_or_never().is_some());
        locks.lock("c").await;
        assert_eq!(locks.0.lock().unwrap().len(), 1, "locks that nobody holds are forgotten");
    }
}
