use super::*;
use crate::network::Leases as _;

fn key(name: &str) -> FunctionKey {
    FunctionKey::parse(name).expect("a name")
}

pub(super) fn record(name: &str, text: &str) -> FunctionRecord {
    let deployment = wire::Deployment {
        service: name.into(),
        image: "a/b:1".into(),
        env_process: Some(text.into()),
        ..Default::default()
    };
    FunctionRecord {
        key: key(name),
        incarnation: Incarnation::new(1),
        wanted: RevisionRecord {
            number: 1,
            deployment,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            digest: "sha256:0".into(),
            manifest_digest: "sha256:1".into(),
            size: 7,
            config: crate::runtime::ImageConfig::default(),
            default_memory: true,
        },
        serving: None,
        desired: 1,
        last_revision: 1,
        failure: None,
        node: None,
        revisions: Vec::new(),
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let dir = temporary::TemporaryDirectory::new();
    let big = "x".repeat(100_000);
    {
        let store = Store::open(dir.path()).expect("opens");
        store.put_function(&record("small", "cat")).await.expect("written");
        store.put_function(&record("big", &big)).await.expect("written");
        store.put_function(&record("gone", "cat")).await.expect("written");
        store.delete_function(&key("gone")).await.expect("deleted");
        store.put_counts(&[(key("small"), Incarnation::new(1), 42u64)]).expect("encodes");
        store.put([10, 62, 0, 2].into(), &ReplicaId::from_existing("small-1"));
        store.close().await;
    }
    let store = Store::open(dir.path()).expect("opens again");
    let mut functions = store.functions().expect("readable");
    functions.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(functions.iter().map(|f| f.key.name.as_str()).collect::<Vec<_>>(), ["big", "small"]);
    assert_eq!(functions[0].wanted.deployment.env_process.as_deref(), Some(big.as_str()));
    assert_eq!(store.counts::<u64>(&key("small"), &Incarnation::new(1)).expect("readable"), Some(42));
    assert_eq!(store.leases().expect("readable").len(), 1);
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("large")).expect("listed").count()
}

/// Keeps a row with this text in sled.
async fn put_row(store: &Store, row: &str, text: &str) {
    let operation = super::put(row, &text).expect("encodes");
    store.sled.writer.write(vec![operation]).await.expect("written");
}

async fn delete_row(store: &Store, row: &str) {
    store.sled.writer.write(vec![delete(row)]).await.expect("deleted");
}

#[tokio::test]
async fn the_file_of_a_value_is_removed_when_no_row_names_it() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    let (long, other) = ("x".repeat(50_000), "y".repeat(50_000));
    put_row(&store, "row/a", &long).await;
    put_row(&store, "row/b", &long).await;
    assert_eq!(files(dir.path()), 1, "the same content");
    put_row(&store, "row/a", &other).await;
    assert_eq!(files(dir.path()), 2);
    put_row(&store, "row/b", "short").await;
    assert_eq!(files(dir.path()), 1, "replaced in both");
    // A removed value is written once more.
    put_row(&store, "row/b", &long).await;
    put_row(&store, "row/b", &long).await;
    assert_eq!(files(dir.path()), 2);
    delete_row(&store, "row/a").await;
    assert_eq!(files(dir.path()), 1);
    // A value is replaced before it was ever on disk.
    for text in [&long, &other] {
        let operation = super::put("row/c", text).expect("encodes");
        store.sled.writer.write_soon(vec![operation]);
    }
    delete_row(&store, "row/c").await;
    assert_eq!(files(dir.path()), 1);
    assert_eq!(store.sled.get::<String>("row/b").expect("readable"), Some(long));
}

#[tokio::test]
async fn files_left_by_a_crash_are_removed_when_the_store_opens() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    put_row(&store, "row/a", &"x".repeat(50_000)).await;
    store.close().await;
    drop(store);
    for left in ["0".repeat(64), format!("{}.partial", "1".repeat(64))] {
        std::fs::write(dir.path().join("large").join(left), b"left").expect("written");
    }
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!(files(dir.path()), 1);
    // Rows from before the start are counted, too.
    delete_row(&store, "row/a").await;
    assert_eq!(files(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_can_be_read_while_it_is_replaced() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Arc::new(Store::open(dir.path()).expect("opens"));
    put_row(&store, "row/a", "cat").await;
    let reading = std::thread::spawn({
        let store = store.clone();
        move || {
            let mut reads = 0;
            // The writer may still hold the old file.
            while Arc::strong_count(&store) > 1 {
                let read = store.sled.get::<String>("row/a");
                assert!(read.expect("readable").is_some());
                reads += 1;
            }
            reads
        }
    });
    for n in 0..200 {
        put_row(&store, "row/a", &n.to_string().repeat(20_000)).await;
    }
    assert_eq!(files(dir.path()), 1);
    drop(store);
    assert!(reading.join().expect("no panic") > 0);
}

#[tokio::test]
async fn counts_are_those_of_one_life_of_a_function() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    let life = Incarnation::new;
    let counts = |store: &Store, n| store.counts::<u64>(&key("a"), &life(n)).expect("readable");
    let put =
        |store: &Store, n, count: u64| store.put_counts(&[(key("a"), life(n), count)]).expect("encodes");
    let deploy = async |store: &Store, n| {
        let record = FunctionRecord { incarnation: life(n), ..record("a", "cat") };
        store.put_function(&record).await.expect("written");
    };
    let settle = async |store: &Store| put_row(store, "row/a", "written after").await;
    put(&store, 1, 1);
    settle(&store).await;
    assert_eq!(counts(&store, 1), None, "there is no such function yet");
    deploy(&store, 1).await;
    put(&store, 1, 2);
    settle(&store).await;
    assert_eq!(counts(&store, 1), Some(2));
    let tombstone = store.delete_function(&key("a")).await.expect("deleted").expect("it was there");
    put(&store, 1, 3);
    settle(&store).await;
    assert_eq!(counts(&store, 1), None, "they go with the function, and none comes later");
    deploy(&store, 2).await;
    put(&store, 1, 4);
    settle(&store).await;
    assert_eq!((counts(&store, 1), counts(&store, 2)), (None, None), "a namesake inherits nothing");
    put(&store, 2, 5);
    store.forget(&tombstone).await.expect("forgotten");
    assert_eq!(counts(&store, 2), Some(5), "the end of the removal is that of the first");
    store.close().await;
    drop(store);
    assert_eq!(counts(&Store::open(dir.path()).expect("opens again"), 2), Some(5));
}

