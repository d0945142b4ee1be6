//! Calls that are made later, and those that were given up. What they are made of is the queue's to know.

use super::numbers::{self, JOBS};
use super::writer::Operation;
use super::{Store, StoreError, blobs, delete};

/// Rows of calls that were given up.
const DEAD: &str = "dead/";

/// Rows of calls that have ended, and are remembered.
const RECORDS: &str = "call/";
/// Rows of queues that are paused.
const PAUSED: &str = "paused/";

/// What is left of a call that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftJob {
    /// It was given up, and is kept in this form.
    pub dead: Option<Vec<u8>>,
    /// What is remembered of it.
    pub record: Option<Vec<u8>>,
    /// Another one that follows from it.
    pub follower: Option<StoredJob>,
}

/// A call as it is stored, with its number.
pub type StoredJob = (u64, Vec<u8>);

impl Store {
    /// Keeps a call; returns when it is on disk.
    pub async fn put_job(&self, number: u64, job: Vec<u8>) -> Result<(), StoreError> {
        self.sled.writer.write(vec![put(JOBS, number, job)]).await
    }

    /// Forgets a call that was made; returns when that is on disk.
    pub async fn delete_job(&self, number: u64) -> Result<(), StoreError> {
        self.sled.writer.write(vec![delete(&key(JOBS, number))]).await
    }

    /// A call has ended: it is not to be made any more. All that is left of it is written with that; returns when it
    /// is on disk.
    pub async fn end_job(&self, number: u64, left: LeftJob) -> Result<(), StoreError> {
        let LeftJob { dead, record, follower } = left;
        let mut operations = vec![delete(&key(JOBS, number))];
        operations.extend(dead.map(|job| put(DEAD, number, job)));
        operations.extend(record.map(|record| put(RECORDS, number, record)));
        operations.extend(follower.map(|(number, job)| put(JOBS, number, job)));
        self.sled.writer.write(operations).await
    }

    /// Takes a call up again that was given up, under another number and in this form; returns when that is on disk.
    pub async fn revive_job(&self, dead: u64, number: u64, job: Vec<u8>) -> Result<(), StoreError> {
        self.sled.writer.write(vec![delete(&key(DEAD, dead)), put(JOBS, number, job)]).await
    }

    /// Forgets calls that were given up; returns when that is on disk.
    pub async fn delete_dead_jobs(&self, numbers: &[u64]) -> Result<(), StoreError> {
        self.sled.writer.write(numbers.iter().map(|number| delete(&key(DEAD, *number))).collect()).await
    }

    /// Keeps what is remembered of calls in this form; returns when that is on disk.
    pub async fn put_call_records(&self, records: Vec<StoredJob>) -> Result<(), StoreError> {
        self.sled
            .writer
            .write(records.into_iter().map(|(number, record)| put(RECORDS, number, record)).collect())
            .await
    }

    /// Forgets calls that have ended; returns when that is on disk.
    pub async fn delete_call_records(&self, numbers: &[u64]) -> Result<(), StoreError> {
        self.sled.writer.write(numbers.iter().map(|number| delete(&key(RECORDS, *number))).collect()).await
    }

    /// What is remembered of a call that has ended.
    pub fn call_record(&self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.sled.bytes(&key(RECORDS, number))
    }

    /// What is remembered of calls that have ended, one after the other, in the order in which they were queued.
    pub fn call_records(&self) -> impl DoubleEndedIterator<Item = Result<StoredJob, StoreError>> {
        self.rows(RECORDS)
    }

    /// A call that is to be made.
    pub fn job(&self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.sled.bytes(&key(JOBS, number))
    }

    /// A call that was given up.
    pub fn dead_job(&self, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.sled.bytes(&key(DEAD, number))
    }

    /// Calls that are to be made, one after the other, oldest first.
    pub fn jobs(&self) -> impl DoubleEndedIterator<Item = Result<StoredJob, StoreError>> {
        self.rows(JOBS)
    }

    /// Calls that were given up, one after the other, oldest first.
    pub fn dead_jobs(&self) -> impl DoubleEndedIterator<Item = Result<StoredJob, StoreError>> {
        self.rows(DEAD)
    }

    /// Returns a number that none is beyond that a call has, or had before its rows went; 0 if there was no call.
    pub fn last_job_number(&self) -> Result<u64, StoreError> {
        let mut highest = self.sled.get(numbers::KEY)?.unwrap_or(0);
        // A store of an earlier version has no mark.
        for prefix in [JOBS, DEAD, RECORDS] {
            let Some(key) = self.sled.database.db()?.scan_prefix(prefix).keys().next_back() else { continue };
            let key = key.map_err(|error| StoreError::failed(format!("reading {prefix}"), error))?;
            highest = highest.max(number_of(prefix, &key)?);
        }
        Ok(highest)
    }

    /// How many calls were given up.
    pub fn dead_jobs_count(&self) -> Result<usize, StoreError> {
        let rows = self.sled.database.db()?.scan_prefix(DEAD).keys().map(|row| row.map(|_| 1));
        rows.sum::<sled::Result<usize>>().map_err(|error| StoreError::failed("reading the store", error))
    }

    /// Notes whether a queue is paused; returns when that is on disk.
    pub async fn pause_queue(&self, queue: &str, paused: bool) -> Result<(), StoreError> {
        let key = format!("{PAUSED}{queue}");
        let operation = if paused { Operation::Put { key, value: Vec::new() } } else { delete(&key) };
        self.sled.writer.write(vec![operation]).await
    }

