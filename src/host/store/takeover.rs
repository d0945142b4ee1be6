//! Takes over the store of an earlier version, which had functions and namespaces on sled.
//!
//! ```text
//! files of functions -> synced -> the identity -> synced -> rows that name lives, and the format, on sled
//! ```
//!
//! From the identity on the files count, and before it sled. The format's number on sled is raised last: an older
//! version refuses the store instead of seeing no functions. Cut at any point, the next start goes on. Rows of
//! functions stay on sled, as they were at that time, until somebody prunes them.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::blobs::LargeValues;
use super::functions::Functions;
use super::identity;
use super::{
    COUNTS, FunctionRecord, RevisionRecord, SCHEMA, SCHEMA_KEY, StoreError, owned_key, timers, understand,
};
use crate::private_file;
use model::function::FunctionKey;
use model::wire;

/// Opens the files of functions, and makes them of what is on sled if that was not done before. Refuses a store of a
/// later version. Runs before there is a writer.
pub(super) fn open(state_dir: &Path, db: &sled::Db, large: &LargeValues) -> Result<Functions, StoreError> {
    let found: u32 = get(db, large, SCHEMA_KEY)?.unwrap_or(0);
    if found > SCHEMA {
        return Err(StoreError::Newer { found, known: SCHEMA });
    }
    let has_files = || state_dir.join("functions").exists();
    if !identity::is_given(state_dir) && (found == SCHEMA || found == 0 && has_files()) {
        // Somebody has moved it away.
        identity::give(state_dir, None)?;
    }
    if !identity::is_given(state_dir) {
        for directory in ["functions", "namespaces"] {
            put_unfinished(state_dir, directory).map_err(|error| failed(state_dir, error))?;
        }
        let functions = Functions::open(state_dir)?;
        write_files(db, large, &functions)?;
        identity::give(state_dir, None)?;
        if found > 0 {
            tracing::info!(functions = functions.count(), "functions are taken over into files, one each");
        }
    }
    let functions = Functions::open(state_dir)?;
    if found < SCHEMA {
        raise(db, large, &functions)?;
    }
    Ok(functions)
}

/// Puts what an attempt has made that was cut off out of the way.
fn put_unfinished(state_dir: &Path, directory: &str) -> io::Result<()> {
    let (from, to) = (state_dir.join(directory), state_dir.join(format!("{directory}.unfinished")));
    if from.exists() {
        private_file::if_there(std::fs::remove_dir_all(&to))?;
        std::fs::rename(from, to)?;
    }
    Ok(())
}

fn write_files(db: &sled::Db, large: &LargeValues, functions: &Functions) -> Result<(), StoreError> {
    for mut record in scan::<FunctionRecord>(db, large, "function/")? {
        let prefix = format!("revision/{}/{}/", record.key.namespace, record.key.name);
        record.revisions = scan::<RevisionRecord>(db, large, &prefix)?;
        functions.write(&record)?;
    }
    for namespace in scan::<wire::Namespace>(db, large, "namespace/")? {
        functions.write_namespace(&namespace)?;
    }
    Ok(())
}

/// Has rows of functions name their lives, and says that this is done.
fn raise(db: &sled::Db, large: &LargeValues, functions: &Functions) -> Result<(), StoreError> {
    let mut batch = sled::Batch::default();
    for prefix in [COUNTS, timers::TIMERS] {
        for row in db.scan_prefix(prefix) {
            let (key, stored) = row.map_err(reading)?;
            let text = String::from_utf8_lossy(&key);
            let function = text[prefix.len()..].split_once('/').and_then(|(namespace, name)| {
                Some(FunctionKey::new(name.parse().ok()?, namespace.parse().ok()?))
            });
            let Some(function) = function else { continue };
            if let Some(incarnation) = functions.incarnation(&function) {
                batch.insert(owned_key(prefix, &function, &incarnation).as_bytes(), stored);
                batch.remove(key);
            }
        }
    }
    batch.insert(SCHEMA_KEY, large.store(SCHEMA.to_string().as_bytes())?);
    db.apply_batch(batch).map_err(|error| StoreError::failed("writing the store's format", error))
}

/// Returns the keys of rows that were taken over and are kept as they were.
pub(super) fn kept(db: &sled::Db) -> Result<Vec<String>, StoreError> {
    let rows =
        ["function/", "revision/", "namespace/"].into_iter().flat_map(|prefix| db.scan_prefix(prefix).keys());
    rows.map(|key| key.map(|key| String::from_utf8_lossy(&key).into_owned()).map_err(reading)).collect()
}

fn get<T: DeserializeOwned>(db: &sled::Db, large: &LargeValues, key: &str) -> Result<Option<T>, StoreError> {
    let Some(stored) = db.get(key).map_err(reading)? else { return Ok(None) };
    understand(key, &large.resolve(&stored)?).map(Some)
}

/// Returns the rows that can be read, and names the others: they stay where they are.
fn scan<T: DeserializeOwned>(db: &sled::Db, large: &LargeValues, prefix: &str) -> Result<Vec<T>, StoreError> {
    let mut rows = Vec::new();
    for row in db.scan_prefix(prefix) {
        let (key, stored) = row.map_err(reading)?;
        let key = String::from_utf8_lossy(&key).into_owned();
        match large.resolve(&stored).and_then(|value| understand(&key, &value)) {
            Ok(value) => rows.push(value),
            Err(error) => {
                tracing::error!(
                    row = key,
                    error = &error as &dyn std::error::Error,
                    "a row of an earlier version cannot be taken over; it stays in the store"
                );
            }
        }
    }
    Ok(rows)
}

fn reading(error: sled::Error) -> StoreError {
    StoreError::failed("reading the store of an earlier version", error)
}