#[tokio::test]
async fn a_removal_is_known_until_it_is_forgotten_also_after_a_restart() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    for name in ["a", "a.b"] {
        store.put_function(&record(name, "cat")).await.expect("written");
    }
    let tombstone = store.delete_function(&key("a")).await.expect("deleted").expect("it was there");
    assert_eq!(store.delete_function(&key("a")).await.expect("nothing to do"), None);
    let again = FunctionRecord { incarnation: Incarnation::new(2), ..record("a", "cat") };
    store.put_function(&again).await.expect("written");
    store.close().await;
    drop(store);
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!(store.tombstones(), std::slice::from_ref(&tombstone));
    assert_eq!(store.function(&key("a")).expect("readable"), Some(again));
    store.forget(&tombstone).await.expect("forgotten");
    store.close().await;
    drop(store);
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!((store.tombstones(), store.functions_count()), (Vec::new(), 2));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_set_aside_and_hides_no_other() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    for name in ["a", "b", "c", "d", "sound"] {
        store.put_function(&record(name, "cat")).await.expect("written");
    }
    store.close().await;
    drop(store);
    let file = |name: &str| dir.path().join("functions/openfaas-fn").join(name);
    let text = std::fs::read_to_string(file("a.json")).expect("readable");
    std::fs::write(file("a.json"), text.replace("cat", "dog")).expect("edited");
    std::fs::write(file("b.json"), &text[..100]).expect("cut");
    std::fs::write(file("c.json"), text.replace("\"format\": 1", "\"format\": 9"))
        .expect("of a later version");
    std::fs::rename(file("d.json"), file("e.json")).expect("renamed by a person");
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!(store.functions().expect("readable"), [record("sound", "cat")]);
    let mut named: Vec<_> =
        store.set_aside().into_iter().map(|aside| (aside.subject, aside.reason)).collect();
    named.sort();
    let [a, b, c, e] = &named[..] else { panic!("{named:?}") };
    assert!(a.0 == "function a.openfaas-fn" && a.1.contains("was edited"), "{a:?}");
    assert!(b.0 == "function b.openfaas-fn" && b.1.contains("no JSON"), "{b:?}");
    assert!(c.0 == "function c.openfaas-fn" && c.1.contains("later version"), "{c:?}");
    assert!(e.0 == "function e.openfaas-fn" && e.1.contains("that of function d"), "{e:?}");
    assert!(file("c.json").exists(), "it is sound, and stays where a later version finds it");
    assert!(store.has_function(&key("a")), "its output is kept");
    // What a person has edited is there to be accepted.
    let (path, edited) = store.edited_function(&key("a")).expect("readable").expect("set aside");
    assert_eq!(edited.wanted.deployment.env_process.as_deref(), Some("dog"));
    assert!(store.edited_function(&key("b")).is_err());
    store.put_function(&edited).await.expect("written");
    store.discard(path).await.expect("discarded");
    let refused = store.put_function(&record("c", "cat")).await.expect_err("never overwritten").to_string();
    assert!(refused.contains("later version"), "{refused}");
    // Also while the store is open.
    std::fs::write(file("a.json"), &text).expect("edited");
    store.put_function(&edited).await.expect("written");
    assert_eq!(store.function(&key("a")).expect("readable"), Some(edited));
    let asides =
        |store: &Store| store.set_aside().iter().filter(|aside| aside.function == Some(key("a"))).count();
    assert_eq!(asides(&store), 1);
    store.close().await;
    drop(store);
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!(asides(&store), 1, "it is named until somebody has looked");
}