    /// The names of the queues that are paused.
    pub fn paused_queues(&self) -> Result<Vec<String>, StoreError> {
        let keys = self.sled.database.db()?.scan_prefix(PAUSED).keys();
        let name = |key: sled::IVec| String::from_utf8_lossy(&key[PAUSED.len()..]).into_owned();
        keys.map(|key| key.map(name).map_err(|error| StoreError::failed("reading the store", error)))
            .collect()
    }

    fn rows(
        &self,
        prefix: &'static str,
    ) -> Box<dyn DoubleEndedIterator<Item = Result<StoredJob, StoreError>> + '_> {
        let sled = &self.sled;
        let db = match sled.database.db() {
            Ok(db) => db,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        Box::new(db.scan_prefix(prefix).filter_map(move |row| {
            let read = || {
                let (key, stored) =
                    row.map_err(|error| StoreError::failed(format!("reading {prefix}"), error))?;
                let number = number_of(prefix, &key)?;
                Ok(sled.value(&key, stored)?.map(|value| (number, value)))
            };
            read().transpose()
        }))
    }
}

fn number_of(prefix: &str, key: &[u8]) -> Result<u64, StoreError> {
    let number = std::str::from_utf8(&key[prefix.len()..]).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        StoreError::failed("reading the store", format!("{prefix} has a row without a number"))
    })
}

/// The key of a call that is to be made.
pub(super) fn job_key(number: u64) -> String {
    key(JOBS, number)
}

/// Sorts as the numbers do.
fn key(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:020}")
}

fn put(prefix: &str, number: u64, value: Vec<u8>) -> Operation {
    Operation::Put { key: key(prefix, number), value: inline(value) }
}

/// Checks that the row of a call needs no file of the store, because calls are written by the thousand: the
/// types of the queue bound everything in a row, and the rest is in the queue's own files.
pub(super) fn inline(row: Vec<u8>) -> Vec<u8> {
    debug_assert!(row.len() <= blobs::LIMIT, "the row of a call has {} bytes", row.len());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(rows: impl Iterator<Item = Result<StoredJob, StoreError>>) -> Vec<u64> {
        rows.map(|row| row.expect("readable").0).collect()
    }

    #[tokio::test]
    async fn a_call_is_in_one_place_also_after_a_restart() {
        let state = temporary::TemporaryDirectory::new();
        let store = Store::open(state.path()).expect("opened");
        let dead = |follower| LeftJob { dead: Some(b"dead".to_vec()), record: None, follower };
        for number in [2, 10, 9] {
            store.put_job(number, vec![7; blobs::LIMIT]).await.expect("kept");
        }
        store.delete_job(2).await.expect("deleted");
        store.end_job(9, dead(None)).await.expect("given up");
        store.put_job(10, b"again".to_vec()).await.expect("kept in another form");
        store.put_job(12, b"short".to_vec()).await.expect("kept");
        store.delete_job(12).await.expect("deleted");
        store.close().await;
        drop(store);
        let store = Store::open(state.path()).expect("opened again");
        assert_eq!((numbers(store.jobs()), numbers(store.dead_jobs())), (vec![10], vec![9]));
        assert_eq!(store.job(10).expect("readable").as_deref(), Some(&b"again"[..]));
        assert_eq!(store.dead_job(9).expect("readable").as_deref(), Some(&b"dead"[..]));
        assert_eq!((store.job(9).expect("readable"), store.dead_job(10).expect("readable")), (None, None));
        store.revive_job(9, 11, b"alive".to_vec()).await.expect("revived");
        store.end_job(10, dead(Some((12, b"follower".to_vec())))).await.expect("given up");
        assert_eq!((numbers(store.jobs()), numbers(store.dead_jobs())), (vec![11, 12], vec![10]));
        store.delete_dead_jobs(&[10]).await.expect("deleted");
        assert_eq!(numbers(store.dead_jobs()), [0; 0]);
    }

    #[tokio::test]
    async fn a_call_that_has_ended_is_remembered_beside_what_follows_from_it() {
        let state = temporary::TemporaryDirectory::new();
        let store = Store::open(state.path()).expect("opened");
        store.put_job(3, b"call".to_vec()).await.expect("kept");
        let left = |record: &[u8], follower| LeftJob { dead: None, record: Some(record.to_vec()), follower };
        store.end_job(3, left(b"record", Some((4, b"callback".to_vec())))).await.expect("ended");
        assert_eq!(store.job(4).expect("readable").as_deref(), Some(&b"callback"[..]));
        assert_eq!(store.call_record(3).expect("readable").as_deref(), Some(&b"record"[..]));
        store.end_job(4, left(b"other", None)).await.expect("ended");
        assert_eq!((numbers(store.jobs()), numbers(store.call_records())), (vec![], vec![3, 4]));
        store.put_call_records(vec![(4, b"in another form".to_vec())]).await.expect("kept");
        assert_eq!(store.call_record(4).expect("readable").as_deref(), Some(&b"in another form"[..]));
        store.delete_call_records(&[3, 4]).await.expect("forgotten");
        assert_eq!(numbers(store.call_records()), [0; 0]);
    }

    #[tokio::test]
    async fn a_number_is_not_given_out_twice_whatever_has_gone_since() {
        let state = temporary::TemporaryDirectory::new();
        let mut highest = 0;
        for round in 0..3 {
            let store = Store::open(state.path()).expect("opened");
            let next = store.last_job_number().expect("readable") + 1;
            assert!(next > highest, "{next} after {highest} in round {round}");
            for number in [next, next + 1, next + numbers::RESERVED * 2] {
                store.put_job(number, b"call".to_vec()).await.expect("kept");
                store.end_job(number, LeftJob::default()).await.expect("ended");
                let mark = store.last_job_number().expect("readable");
                assert!(mark >= number + numbers::RESERVED / 2, "{mark} for {number}");
                highest = number;
            }
            store.close().await;
        }
    }
}