fn failed(state_dir: &Path, error: io::Error) -> StoreError {
    StoreError::failed(format!("taking over the store in {}", state_dir.display()), error)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::Store;
    use super::*;

    /// A state directory that ingle 0.1.0 of format 1 (d52f2a7) has left: functions `hello` with two revisions, `long.name`
    /// with a long variable, `zero` without replicas, and `timed` in namespace `team`, which its schedule has called
    /// once; four queued calls and two records.
    const FORMAT_1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/store/fixtures/state-1.tar.gz");

    fn unpack(to: &Path, members: &[&str]) {
        let unpacked = Command::new("tar").arg("-xzf").arg(FORMAT_1).arg("-C").arg(to).args(members).status();
        assert!(unpacked.expect("tar").success());
    }

    /// All that a store says.
    fn contents(store: &Store) -> String {
        let functions = store.functions().expect("readable").into_iter().map(|record| {
            let revisions: Vec<_> = record.revisions.iter().map(|revision| revision.number).collect();
            let variables = record
                .wanted
                .deployment
                .env_vars
                .map_or(0, |variables| variables.values().map(String::len).sum());
            let counts =
                store.counts::<serde_json::Value>(&record.key, &record.incarnation).expect("readable");
            let has_counts = counts.is_some();
            format!(
                "{} {} {} {} {revisions:?} {variables} {has_counts}",
                record.key,
                record.wanted.number,
                record.desired,
                record.wanted.digest.len(),
            )
        });
        let mut lines: Vec<String> = functions.collect();
        lines.extend(store.namespaces().expect("readable").into_iter().map(|namespace| namespace.name));
        let timers = store.timers::<serde_json::Value>().expect("readable").into_iter();
        lines.extend(timers.map(|(function, life, row)| {
            let is_own = store.incarnation(&function) == Some(life);
            format!("timer {function} {is_own} {}", row.expect("readable")["counts"]["accepted"])
        }));
        lines.push(format!("{} jobs, {} records", store.jobs().count(), store.call_records().count()));
        lines.join("\n")
    }

    const EXPECTED: &str = "\
hello.openfaas-fn 2 1 71 [1, 2] 1 true
long.name.openfaas-fn 1 1 71 [1] 12000 false
zero.openfaas-fn 1 0 71 [1] 0 true
timed.team 1 1 71 [1] 0 true
team
timer timed.team true 1
4 jobs, 2 records";

    #[tokio::test]
    async fn the_store_of_format_1_is_taken_over_once() {
        let state = temporary::TemporaryDirectory::new();
        unpack(state.path(), &[]);
        let lives = |store: &Store| {
            let functions = store.functions().expect("readable").into_iter();
            functions.map(|record| record.incarnation).collect::<Vec<_>>()
        };
        let store = Store::open(state.path()).expect("opens");
        assert_eq!(contents(&store), EXPECTED);
        let (first, identity) = (lives(&store), store.identity().to_owned());
        store.delete_function(&FunctionKey::parse("zero").expect("a name")).await.expect("deleted");
        store.close().await;
        drop(store);
        let store = Store::open(state.path()).expect("opens again");
        assert_eq!(store.identity(), identity);
        assert!(lives(&store).iter().all(|life| first.contains(life)), "a life begins once");
        assert_eq!(store.functions_count(), 3, "what was removed since does not come back");
        assert_eq!(
            store.prune().await.expect("pruned"),
            10,
            "functions, revisions and a namespace of format 1"
        );
        assert_eq!(store.functions_count(), 3);
    }

    #[tokio::test]
    async fn a_takeover_that_was_cut_off_is_gone_on_with() {
        // What is left of a whole takeover, put back to what is there at each of its steps.
        let state = temporary::TemporaryDirectory::new();
        unpack(state.path(), &[]);
        drop(Store::open(state.path()).expect("opens"));
        let cuts: [(&str, Cut); 4] = [
            ("before the second file", |state| {
                std::fs::remove_file(state.join("identity")).expect("removed");
                std::fs::remove_dir_all(state.join("namespaces")).expect("removed");
                std::fs::remove_file(state.join("functions/openfaas-fn/zero.json")).expect("removed");
                std::fs::write(state.join("functions/openfaas-fn/hello.json"), "torn").expect("torn");
                old_db(state);
            }),
            ("before the identity", |state| {
                std::fs::remove_file(state.join("identity")).expect("removed");
                old_db(state);
            }),
            ("before the format", old_db),
            ("at its end", |_| {}),
        ];
        for (moment, cut) in cuts {
            cut(state.path());
            let store = Store::open(state.path()).expect("opens");
            assert_eq!(contents(&store), EXPECTED, "{moment}");
            assert_eq!(store.set_aside(), [], "{moment}");
            store.close().await;
        }
    }

    /// Puts the state directory back to what it is at a moment of a takeover.
    type Cut = fn(&Path);

    fn old_db(state: &Path) {
        for directory in ["db", "large"] {
            std::fs::remove_dir_all(state.join(directory)).expect("removed");
        }
        unpack(state, &["db", "large"]);
    }

    #[test]
    fn an_identity_that_was_moved_away_is_no_reason_to_take_anything_over() {
        let state = temporary::TemporaryDirectory::new();
        unpack(state.path(), &[]);
        drop(Store::open(state.path()).expect("opens"));
        std::fs::remove_file(state.path().join("functions/openfaas-fn/zero.json")).expect("removed");
        std::fs::remove_file(state.path().join("identity")).expect("removed");
        let store = Store::open(state.path()).expect("opens");
        assert_eq!(store.functions_count(), 3, "the files count");
    }
}