#[tokio::test]
async fn a_namespace_that_cannot_be_used_hides_no_other() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    for name in ["a", "b"] {
        let namespace = wire::Namespace { name: name.into(), ..wire::Namespace::default() };
        store.put_namespace(&name.parse().expect("a name"), &namespace).await.expect("written");
    }
    store.close().await;
    drop(store);
    let file = dir.path().join("namespaces/a.json");
    let text = std::fs::read_to_string(&file).expect("readable");
    std::fs::write(&file, text.replace("\"format\": 1", "\"format\": 9")).expect("of a later version");
    let store = Store::open(dir.path()).expect("opens again");
    let names: Vec<_> = store.namespaces().expect("readable").into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["b"]);
    let [aside] = &store.set_aside()[..] else { panic!("it is not named") };
    assert_eq!(aside.subject, "namespace a");
}

#[test]
fn a_first_start_that_was_cut_off_begins_anew_and_a_damaged_store_does_not() {
    let dir = temporary::TemporaryDirectory::new();
    // All that is left is a store whose settings are torn.
    let damage = || {
        for name in ["identity", "functions", "namespaces"] {
            let path = dir.path().join(name);
            std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)).expect("removed");
        }
        let conf = dir.path().join("db/conf");
        let mut settings = std::fs::read(&conf).expect("readable");
        settings[20..].fill(0);
        std::fs::write(&conf, settings).expect("torn");
    };
    drop(Store::open(dir.path()).expect("opens"));
    damage();
    drop(Store::open(dir.path()).expect("opens"));
    // As a store of format 1: it was used, and holds functions.
    std::fs::create_dir(dir.path().join("secrets")).expect("made");
    damage();
    let error = Store::open(dir.path()).expect_err("a person has to look at it").to_string();
    assert!(error.contains("opening the store"), "{error}");
    assert!(dir.path().join("db/conf").exists());
}

#[tokio::test]
async fn revisions_that_are_kept_are_in_use() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    let kept =
        |number| RevisionRecord { number, digest: format!("sha256:{number}"), ..RevisionRecord::default() };
    let record = FunctionRecord { revisions: vec![kept(9), kept(10)], ..record("a", "cat") };
    store.put_function(&record).await.expect("written");
    let in_use = |store: &Store| {
        let uses = store.revisions_in_use().into_iter();
        uses.map(|used| (used.revision, used.digest, used.is_old)).collect::<Vec<_>>()
    };
    let expected = [(1, "sha256:0", false), (9, "sha256:9", true), (10, "sha256:10", true)];
    let expected = expected.map(|(number, digest, old)| (number, digest.to_owned(), old));
    assert_eq!(in_use(&store), expected);
    store.close().await;
    drop(store);
    let store = Store::open(dir.path()).expect("opens again");
    assert_eq!(in_use(&store), expected);
    store.delete_function(&key("a")).await.expect("deleted");
    assert_eq!(in_use(&store), []);
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_serves_functions_and_says_why() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Store::open(dir.path()).expect("opens");
    store.put_function(&record("a", "cat")).await.expect("written");
    store.close().await;
    drop(store);
    std::fs::remove_file(dir.path().join("db/conf")).expect("removed");
    std::fs::create_dir(dir.path().join("db/conf")).expect("something that sled cannot read");
    let store = Store::open(dir.path()).expect("opens all the same");
    assert_eq!(store.functions_count(), 1);
    store.put_function(&record("b", "cat")).await.expect("functions can be deployed");
    let error = store.put_job(1, b"job".to_vec()).await.expect_err("out of service").to_string();
    assert!(error.contains("cannot be opened") && error.contains("ingle store"), "{error}");
    assert!(store.absence().is_some());
    assert!(store.jobs().next().is_some_and(|row| row.is_err()));
}

#[tokio::test]
async fn left_over_and_torn_snapshots_do_not_keep_it_from_opening() {
    let dir = temporary::TemporaryDirectory::new();
    {
        let store = Store::open(dir.path()).expect("opens");
        store.put_function(&record("a", "cat")).await.expect("written");
        store.close().await;
    }
    std::fs::write(dir.path().join("db/snap.00000000000000FF.generating"), b"").expect("written");
    assert_eq!(Store::open(dir.path()).expect("opens").functions().expect("readable").len(), 1);
    for entry in std::fs::read_dir(dir.path().join("db")).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            std::fs::write(path, b"torn").expect("written");
        }
    }
    assert_eq!(Store::open(dir.path()).expect("opens").functions().expect("readable").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_at_once_all_get_through() {
    let dir = temporary::TemporaryDirectory::new();
    let store = Arc::new(Store::open(dir.path()).expect("opens"));
    let writers: Vec<_> = (0..64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    store.put_function(&record(&format!("f{n}"), "cat")).await.expect("written");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    assert_eq!(store.functions().expect("readable").len(), 64);
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let dir = temporary::TemporaryDirectory::new();
    drop(Store::open(dir.path()).expect("opens"));
    {
        let db = sled::open(dir.path().join("db")).expect("opens");
        db.insert(SCHEMA_KEY, format!("={}", SCHEMA + 1).as_bytes()).expect("written");
    }
    let error = Store::open(dir.path()).expect_err("refused").to_string();
    assert!(error.contains("later version"), "{error}");
}
