//! What is kept of functions that are called by themselves. What it is made of is the cron room's to know.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::jobs::{inline, job_key};
use super::writer::Operation;
use super::{Store, StoreError, delete, encode, function_key, function_of, understand};
use model::function::FunctionKey;

/// Rows of timers.
pub(super) const TIMERS: &str = "timer/";

/// A function's timer, if that can be read.
pub type StoredTimer<T> = (FunctionKey, Result<T, StoreError>);

impl Store {
    /// Every timer; one that cannot be read is an error of its own, and hides no other.
    pub fn timers<T: DeserializeOwned>(&self) -> Result<Vec<StoredTimer<T>>, StoreError> {
        let mut timers = Vec::new();
        for row in self.db.scan_prefix(TIMERS) {
            let (key, value) = row.map_err(|error| StoreError::failed(format!("reading {TIMERS}"), error))?;
            let key = String::from_utf8_lossy(&key).into_owned();
            let function = function_of(&key[TIMERS.len()..]).ok_or_else(|| {
                StoreError::failed("reading the store", format!("{key} belongs to no function"))
            })?;
            let timer = match self.value(key.as_bytes(), value) {
                Ok(Some(bytes)) => understand(&key, &bytes),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            timers.push((function, timer));
        }
        Ok(timers)
    }

    /// Keeps a call that is to be made, and its timer, in one write: there is none of both or both. Nothing is kept of
    /// a function that is deleted by then. Returns when it is on disk.
    pub async fn put_run(
        &self,
        function: &FunctionKey,
        number: u64,
        job: Vec<u8>,
        timer: Vec<u8>,
    ) -> Result<(), StoreError> {
        let job =
            Operation::PutBeside { owner: function_key(function), key: job_key(number), value: inline(job) };
        self.writer.write(vec![job, put(function, timer)]).await
    }

    /// Keeps a timer, unless its function is deleted by then; returns when it is on disk.
    pub async fn put_timer(&self, function: &FunctionKey, timer: &impl Serialize) -> Result<(), StoreError> {
        self.writer.write(vec![put(function, encode(&key(function), timer)?)]).await
    }

    /// The same without waiting: it reaches the disk with the next flush.
    pub fn put_timer_soon(&self, function: &FunctionKey, timer: &impl Serialize) -> Result<(), StoreError> {
        self.writer.write_soon(vec![put(function, encode(&key(function), timer)?)]);
        Ok(())
    }

    /// Forgets a timer soon.
    pub fn delete_timer(&self, function: &FunctionKey) {
        self.writer.write_soon(vec![delete(&key(function))]);
    }
}

/// Where a function's timer is.
pub(super) fn key(function: &FunctionKey) -> String {
    format!("{TIMERS}{}/{}", function.namespace, function.name)
}

fn put(function: &FunctionKey, value: Vec<u8>) -> Operation {
    Operation::PutBeside { owner: function_key(function), key: key(function), value }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[tokio::test]
    async fn a_run_and_its_timer_are_there_together_and_go_with_their_function() {
        let state = tempfile::tempdir().expect("a directory");
        let store = Store::open(state.path()).expect("a store");
        let env = FunctionKey::parse("env").expect("a name");
        let timers = |store: &Store| store.timers::<u32>().expect("readable").len();
        store.put_run(&env, 1, b"job".to_vec(), b"7".to_vec()).await.expect("written");
        assert_eq!((store.job(1).expect("readable"), timers(&store)), (None, 0), "there is no such function");
        store.put_function(&record("env", "one")).await.expect("written");
        store.put_run(&env, 2, b"job".to_vec(), b"7".to_vec()).await.expect("written");
        drop(store);
        let store = Store::open(state.path()).expect("a store");
        assert_eq!(store.job(2).expect("readable").as_deref(), Some(&b"job"[..]));
        let read = store.timers::<u32>().expect("readable").into_iter().map(|(key, timer)| (key, timer.ok()));
        assert_eq!(read.collect::<Vec<_>>(), [(env.clone(), Some(7))]);
        store.put_timer(&env, &"words").await.expect("written");
        assert!(
            store.timers::<u32>().expect("readable")[0].1.is_err(),
            "it is no number, and is there all the same"
        );
        store.delete_function(&env, &[]).await.expect("written");
        assert_eq!(timers(&store), 0);
        store.put_timer_soon(&env, &8_u32).expect("sent");
        store.put_timer(&env, &9_u32).await.expect("written");
        assert_eq!(timers(&store), 0, "nothing is kept of what is gone");
    }
}
