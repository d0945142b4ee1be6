//! What is kept of functions that are called by themselves. What it is made of is the cron room's to know.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::jobs::{inline, job_key};
use super::writer::Operation;
use super::{Store, StoreError, delete, encode, owned, owned_key, owner_of, understand};
use model::function::{FunctionKey, Incarnation};

/// Rows of timers.
pub(super) const TIMERS: &str = "timer/";

/// The timer of one life of a function, if that can be read.
pub type StoredTimer<T> = (FunctionKey, Incarnation, Result<T, StoreError>);

impl Store {
    /// Every timer; one that cannot be read is an error of its own, and hides no other.
    pub fn timers<T: DeserializeOwned>(&self) -> Result<Vec<StoredTimer<T>>, StoreError> {
        let mut timers = Vec::new();
        let sled = &self.sled;
        for row in sled.database.db()?.scan_prefix(TIMERS) {
            let (key, value) = row.map_err(|error| StoreError::failed(format!("reading {TIMERS}"), error))?;
            let key = String::from_utf8_lossy(&key).into_owned();
            let (function, incarnation) = owner_of(&key[TIMERS.len()..]).ok_or_else(|| {
                StoreError::failed("reading the store", format!("{key} belongs to no function"))
            })?;
            let timer = match sled.value(key.as_bytes(), value) {
                Ok(Some(bytes)) => understand(&key, &bytes),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            timers.push((function, incarnation, timer));
        }
        Ok(timers)
    }

    /// Keeps a call that is to be made, and its timer, in one write: there is none of both or both. Nothing is kept of
    /// a life of the function that has ended by then. Returns when it is on disk.
    pub async fn put_run(
        &self,
        function: &FunctionKey,
        incarnation: &Incarnation,
        number: u64,
        job: Vec<u8>,
        timer: Vec<u8>,
    ) -> Result<(), StoreError> {
        let rows = vec![(job_key(number), inline(job)), (key(function, incarnation), timer)];
        self.sled.writer.write(vec![owned(function, incarnation, rows)]).await
    }

    /// Keeps a timer, unless that life of its function has ended by then; returns when it is on disk.
    pub async fn put_timer(
        &self,
        function: &FunctionKey,
        incarnation: &Incarnation,
        timer: &impl Serialize,
    ) -> Result<(), StoreError> {
        self.sled.writer.write(vec![put(function, incarnation, timer)?]).await
    }

    /// The same without waiting: it reaches the disk with the next flush.
    pub fn put_timer_soon(
        &self,
        function: &FunctionKey,
        incarnation: &Incarnation,
        timer: &impl Serialize,
    ) -> Result<(), StoreError> {
        self.sled.writer.write_soon(vec![put(function, incarnation, timer)?]);
        Ok(())
    }

    /// Forgets a timer soon.
    pub fn delete_timer(&self, function: &FunctionKey, incarnation: &Incarnation) {
        self.sled.writer.write_soon(vec![delete(&key(function, incarnation))]);
    }
}

/// Where a function's timer is.
pub(super) fn key(function: &FunctionKey, incarnation: &Incarnation) -> String {
    owned_key(TIMERS, function, incarnation)
}

fn put(
    function: &FunctionKey,
    incarnation: &Incarnation,
    timer: &impl Serialize,
) -> Result<Operation, StoreError> {
    let key = key(function, incarnation);
    let value = encode(&key, timer)?;
    Ok(owned(function, incarnation, vec![(key, value)]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[tokio::test]
    async fn a_run_and_its_timer_are_there_together_and_go_with_their_function() {
        let state = temporary::TemporaryDirectory::new();
        let store = Store::open(state.path()).expect("a store");
        let env = FunctionKey::parse("env").expect("a name");
        // The one that `record` has.
        let life = Incarnation::new(1);
        let timers = |store: &Store| store.timers::<u32>().expect("readable").len();
        store.put_run(&env, &life, 1, b"job".to_vec(), b"7".to_vec()).await.expect("written");
        assert_eq!((store.job(1).expect("readable"), timers(&store)), (None, 0), "there is no such function");
        store.put_function(&record("env", "one")).await.expect("written");
        store.put_run(&env, &life, 2, b"job".to_vec(), b"7".to_vec()).await.expect("written");
        store.put_run(&env, &Incarnation::new(2), 3, b"job".to_vec(), b"7".to_vec()).await.expect("written");
        assert_eq!((store.job(3).expect("readable"), timers(&store)), (None, 1), "of another life");
        drop(store);
        let store = Store::open(state.path()).expect("a store");
        assert_eq!(store.job(2).expect("readable").as_deref(), Some(&b"job"[..]));
        let read = store.timers::<u32>().expect("readable").into_iter();
        let read: Vec<_> = read.map(|(key, life, timer)| (key, life, timer.ok())).collect();
        assert_eq!(read, [(env.clone(), life.clone(), Some(7))]);
        store.put_timer(&env, &life, &"words").await.expect("written");
        let [(_, _, Err(_))] = &store.timers::<u32>().expect("readable")[..] else {
            panic!("it is no number, and is there all the same")
        };
        store.delete_function(&env).await.expect("written");
        store.put_timer_soon(&env, &life, &8_u32).expect("sent");
        store.put_timer(&env, &life, &9_u32).await.expect("written");
        assert_eq!(timers(&store), 0, "nothing is kept of what is gone");
    }
}
