//! A lock for each function's name: requests for one name follow each other, and wait for no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use model::function::{FunctionKey, NamespaceName};
use model::sync::lock;
use tokio::sync::OwnedMutexGuard;

type NameLock = Arc<tokio::sync::Mutex<()>>;

/// The names that requests hold or wait for.
#[derive(Debug, Default)]
pub(super) struct NameLocks(Mutex<HashMap<FunctionKey, NameLock>>);

/// A name that is held, or waited for.
#[derive(Debug)]
pub(super) struct NameGuard<'a> {
    names: &'a NameLocks,
    key: FunctionKey,
    name: NameLock,
    held: Option<OwnedMutexGuard<()>>,
}

impl NameLocks {
    /// Waits until no other request holds this name.
    pub(super) async fn lock(&self, key: &FunctionKey) -> NameGuard<'_> {
        let name = lock(&self.0).entry(key.clone()).or_default().clone();
        // Before waiting: whoever is dropped meanwhile leaves nothing.
        let mut guard = NameGuard { names: self, key: key.clone(), name, held: None };
        guard.held = Some(guard.name.clone().lock_owned().await);
        guard
    }

    /// Returns a function of this namespace that a request holds or waits for.
    pub(super) fn any_of(&self, namespace: &NamespaceName) -> Option<FunctionKey> {
        lock(&self.0).keys().find(|key| key.namespace == *namespace).cloned()
    }
}

impl Drop for NameGuard<'_> {
    fn drop(&mut self) {
        let mut names = lock(&self.names.0);
        self.held = None;
        // Of the map and of this one.
        if Arc::strong_count(&self.name) == 2 {
            names.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn requests_for_one_name_follow_each_other_and_others_do_not_wait() {
        let names = NameLocks::default();
        let [one, other] = ["one", "other"].map(|name| FunctionKey::parse(name).expect("a name"));
        let held = names.lock(&one).await;
        assert!(names.lock(&other).now_or_never().is_some());
        assert!(names.lock(&one).now_or_never().is_none());
        assert_eq!(names.any_of(&one.namespace), Some(one.clone()), "the other was let go");
        let mut next = Box::pin(names.lock(&one));
        assert!(next.as_mut().now_or_never().is_none());
        drop(held);
        assert!(names.lock(&one).now_or_never().is_none(), "the next one has it");
        drop(next.await);
        let mut waiting = Box::pin(names.lock(&one));
        assert!(waiting.as_mut().now_or_never().is_some(), "nobody has it");
        drop(waiting);
        assert_eq!(names.any_of(&one.namespace), None, "nothing is left");
    }
}
